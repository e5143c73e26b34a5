"""Replays races over rounds on recorded learning curves: how many round-epochs each policy spends, and what it misses.

    python -m benchmarks.race                          # on the curves that policies were chosen on
    python -m benchmarks.race FILE HELD_OUT            # on others, scored on rounds that no policy saw

A policy measures rounds in groups. Inside a group the power law of the curve so far is held against the best finished
trial's errors of the same rounds; between groups a paired t test of all rounds so far. Spent is the share of all
round-epochs that were trained, a winner is missed where the best mean is not found, and regret is the mean error of
what was found less the best there is, in percentage points.

Every figure is over the same 300 random subsets of a tenth of the curves, in random order. Subsets share winners, so
the interval of the share of missed winners is over winners, not over subsets: a bootstrap that draws winners.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.curves import EPOCHS, FILE, Curve, load_curves
from hpo.search.pruners import PowerLawPruner
from hpo.search.race import is_behind

SUBSETS = 300
SUBSET = 0.1  # of the curves, as in benchmarks/pruners.py
LOOKS = (1, 2, 3, 4, 6, 8, 12, 16)
RESAMPLES = 2000


@dataclass(frozen=True)
class Policy:
    """How rounds are measured and trials ended.

    Attributes:
        groups: how many rounds each has.
        margin: the power law's; None for no pruning inside a group.
        level: of the test between groups; None for none.
    """

    groups: tuple[int, ...]
    margin: float | None
    level: float | None

    def __str__(self) -> str:
        law = f"power law {self.margin}" if self.margin else "no power law"
        if len(self.groups) == 1:
            return f"{law}, {self.groups[0]} rounds in step"
        race = f", t test {self.level:g} between" if self.level else ""
        return f"{law}, rounds {' + '.join(map(str, self.groups))}{race}"


def run(curve: Curve, best: npt.NDArray[np.float64] | None, policy: Policy) -> tuple[int, bool]:
    """Returns how many round-epochs a trial takes, and whether it comes to its end.

    Args:
        best: the final errors of the best trial so far, (R,).
    """
    errors, spent, first = np.asarray(curve.errors), 0, 0
    pruner = PowerLawPruner(last_step=EPOCHS, margin=policy.margin or 0.0)
    for size in policy.groups:
        group = slice(first, first + size)
        points: dict[int, float] = {}
        for epoch in LOOKS if best is not None and policy.margin else ():
            points[epoch] = float(errors[epoch - 1, group].mean())
            if best is not None and pruner.ends_above(points, float(best[group].mean())):
                return spent + size * epoch, False
        spent += size * EPOCHS
        first += size
        is_last = first == errors.shape[1]
        if best is not None and policy.level and not is_last:
            ours, theirs = errors[-1, :first].tolist(), best[:first].tolist()
            if is_behind(ours, theirs, level=policy.level):
                return spent, False
    return spent, True


@dataclass(frozen=True)
class Outcome:
    """What one replay came to: the share spent, the place of what it found, and of the best there is."""

    spent: float
    found: int
    winner: int


def replay(curves: Sequence[Curve], policy: Policy) -> Outcome:
    """Replays a search over curves in their order."""
    finals = np.array([curve.errors[-1] for curve in curves])
    best, spent = None, 0
    for number, curve in enumerate(curves):
        cost, is_whole = run(curve, None if best is None else finals[best], policy)
        spent += cost
        if is_whole and (best is None or finals[number].mean() < finals[best].mean()):
            best = number
    assert best is not None
    return Outcome(spent / (EPOCHS * finals.size), best, int(finals.mean(axis=1).argmin()))


def clustered(missed: npt.NDArray[np.bool_], winners: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Returns the 95 % interval of the share missed, by a bootstrap that draws winners with all their subsets."""
    random = np.random.default_rng(0)
    names, place = np.unique(winners, return_inverse=True)
    misses, counts = np.bincount(place, weights=missed), np.bincount(place)
    drawn = random.integers(len(names), size=(RESAMPLES, len(names)))
    shares = misses[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def row(policy: Policy, curves: Sequence[Curve], scores: npt.NDArray[np.float64]) -> str:
    """Returns a policy's row of the table.

    Args:
        scores: of each curve, the mean error by which what was found is scored.
    """
    draws = (np.random.default_rng(seed).permutation(len(curves)) for seed in range(SUBSETS))
    subsets = [draw[: round(SUBSET * len(curves))] for draw in draws]
    outcomes = [replay([curves[i] for i in subset], policy) for subset in subsets]
    found = np.array([subset[one.found] for subset, one in zip(subsets, outcomes, strict=True)])
    winners = np.array([subset[one.winner] for subset, one in zip(subsets, outcomes, strict=True)])
    regret, missed = scores[found] - scores[winners], found != winners
    low, high = clustered(missed, winners)
    return (
        f"| {policy} | {np.mean([one.spent for one in outcomes]):.1%} | {missed.mean():.0%} ({low:.0%} to {high:.0%}) "
        f"| {regret.mean():+.3f} / {regret.max():.2f} |"
    )


def policies() -> list[Policy]:
    """Returns the policies that are compared, those without a race first."""
    together = [Policy((10,), margin, None) for margin in (1.1, 1.3, 1.5, 2.0)]
    groups = ((5, 5), (4, 6), (3, 3, 4), (3, 7), (2, 3, 5))
    raced = [Policy(sizes, margin, level) for sizes in groups for margin in (1.5, 2.0, 3.0) for level in (0.05, 0.01)]
    return [*together, *raced, Policy((5, 5), 2.0, 0.1), Policy((5, 5), 2.0, None), Policy((5, 5), None, 0.05)]


def main() -> None:
    """Prints the table."""
    files = [Path(name) for name in sys.argv[1:]] or [FILE]
    curves = load_curves(files[0])
    scores = np.array([np.mean(curve.errors[-1]) for curve in (load_curves(files[1]) if len(files) > 1 else curves)])
    parts = {"all": range(len(curves)), "AL = true": [i for i, c in enumerate(curves) if c.params["auxiliary_loss"]]}
    for name, part in parts.items():
        print(f"\n{name}, {len(part)} curves\n\n| policy | spent | winner missed (95 %) | regret, mean / largest |")
        print("|---|---|---|---|")
        for policy in policies():
            print(row(policy, [curves[i] for i in part], scores[list(part)]), flush=True)


if __name__ == "__main__":
    main()
