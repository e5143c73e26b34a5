"""What is said of a figure that was chosen for being good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.limits import FEWEST_TO_TELL
from hpo.text.formatting import count, figure, interval, points, with_unit

if TYPE_CHECKING:
    from hpo.analysis.statistics import Interval

MANY_ROUNDS = 30  # see docs/statistics.md; benchmarks/coverage.py measures it
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


def few_rounds(rounds: int, *means: Interval) -> str:
    """Returns what is to be known of means' intervals over few rounds; nothing where they are enough, or have none."""
    if rounds >= MANY_ROUNDS or all(mean.low is None for mean in means):
        return ""
    very_skewed = f"where errors are very skewed, a mean's 95 % interval over fewer than {MANY_ROUNDS}"
    return f"few rounds: {very_skewed} is one of 88 to 92 %"


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
