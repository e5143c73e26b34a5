"""How sure a mean is on new test examples: its rounds are drawn, and so are the images that all of them are tested on.

An interval over rounds holds on these test examples alone: had others been drawn, all rounds would err more, or less.
A round's error depends on both, as crossed random effects: variance(mean) = rounds + images, where the first is what
the rounds show, (deviation)^2 / R, and the second what different rounds agree on about the same images. By u[r, x], how
much round r's error grows with image x, that is the sum over images of u[r, x] u[s, x], in the mean over all pairs of
different rounds r, s: what an image does in one round alone is in the first term, and not counted twice. It is the
closed form of a bootstrap that draws rounds and images anew (A. Owen, "The pigeonhole bootstrap", 2007).

It is never narrower than on these test examples. And where all of M images came to the same in all rounds, they show no
variance: a share of 1 - 0.025^(1/M) of all might come to something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hpo.analysis.statistics import CONFIDENCE, Interval, least_reach
from hpo.limits import FEWEST_ROUNDS
from hpo.study.card import MetricCard

Influences = npt.NDArray[np.float64]
"""By how much each round's error grows with an image, (R, M); of a difference, the differences of both's."""


def on_new_examples(errors: Sequence[float], influences: Influences, metric: MetricCard) -> Interval | None:
    """Returns the mean of rounds with its interval on new test examples.

    None where rounds or images are too few for one; or are all alike, of errors without bounds and resolution.

    Args:
        errors: (R,); or differences of two configurations, round by round.
        influences: (R, M), of the same rounds.
        metric: of the errors.

    Raises:
        ValueError: where they are of another number of rounds.
    """
    if len(errors) != len(influences):
        raise ValueError(f"{len(errors)} rounds have {len(influences)} rows of influences")
    rounds, images = influences.shape
    if rounds < FEWEST_ROUNDS or images < 2:
        return None
    from scipy import stats

    by_rounds = float(np.var(errors, ddof=1)) / rounds
    by_images = variance_of_images(influences)
    # Each with its own quantile, as its own degrees of freedom have it: Satterthwaite's make too much of few rounds.
    of_rounds, of_images = (float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) for count in (rounds, images))
    reach_of_rounds = max(of_rounds * by_rounds**0.5, least_reach(errors, metric.resolution))
    reach_of_images = of_images * by_images**0.5 if influences.any() else _least_of_images(images, metric)
    mean, reach = float(np.mean(errors)), math.hypot(reach_of_rounds, reach_of_images)
    if not reach:
        return None
    return Interval(mean, mean - reach, mean + reach, (by_rounds + by_images) ** 0.5)


def _least_of_images(images: int, metric: MetricCard) -> float:
    """Returns how far it reaches though no image differs from another; 0 where errors have no bounds."""
    _, width = metric.differences
    return 0.0 if width is None else width * (1 - ((1 - CONFIDENCE) / 2) ** (1 / images))


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
