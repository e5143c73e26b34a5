"""Rounds that diverge: how often that happens is a figure of its own, beside the error of those that converge.

A round that diverged counts as the worst error there is. A mean of such rounds is right, and is what a search
minimises; but its t interval is not, for nothing of it is normal: with one round of twenty diverging it would hold the
true mean in 14 to 41 of 100 studies of 3 to 10 rounds. So the mean is given without one, beside the share of rounds
that diverge with its exact interval (C. Clopper and E. Pearson, 1934), and the error of those that converge.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import stdev
from typing import Any

from hpo.analysis.statistics import CONFIDENCE, Interval, both_intervals, ends_of, mean_of
from hpo.study.card import MetricCard
from hpo.text.formatting import count, spread


@dataclass(frozen=True)
class Convergence:
    """A configuration of which some rounds diverged.

    Attributes:
        rounds: all of them; `diverged`, how many of them did.
        share: of rounds that diverge, in percent.
        errors: of those that converged.
        error: their mean; None where none did.
    """

    rounds: int
    diverged: int
    share: Interval
    errors: list[float]
    error: Interval | None

    def text(self, metric: MetricCard) -> str:
        """Returns all of it as a clause."""
        decimals = max(0, math.ceil(math.log10(self.rounds)) - 2)  # one round of 1 000 is 0.1 %
        of, low, high = (f"{one or 0.0:.{decimals}f}" for one in (self.share.estimate, self.share.low, self.share.high))
        said = f"diverged in {self.diverged} of {count(self.rounds, 'round')} ({of} %, 95 %: {low} to {high} %)"
        if self.error is None:
            return said
        std = stdev(self.errors) if len(self.errors) > 1 else None
        given = spread(self.error.estimate, std, metric.unit)
        return f"{said}; where it converged {given} ({both_intervals(self.error, None, metric.unit)})"

    def without_interval(self, why: str) -> Convergence:
        """Returns it without an interval of the error, which would not hold, and why."""
        return replace(self, error=self.error and self.error.without_ends(why))


def convergence_of(errors: Sequence[float], diverged: Collection[int], metric: MetricCard) -> Convergence | None:
    """Returns how often a configuration diverged, and what it errs else; None where no round did.

    Args:
        errors: (R,).
        diverged: numbers of rounds, the first being 0.
    """
    if not diverged:
        return None
    kept = [error for r, error in enumerate(errors) if r not in diverged]
    return Convergence(
        len(errors), len(diverged), share_of(len(diverged), len(errors)), kept, mean_of(kept, metric) if kept else None
    )


def share_of(number: int, of: int) -> Interval:
    """Returns a share in percent with its exact interval, by Clopper and Pearson."""
    from scipy import special

    tail = (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(number, of - number + 1, tail)) if number else 0.0
    high = float(special.betaincinv(number + 1, of - number, 1 - tail)) if number < of else 1.0
    return Interval(100 * number / of, 100 * low, 100 * high)


def convergence_json(found: Convergence, metric: MetricCard) -> dict[str, Any]:
    """Returns all of it as JSON has it."""
    return {
        "text": found.text(metric),
        "diverged": found.diverged,
        "percent": found.share.estimate,
        "percent_interval": ends_of(found.share),
        "mean": found.error and found.error.estimate,
        "mean_interval": found.error and ends_of(found.error),
    }
