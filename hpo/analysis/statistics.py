"""Intervals: how sure a mean or a difference is, from errors over rounds, or from their means and deviations.

Rounds are taken for draws of pairs, weights and shuffles from what could have been drawn; the images that they are
drawn from are given. Two trials of a study share their rounds, so they are compared round by round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from hpo.limits import FEWEST_ROUNDS

CONFIDENCE = 0.95
LEVEL = 0.05  # of a p value, below which a difference is significant

# SciPy is imported where it is used: it takes half a second, and commands that only read need none of it.


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval.

    Attributes:
        low, high: None where fewer than `FEWEST_ROUNDS` rounds leave no interval.
        standard_error: of the estimate; None where the interval was not made from one.
        p_value: of a difference: how often two equal ones would differ so much or more; else, and where there is no
            interval, None.
    """

    estimate: float
    low: float | None
    high: float | None
    standard_error: float | None = None
    p_value: float | None = None

    def within(self, lowest: float | None, highest: float | None) -> Interval:
        """Returns the interval without what lies outside what can be, as an error below 0; None is no bound."""
        if self.low is None or self.high is None:
            return self
        low = self.low if lowest is None else max(lowest, self.low)
        high = self.high if highest is None else min(highest, self.high)
        return replace(self, low=low, high=high)

    def holds(self, value: float) -> bool:
        """Says whether the value could be the true one."""
        return self.low is None or self.high is None or self.low <= value <= self.high


def mean_of(errors: Sequence[float]) -> Interval:
    """Returns the mean with its t interval, where there are enough errors for one.

    Raises:
        ValueError: where there is no error.
    """
    if not errors:
        raise ValueError("a mean needs a round")
    error = stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else None
    if error is None or len(errors) < FEWEST_ROUNDS:
        return Interval(fmean(errors), None, None, error)
    return _t_interval(fmean(errors), error, len(errors) - 1)


def paired_difference(errors: Sequence[float], others: Sequence[float]) -> Interval:
    """Returns the mean of `errors - others`, round by round, with its t interval and p value.

    Raises:
        ValueError: where they are not as many, or none.
    """
    difference = mean_of([ours - theirs for ours, theirs in zip(errors, others, strict=True)])
    if difference.low is None:
        return difference
    error = difference.standard_error or 0.0
    if error == 0:
        p_value = 1.0 if difference.estimate == 0 else 0.0
    else:
        from scipy import stats

        p_value = 2 * float(stats.t.sf(abs(difference.estimate) / error, len(errors) - 1))
    return replace(difference, p_value=p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for being one of several, by Holm (1979): the chance of any false alarm among them."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def corrected_p_values(differences: Sequence[Interval]) -> list[float | None]:
    """Returns the p values of differences, those that have one corrected for their number, by `holm`."""
    corrected = iter(holm([by.p_value for by in differences if by.p_value is not None]))
    return [None if by.p_value is None else next(corrected) for by in differences]


def _t_interval(estimate: float, error: float, freedom: float) -> Interval:
    from scipy import stats

    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(estimate, estimate - reach, estimate + reach, error)


def difference_of_means(mean: float, std: float, n: int, other_mean: float, other_std: float, other_n: int) -> Interval:
    """Returns the first mean minus the other, of two independent samples, by Welch's t.

    Args:
        std, other_std: sample deviations (divisor n - 1).
    """
    if min(n, other_n) < FEWEST_ROUNDS:
        return Interval(mean - other_mean, None, None)
    variance, other_variance = std**2 / n, other_std**2 / other_n
    error = (variance + other_variance) ** 0.5
    difference = mean - other_mean
    if error == 0:
        return Interval(difference, difference, difference, 0.0)
    # Welch-Satterthwaite's degrees of freedom.
    freedom = (variance + other_variance) ** 2 / (variance**2 / (n - 1) + other_variance**2 / (other_n - 1))
    return _t_interval(difference, error, freedom)


def ratio_of_deviations(std: float, n: int, other_std: float, other_n: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns the first deviation over the other's, of two independent normal samples, by Fisher's F."""
    from scipy import stats

    ratio = std / other_std
    low, high = (ratio / float(stats.f.ppf(0.5 + side * confidence / 2, n - 1, other_n - 1)) ** 0.5 for side in (1, -1))
    return Interval(ratio, low, high)
