"""Schedules of the learning rate: by how much it is multiplied at each step of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

ONE_CYCLE_WARMUP = 0.3  # the share of the steps in which it rises; this and both ends are those of PyTorch's OneCycleLR
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000


def rate_factors(schedule: str, steps: int, warmup: float | None = None) -> list[float] | None:
    """Returns the factor of each step, or None where all are 1.

    `constant` stays at 1, `cosine` falls from 1 to 0 (I. Loshchilov and F. Hutter, 2017); both rise linearly before,
    where there is a warm-up. `one_cycle` rises from 1/25 to 1 and falls to 1/250 000, both along cosines (L. Smith and
    N. Topin, 2018); the momentum does not move with it.

    Args:
        steps: how many there are.
        warmup: the share of them in which the rate rises; None takes 0.3 for `one_cycle`, and none for the others.
    """
    share = (ONE_CYCLE_WARMUP if schedule == "one_cycle" else 0.0) if warmup is None else warmup
    rising = round(share * steps)
    if schedule == "constant" and not rising:
        return None
    rise: Callable[[float], float] = ONE_CYCLE_RISE if schedule == "one_cycle" else float
    fall = FALLS[schedule]
    up = [rise((step + (schedule != "one_cycle")) / rising) for step in range(rising)]
    last = max(1, steps - rising - 1) if schedule == "one_cycle" else steps - rising
    return up + [fall(step / last) for step in range(steps - rising)]


def _between(start: float, end: float) -> Callable[[float], float]:
    """Returns half a cosine from one height to another, over [0, 1]."""
    return lambda share: end + (start - end) * (1 + math.cos(math.pi * share)) / 2


ONE_CYCLE_RISE = _between(ONE_CYCLE_START, 1.0)
FALLS: Mapping[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "cosine": _between(1.0, 0.0),
    "one_cycle": _between(1.0, ONE_CYCLE_END),
}
