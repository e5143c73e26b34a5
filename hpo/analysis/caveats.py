"""What is said of a figure that was chosen for being good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from hpo.limits import FEWEST_TO_TELL
from hpo.text.formatting import count, figure, interval, points, with_unit

if TYPE_CHECKING:
    from hpo.analysis.contrasts import Measured
    from hpo.analysis.statistics import Interval
    from hpo.study.card import MetricCard

MANY_ROUNDS = 30  # see docs/statistics.md; benchmarks/coverage.py measures it
ENOUGH_ROUNDS = 100  # for a mean of very skewed errors, too
VERY_SKEWED = 1.5  # the skewness of rounds' errors, from which on they may be: an exponential distribution's is 2
FEWEST_WRONG = 10  # examples; benchmarks/images_and_looks.py
ROUNDING = 1e-9  # of a figure: no difference
SELECTION_BIAS = "the best of many noisy results looks better than it is (selection bias)"
NEW_SELECTION = "picking a different one now is a new selection and biases its figure"


SEED_UNUSED = "every round of a configuration came to the same; if it should not, its seed is not used"


def too_few_to_tell(rounds: int) -> str:
    """Returns that so few rounds can tell no difference from chance; nothing where they are enough."""
    return (
        ""
        if rounds >= FEWEST_TO_TELL
        else f"{count(rounds, 'round')} cannot tell: {FEWEST_TO_TELL} are the fewest that can"
    )


def few_rounds(rounds: int, *means: Interval, errors: Sequence[Sequence[float]] = ()) -> str:
    """Returns what is to be known of means' intervals over few rounds; nothing where they are enough, or have none.

    Args:
        errors: each mean's, in all rounds, where they are at hand.
    """
    if all(mean.low is None for mean in means) or rounds >= ENOUGH_ROUNDS:
        return ""
    if rounds >= MANY_ROUNDS:
        skewed = any(abs(_skewness(of)) >= VERY_SKEWED for of in errors)
        return f"skewed errors: a mean's 95 % interval over {rounds} rounds is one of 92 to 94 %" if skewed else ""
    very_skewed = f"where errors are very skewed, a mean's 95 % interval over fewer than {MANY_ROUNDS}"
    return f"few rounds: {very_skewed} is one of 88 to 92 %"


def _skewness(errors: Sequence[float]) -> float:
    """Returns the sample's skewness; 0 of errors that are all alike."""
    mean, deviation = fmean(errors), pstdev(errors)
    return fmean(((error - mean) / deviation) ** 3 for error in errors) if deviation else 0.0


def of_intervals(rounds: int, found: Sequence[Measured], metric: MetricCard) -> list[str]:
    """Returns what is to be known of the intervals of some configurations' errors, on these examples and on new ones.

    Args:
        rounds: over which they are.
    """
    few = few_rounds(rounds, *(one.mean for one in found), errors=[one.errors for one in found])
    wrong = [_wrong(one.mean.estimate, metric) for one in found if one.on_new]
    few_wrong = (
        f"fewer than {FEWEST_WRONG} examples are wrong in a round: a 95 % interval on new ones is one of 78 to 92 %"
    )
    are_few = min(wrong, default=FEWEST_WRONG) < FEWEST_WRONG
    return [*([few] if few else []), *([few_wrong] if are_few else [])]


def _wrong(mean: float, metric: MetricCard) -> float:
    """Returns how many examples are wrong in a round; infinity of a metric that does not say."""
    off = mean if not metric.maximize else math.inf if metric.high is None else metric.high - mean
    return off / metric.resolution if metric.resolution else math.inf


def beside_search(searched: float, optimism: Interval, unit: str, scale: float | None) -> str:
    """Returns what the search had reported, and by how much too well; `scale` as in `figure`."""
    off = optimism.estimate
    reported, by = figure(searched, unit, scale), figure(abs(off), unit, scale)
    said = f"the study reported {with_unit(reported, unit)}"
    if float(by) == 0 or abs(off) <= ROUNDING * abs(searched):
        return said
    ends = [end * (1 if off > 0 else -1) for end in (optimism.low, optimism.high) if end is not None]
    sure = f" (95 %: {interval(min(ends), max(ends), unit, '+')})" if ends else ""
    return f"{said}, {points(by, unit)} too {'optimistic' if off > 0 else 'pessimistic'}{sure}"
