"""Intervals: how sure a difference is, from means and deviations over rounds."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval.

    Attributes:
        standard_error: of the estimate; None where the interval was not made from one.
    """

    estimate: float
    low: float
    high: float
    standard_error: float | None = None


def difference_of_means(mean: float, std: float, n: int, other_mean: float, other_std: float, other_n: int) -> Interval:
    """Returns the first mean minus the other, of two independent samples, by Welch's t.

    Args:
        std, other_std: sample deviations (divisor n - 1).
    """
    variance, other_variance = std**2 / n, other_std**2 / other_n
    error = (variance + other_variance) ** 0.5
    difference = mean - other_mean
    if error == 0:
        return Interval(difference, difference, difference, 0.0)
    # Welch-Satterthwaite's degrees of freedom.
    freedom = (variance + other_variance) ** 2 / (variance**2 / (n - 1) + other_variance**2 / (other_n - 1))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(difference, difference - reach, difference + reach, error)


def ratio_of_deviations(std: float, n: int, other_std: float, other_n: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns the first deviation over the other's, of two independent normal samples, by Fisher's F."""
    ratio = std / other_std
    low, high = (ratio / float(stats.f.ppf(0.5 + side * confidence / 2, n - 1, other_n - 1)) ** 0.5 for side in (1, -1))
    return Interval(ratio, low, high)
