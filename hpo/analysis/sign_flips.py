"""Tests of paired differences by flipping their signs: exact, whatever the distribution of the errors.

If two configurations err alike, a round's difference is as likely as its opposite. So all ways to give the rounds'
differences signs are equally likely, and p is the share of those whose mean lies as far from 0 as the one observed, or
further. n rounds allow no p below 2 / 2^n: with fewer than six nothing can be significant at 5 % (`FEWEST_TO_TELL`).

Several differences over the same rounds are flipped together, and each is held against the largest of them all: the
chance of any false alarm among them is at most the level, and how they hang together costs nothing (P. Westfall and
S. Young, "Resampling-Based Multiple Testing", 1993). That is exact where all differences of a round could as well have
had the other sign together, as for two configurations, or for normal errors; else it is measured (docs/statistics.md).
Holm's correction, which knows p values alone, would let ten rounds say nothing of more than 25 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

PATTERNS = 2**14  # of signs: all there are of up to 15 rounds, and so many drawn of more
AT_ONCE = 2**20  # numbers, of patterns times differences or rounds
ROUNDING = 1e-9  # of a statistic: what floats make of equal ones

Array = npt.NDArray[np.float64]


def sign_flip_p_values(differences: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Returns for each of F differences the p value by itself, and corrected for being one of all.

    Never 0: what was observed is one of the patterns. Beside a t test (benchmarks/coverage.py has both) it is as sure
    where errors are normal, and nearer to its level where a few rounds make the deviation; so it is used for any number
    of rounds.

    Args:
        differences: (F, n), round by round; NaN for a round that does not count.
    """
    if not differences:
        return [], []
    known = np.nan_to_num(np.asarray(differences, dtype=np.float64))
    largest = np.abs(known).max(axis=1, keepdims=True, initial=0.0)
    known = known / np.where(largest > 0, largest, 1.0)  # the square of a large one is more than a float holds
    # |sum| / sqrt(sum of squares) grows with t, and needs no deviation, which may be zero. Flips leave its deviation
    # at 1 however many rounds count, or the largest of all would be that of the difference with the fewest.
    scale = np.sqrt(np.square(known).sum(axis=1))
    scale[scale == 0] = 1.0
    unit = known / scale[:, None]
    observed = np.abs(unit.sum(axis=1)) * (1 - ROUNDING)
    alone, of_all, patterns = np.zeros(len(unit)), np.zeros(len(unit)), 0
    for signs in _patterns(known.shape[1], max(1, AT_ONCE // max(unit.shape))):
        flipped = np.abs(signs @ unit.T)  # (P, F)
        alone += (flipped >= observed).sum(axis=0)
        of_all += (flipped.max(axis=1)[:, None] >= observed).sum(axis=0)
        patterns += len(signs)
    return (alone / patterns).tolist(), (of_all / patterns).tolist()


def _patterns(rounds: int, at_once: int) -> Iterator[Array]:
    """Yields patterns of signs, (P, n) in parts, the observed one among them; of a pattern and its opposite one."""
    whole = 2 ** (rounds - 1) <= PATTERNS
    number = 2 ** (rounds - 1) if whole else PATTERNS
    random = np.random.default_rng(0)
    for start in range(0, number, at_once):
        numbers = np.arange(start, min(start + at_once, number))
        if whole:
            bits = numbers[:, None] >> np.arange(rounds) & 1
        else:
            bits = random.integers(2, size=(len(numbers), rounds))
            bits[numbers == 0] = 0
        yield (1 - 2 * bits).astype(np.float64)
