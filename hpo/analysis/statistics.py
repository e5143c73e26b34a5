"""Intervals: how sure a mean or a difference is, from errors over rounds, or from their means and deviations.

Rounds are taken for draws of pairs, weights and shuffles from what could have been drawn; the images that they are
drawn from are given. Two trials of a study share their rounds, so they are compared round by round.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from hpo.analysis.sign_flips import sign_flip_p_values
from hpo.limits import FEWEST_ROUNDS
from hpo.text.formatting import interval

if TYPE_CHECKING:
    from hpo.study.card import MetricCard

CONFIDENCE = 0.95
LEVEL = 0.05  # of a p value, below which a difference is significant
RESIDUE = 1e-10  # of the errors, of which twelve digits are kept: what they differ by, where that is rounding alone
TOO_FEW, ALIKE, DIVERGED = "too few rounds", "all rounds alike", "rounds diverged"  # why there is no interval
AS_SEARCHED = "as searched"  # nor of what was chosen for these very errors
LOOKED = "rounds added by looking"  # nor of so many rounds as their errors asked for

# SciPy is imported where it is used: it takes time, and not every command needs it.


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval.

    Attributes:
        low, high: None where there is no interval.
        standard_error: of the estimate; None where the interval was not made from one.
        p_value: of a difference: how often two equal ones would differ so much or more; else, and where there is no
            interval, None.
        why: there is no interval, where there is none.
    """

    estimate: float
    low: float | None
    high: float | None
    standard_error: float | None = None
    p_value: float | None = None
    why: str = TOO_FEW

    def within(self, lowest: float | None, highest: float | None) -> Interval:
        """Returns the interval without what lies outside what can be, as an error below 0; None is no bound."""
        if self.low is None or self.high is None:
            return self
        low = self.low if lowest is None else max(lowest, self.low)
        high = self.high if highest is None else min(highest, self.high)
        return replace(self, low=low, high=high)

    def without_ends(self, why: str) -> Interval:
        """Returns the estimate alone, and why there is no more."""
        return replace(self, low=None, high=None, why=why)

    def turned(self) -> Interval:
        """Returns the difference the other way round."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, estimate=-self.estimate, low=low, high=high)

    def text(self, unit: str, sign: str = "") -> str:
        """Returns the interval as people read it, or why there is none; `unit` and `sign` as in `interval`."""
        return self.why if self.low is None or self.high is None else interval(self.low, self.high, unit, sign)

    def holds(self, value: float) -> bool:
        """Says whether the value could be the true one."""
        return self.low is None or self.high is None or self.low <= value <= self.high


def both_intervals(mean: Interval, on_new: Interval | None, unit: str) -> str:
    """Returns `95 %: 2.06 to 2.41 on these test examples, 1.94 to 2.54 on new ones`, or why there is no interval."""
    said = f"no interval: {mean.why}" if mean.low is None else f"95 %: {mean.text(unit)}"
    return said if on_new is None else f"{said} on these test examples, {on_new.text(unit)} on new ones"


def ends_of(found: Interval) -> dict[str, float | None]:
    """Returns the ends of an interval as JSON has them."""
    return {"low": found.low, "high": found.high}


def mean_of(errors: Sequence[float], metric: MetricCard, diverged: Collection[int] = ()) -> Interval:
    """Returns the mean with its t interval, where there is one; never narrower than the metric's resolution allows.

    Args:
        diverged: rounds that came to nothing, the first being 0. Where any did there is no interval (convergence.py).

    Raises:
        ValueError: where there is no error.
    """
    if not errors:
        raise ValueError("a mean needs a round")
    error = stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else None
    if diverged:
        return Interval(fmean(errors), None, None, error, why=DIVERGED)
    return _t_interval_of(errors, _size_of(errors), metric.resolution).within(metric.low, metric.high)


def paired_difference(
    errors: Sequence[float], others: Sequence[float], metric: MetricCard | None = None, left_out: Collection[int] = ()
) -> Interval:
    """Returns the mean of `errors - others`, round by round, with its t interval and a p value by sign flips.

    Args:
        metric: theirs; None for one without bounds and resolution.
        left_out: rounds that do not count, for one of both diverged in them.

    Raises:
        ValueError: where they are not as many, or none is left.
    """
    found = interval_of_difference(errors, others, metric, left_out)
    if len(errors) - len(left_out) < FEWEST_ROUNDS:
        return found
    (p_value,), _ = sign_flip_p_values([differences_of(errors, others, left_out)])
    return replace(found, p_value=p_value)


def interval_of_difference(
    errors: Sequence[float], others: Sequence[float], metric: MetricCard | None, left_out: Collection[int] = ()
) -> Interval:
    """Returns what `paired_difference` does, without a p value: for one of a family, which is tested together."""
    counted = [one for one in differences_of(errors, others, left_out) if not math.isnan(one)]
    size = _size_of([error for side in (errors, others) for r, error in enumerate(side) if r not in left_out])
    if metric is None:
        return _t_interval_of(counted, size, None)
    return _t_interval_of(counted, size, metric.resolution).within(*metric.differences)


def differences_of(errors: Sequence[float], others: Sequence[float], left_out: Collection[int] = ()) -> list[float]:
    """Returns `errors - others`, round by round, 0 where that is rounding alone; NaN for rounds that are left out."""
    return [
        math.nan
        if r in left_out
        else 0.0
        if abs(ours - theirs) <= RESIDUE * _size_of((ours, theirs))
        else ours - theirs
        for r, (ours, theirs) in enumerate(zip(errors, others, strict=True))
    ]


def _size_of(errors: Sequence[float]) -> float:
    return max(map(abs, errors))


def _t_interval_of(values: Sequence[float], size: float, resolution: float | None) -> Interval:
    """Returns the mean of rounds with its t interval; beside the `size` of the errors a deviation may be rounding."""
    number = len(values)
    mean, deviation = fmean(values), stdev(values) if number > 1 else 0.0
    is_constant = deviation <= RESIDUE * size
    error = None if number < 2 else 0.0 if is_constant else deviation / number**0.5
    if error is None or number < FEWEST_ROUNDS:
        return Interval(mean, None, None, error)
    if is_constant and not resolution:
        return Interval(mean, None, None, error, why=ALIKE)
    return _t_interval(mean, error, number - 1, least_reach(values, resolution))


def least_reach(values: Sequence[float], resolution: float | None) -> float:
    """Returns how far an interval of the mean of rounds reaches at least, see `_least_reach`."""
    return _least_reach(len(values), resolution, _off(values, resolution))


def _off(values: Sequence[float], resolution: float | None) -> int:
    """Returns how many rounds came to something else than most; 0 where a metric has no resolution."""
    if not resolution:
        return 0
    steps = Counter(round(value / resolution, 3) for value in values)  # of a mean over pairs also parts of one
    return len(values) - max(steps.values())


def _least_reach(rounds: int, resolution: float | None, off: int = 0) -> float:
    """Returns how far an interval reaches at least; 0 where a metric has no resolution.

    Where hardly any round differs from another, the deviation says too little. Though none of n rounds did, up to
    1 - 0.025^(1/n) of all might (the rule of three, for both sides), each by at least the resolution; and where some
    did, as many more as Clopper and Pearson's interval of their share allows. For rounds of two values that differ by
    the resolution the least coverage is so 95 %; by the rule of three alone it is 90 % at 100 rounds, by the deviation
    alone 10 % (all shares from 0.1 to 50 %, computed).

    Args:
        off: so many rounds came to something else than most.
    """
    if not resolution:
        return 0.0
    from scipy import special

    highest = float(special.betaincinv(off + 1, rounds - off, 0.5 + CONFIDENCE / 2))
    return (highest - off / rounds) * resolution


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for being one of several, by Holm (1979): the chance of any false alarm among them.

    However they hang together; the reports' t tests are corrected so. Sign flips are made together (sign_flips.py),
    which gives nothing away where differences share their rounds.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _t_interval(estimate: float, error: float, freedom: float, least: float = 0.0) -> Interval:
    from scipy import special

    reach = max(least, float(special.stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error)
    return Interval(estimate, estimate - reach, estimate + reach, error)


def difference_of_means(
    mean: float,
    std: float,
    n: int,
    other_mean: float,
    other_std: float,
    other_n: int,
    resolution: float | None = None,
    other_resolution: float | None = None,
) -> Interval:
    """Returns the first mean minus the other, of two independent samples, by Welch's t.

    Args:
        std, other_std: sample deviations (divisor n - 1).
        resolution, other_resolution: of each; None where there is none.
    """
    if min(n, other_n) < FEWEST_ROUNDS:
        return Interval(mean - other_mean, None, None)
    size = max(std, other_std) or 1.0  # the square of a large one is more than a float holds
    variance, other_variance = (std / size) ** 2 / n, (other_std / size) ** 2 / other_n
    error = size * (variance + other_variance) ** 0.5
    difference = mean - other_mean
    least = math.hypot(_least_reach(n, resolution), _least_reach(other_n, other_resolution))
    if error <= RESIDUE * _size_of((mean, other_mean)):
        if not least:
            return Interval(difference, None, None, 0.0, why=ALIKE)
        return Interval(difference, difference - least, difference + least, 0.0)
    # Welch-Satterthwaite's degrees of freedom.
    freedom = (variance + other_variance) ** 2 / (variance**2 / (n - 1) + other_variance**2 / (other_n - 1))
    return _t_interval(difference, error, freedom, least)


def ratio_of_deviations(std: float, n: int, other_std: float, other_n: int, confidence: float = CONFIDENCE) -> Interval:
    """Returns the first deviation over the other's, of two independent normal samples, by Fisher's F."""
    from scipy import stats

    ratio = std / other_std
    low, high = (ratio / float(stats.f.ppf(0.5 + side * confidence / 2, n - 1, other_n - 1)) ** 0.5 for side in (1, -1))
    return Interval(ratio, low, high)
