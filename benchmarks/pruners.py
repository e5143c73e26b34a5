"""Replays pruners on recorded learning curves: how many epochs each spends, and what it misses.

    python -m benchmarks.pruners

A replay feeds the curves, in a random order, to the pruner through Optuna as a study would, and prunes when it says
so. Spent is the share of all epochs that were trained; regret is the best error found, less the best there is, in
percentage points. Every figure is over the same 30 orders. As one winner is one winner, however it is shuffled, a
second table replays small random subsets of the curves, which have many winners. The space falls in two halves: without
an auxiliary loss the error by recognition is at chance level.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from benchmarks.curves import EPOCHS, Curve, load_curves
from hpo.search.pruners import PowerLawPruner

ORDERS = 30
SUBSETS = 300
SUBSET = 0.1  # of the curves, so that none is the best of more than a tenth of the subsets


class PairedPruner(BasePruner):
    """Prunes what is surely worse, round by round, than the best finished trial was at the same epoch.

    By a one-sided paired t test on the errors of the rounds, which share their pairs and seeds. It knows where a trial
    is, not where it is heading.
    """

    def __init__(self, *, level: float, first: int) -> None:
        self._level, self._first = level, first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Says whether to prune; never before the epoch `first`, nor before a first trial has finished."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        epoch = max(trial.intermediate_values)
        if not finished or epoch < self._first:
            return False
        best = min(finished, key=lambda other: other.value or np.inf)
        ours, theirs = (np.array(one.user_attrs["errors"][epoch - 1]) for one in (trial, best))
        if (ours == theirs).all():
            return False
        return bool(stats.ttest_rel(ours, theirs, alternative="greater").pvalue < self._level)


@dataclass(frozen=True)
class Candidate:
    """A pruner, and the epochs after which it is asked."""

    name: str
    make: type[BasePruner]
    arguments: dict[str, float]
    at: Collection[int]

    def pruner(self) -> BasePruner:
        """Returns a fresh one."""
        return self.make(**self.arguments)


def replay(curves: Sequence[Curve], order: Sequence[int], candidate: Candidate) -> tuple[float, float]:
    """Returns the share of epochs spent and the regret of one pruner on one order."""
    study = optuna.create_study(pruner=candidate.pruner(), sampler=optuna.samplers.RandomSampler(seed=0))
    spent, found = 0, np.inf
    for index in order:
        trial, means = study.ask(), curves[index].means
        trial.set_user_attr("errors", curves[index].errors)
        for epoch in sorted(candidate.at):
            trial.report(means[epoch - 1], epoch)
            if trial.should_prune():
                spent += epoch
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            spent += EPOCHS
            trial.report(means[-1], EPOCHS)
            study.tell(trial, means[-1])
            found = min(found, means[-1])
    return spent / (EPOCHS * len(order)), found - min(curve.means[-1] for curve in curves)


def candidates() -> list[Candidate]:
    """Returns the pruners that are compared."""
    doubling, every, ours = (2, 4, 8, 16), range(1, EPOCHS), (1, 2, 3, 4, 6, 8, 12, 16)
    power_laws = [
        Candidate(f"power law, margin {margin}", PowerLawPruner, {"last_step": EPOCHS, "margin": margin}, ours)
        for margin in (1.0, 1.02, 1.1, 2.0)
    ]
    power_laws.append(
        Candidate(
            "power law, margin 1.01, at 1 2 3 4 5 6 8 10 12 14 16 20",
            PowerLawPruner,
            {"last_step": EPOCHS, "margin": 1.01},
            (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20),
        )
    )
    compared = [
        Candidate(
            f"percentile {percentile:g}, start-up {startup}, at {' '.join(map(str, at))}",
            PercentilePruner,
            {"percentile": percentile, "n_startup_trials": startup},
            at,
        )
        for percentile in (10.0, 25.0, 50.0)
        for startup in (1, 4)
        for at in (doubling, (1, *doubling))
    ]
    halving = [
        Candidate(
            f"successive halving from {first}, factor {factor}",
            SuccessiveHalvingPruner,
            {"min_resource": first, "reduction_factor": factor},
            every,
        )
        for first, factor in ((1, 2), (1, 4), (2, 2), (2, 3), (2, 4), (4, 2), (4, 4))
    ]
    paired = [
        Candidate(f"paired t test, level {level:g}, from {first}", PairedPruner, {"level": level, "first": first}, ours)
        for level in (0.05, 0.001, 0.00001)
        for first in (2, 4, 8)
    ]
    return [
        *power_laws,
        *paired,
        *compared,
        *halving,
        Candidate("median, every epoch", MedianPruner, {"n_startup_trials": 5}, every),
        Candidate("percentile 25, every epoch", PercentilePruner, {"percentile": 25.0, "n_startup_trials": 5}, every),
        Candidate("hyperband", HyperbandPruner, {"max_resource": EPOCHS}, every),
    ]


def main() -> None:
    """Prints the tables."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = load_curves()
    parts = {
        "all": curves,
        "AL = true": [curve for curve in curves if curve.params["auxiliary_loss"]],
        "AL = false": [curve for curve in curves if not curve.params["auxiliary_loss"]],
    }
    print(f"{ORDERS} random orders of all curves; regret in percentage points, median / largest\n")
    print("| pruner | " + " | ".join(f"{name} ({len(part)}): spent | regret" for name, part in parts.items()) + " |")
    print("|---|" + "---|---|" * len(parts))
    for candidate in candidates():
        cells = []
        for part in parts.values():
            orders = [np.random.default_rng(seed).permutation(len(part)).tolist() for seed in range(ORDERS)]
            spent, regret = np.array([replay(part, order, candidate) for order in orders]).T
            cells.append(f"{100 * spent.mean():.0f} % | {np.median(regret):.2f} / {regret.max():.2f}")
        print(f"| {candidate.name} | " + " | ".join(cells) + " |", flush=True)
    print(
        f"\n{SUBSETS} random subsets of a tenth of the curves, each with its own winner; regret: mean / largest, and "
        "how often above zero\n"
    )
    print("| pruner | " + " | ".join(f"{name}: spent | regret" for name in parts) + " |")
    print("|---|" + "---|---|" * len(parts))
    for candidate in candidates():
        cells = []
        for part in parts.values():
            draws = (np.random.default_rng(seed).permutation(len(part)) for seed in range(SUBSETS))
            subsets = [draw[: round(SUBSET * len(part))] for draw in draws]
            outcomes = [replay([part[i] for i in subset], range(len(subset)), candidate) for subset in subsets]
            spent, regret = np.array(outcomes).T
            missed = (regret > 1e-9).mean()
            cells.append(f"{100 * spent.mean():.0f} % | {regret.mean():.2f} / {regret.max():.2f}, {100 * missed:.0f} %")
        print(f"| {candidate.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
