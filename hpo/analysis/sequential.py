"""Evidence that may be looked at after every round: e-values, and intervals that hold whenever one stops.

A p value is for one look: who measures on until it is small finds a difference between equals in the end. An e-value is
what a bet against "they are equal" has made of 1; if it is true, the chance that it ever exceeds 1/a is at most a
(J. Ville, 1939). Ours takes from "equal" no more than that a round's difference is as likely as its opposite, as a
sign-flip test does: the product of exp(b d) / cosh(b d) over the rounds' differences d cannot gain then, whatever b,
nor can the mean of several (A. Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", 2023).
Errors with the same mean and shapes that differ much, as where one configuration fails in one round of twenty, are not
equal in this sense. A round that diverged is a difference like any other, of which a bet gains at most twofold; how
often that happens is said besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hpo.analysis.statistics import CONFIDENCE, Interval

FIRST_LOOK = 10  # rounds: of fewer, one that is an outlier can decide
BETS = np.geomspace(0.1, 3.0, 8)  # on a difference of one unit: small ones for small differences
FURTHEST = 1e15  # units from the mean: beyond, an end of an interval is not looked for
HALVINGS = 60


def log_e_values(differences: Sequence[float], unit: float, mean: float = 0.0) -> npt.NDArray[np.float64]:
    """Returns the logarithm of the evidence that differences have another mean, after each of their rounds: (n,).

    Args:
        differences: (n,), round by round.
        unit: a round's deviation, as far as it is known before; whatever it is the evidence is valid, but a good one
            tells sooner.
        mean: that is doubted.
    """
    bets = np.concatenate([BETS, -BETS])[:, None] * ((np.asarray(differences) - mean) / unit)  # (2 B, n)
    gains = (bets - np.logaddexp(bets, -bets) + math.log(2)).cumsum(axis=1)
    found: npt.NDArray[np.float64] = np.logaddexp.reduce(gains, axis=0) - math.log(len(bets))
    return found


def anytime_interval(differences: Sequence[float], unit: float, level: float = 1 - CONFIDENCE) -> Interval:
    """Returns the mean of differences with an interval that holds whenever one looks, and a p value that does.

    Args:
        unit: see `log_e_values`.
        level: at most so often the true mean is outside, whenever one stops. 0 is outside where the p value is at most
            that, unless the differences have turned since.
    """
    found = log_e_values(differences, unit)
    found[: min(FIRST_LOOK, len(found)) - 1] = -math.inf
    strongest = int(found.argmax()) + 1  # rounds
    now, then = (_ends(differences[:rounds], unit, -math.log(level)) for rounds in (len(differences), strongest))
    lows, highs = ([end for end in ends if end is not None] for ends in zip(now, then, strict=True))
    low, high = max(lows, default=None), min(highs, default=None)  # of two that both hold what both have in common
    if low is not None and high is not None and low > high:
        low, high = now  # one of them does not hold: the later, which has more rounds, is the better guess
    return Interval(float(np.mean(differences)), low, high, p_value=math.exp(-max(0.0, float(found.max()))))


def _ends(differences: Sequence[float], unit: float, bound: float) -> tuple[float | None, float | None]:
    """Returns between what means the evidence is below a bound, by the rounds so far; None for no end."""
    mean = float(np.mean(differences))
    return _end(differences, unit, mean, bound, -1), _end(differences, unit, mean, bound, 1)


def _end(differences: Sequence[float], unit: float, mean: float, bound: float, side: int) -> float | None:

    def is_doubted(reach: float) -> bool:
        return bool(log_e_values(differences, unit, mean + side * reach)[-1] >= bound)

    inside, reach = 0.0, unit
    while not is_doubted(reach):
        inside, reach = reach, 2 * reach
        if reach > FURTHEST * unit or math.isinf(mean + side * reach):
            return None
    for _ in range(HALVINGS):
        middle = (inside + reach) / 2
        inside, reach = (inside, middle) if is_doubted(middle) else (middle, reach)
    return mean + side * reach
