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
    if schedule == "one_cycle":
        return _one_cycle(steps, ONE_CYCLE_WARMUP if warmup is None else warmup)
    rising = round((warmup or 0.0) * steps)
    if schedule == "constant" and not rising:
        return None
    falling = steps - rising
    return [(step + 1) / rising for step in range(rising)] + [
        FALLS[schedule](step / falling) for step in range(falling)
    ]


def _one_cycle(steps: int, share: float) -> list[float]:
    """Returns the factors of PyTorch's OneCycleLR; only where it would begin behind its highest is it begun there."""
    peak, last = max(0.0, share * steps - 1), steps - 1  # a peak may lie between two steps
    if last == peak:
        return [1.0] * steps
    return [
        ONE_CYCLE_RISE(step / peak) if step < peak else ONE_CYCLE_FALL((step - peak) / (last - peak))
        for step in range(steps)
    ]


def _between(start: float, end: float) -> Callable[[float], float]:
    """Returns half a cosine from one height to another, over [0, 1]."""
    return lambda share: end + (start - end) * (1 + math.cos(math.pi * share)) / 2


ONE_CYCLE_RISE, ONE_CYCLE_FALL = _between(ONE_CYCLE_START, 1.0), _between(1.0, ONE_CYCLE_END)
FALLS: Mapping[str, Callable[[float], float]] = {"constant": lambda share: 1.0, "cosine": _between(1.0, 0.0)}
