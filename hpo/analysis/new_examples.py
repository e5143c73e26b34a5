"""How sure a mean is on new test examples: its rounds are drawn, and so are the images that all of them are tested on.

An interval over rounds holds on these test examples alone: had others been drawn, all rounds would err more, or less.
A round's error depends on both, as crossed random effects: variance(mean) = rounds + images, where the first is what
the rounds show, (deviation)^2 / R, and the second what different rounds agree on about the same images. By u[r, x], how
much round r's error grows with image x, that is the sum over images of u[r, x] u[s, x], in the mean over all pairs of
different rounds r, s: what an image does in one round alone is in the first term, and not counted twice. It is the
closed form of a bootstrap that draws rounds and images anew (A. Owen, "The pigeonhole bootstrap", 2007).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hpo.analysis.statistics import CONFIDENCE, Interval
from hpo.limits import FEWEST_ROUNDS

Influences = npt.NDArray[np.float64]
"""By how much each round's error grows with an image, (R, M); of a difference, the differences of both's."""


def on_new_examples(errors: Sequence[float], influences: Influences) -> Interval | None:
    """Returns the mean of rounds with its interval on new test examples; None where there are too few rounds for one.

    Args:
        errors: (R,); or differences of two configurations, round by round.
        influences: (R, M), of the same rounds.

    Raises:
        ValueError: where they are of another number of rounds.
    """
    if len(errors) != len(influences):
        raise ValueError(f"{len(errors)} rounds have {len(influences)} rows of influences")
    if len(errors) < FEWEST_ROUNDS:
        return None
    from scipy import stats

    rounds, images = influences.shape
    by_rounds = float(np.var(errors, ddof=1)) / rounds
    by_images = variance_of_images(influences)
    # Each with its own quantile, as its own degrees of freedom have it: Satterthwaite's make too much of few rounds.
    of_rounds, of_images = (float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) for count in (rounds, images))
    reach = (of_rounds**2 * by_rounds + of_images**2 * by_images) ** 0.5
    mean = float(np.mean(errors))
    return Interval(mean, mean - reach, mean + reach, (by_rounds + by_images) ** 0.5)


def variance_of_images(influences: Influences) -> float:
    """Returns what the choice of images adds to the variance of a mean over rounds; never less than nothing."""
    rounds = len(influences)
    of_all = float(np.square(influences.sum(axis=0)).sum())
    of_each = float(np.square(influences).sum())
    return max(0.0, (of_all - of_each) / (rounds * (rounds - 1)))


def difference_of(first: Influences, second: Influences) -> Influences:
    """Returns the influences on the first's error less the second's, image by image.

    Args:
        first, second: (R, M) of the same rounds; an image that no later one follows may be left out of either.
    """
    images = max(first.shape[1], second.shape[1])
    ours, theirs = (np.pad(one, ((0, 0), (0, images - one.shape[1]))) for one in (first, second))
    return ours - theirs
