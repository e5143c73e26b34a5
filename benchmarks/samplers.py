"""Searches replayed on a surrogate of the cnn space: what a sampler finds with 200 trials, and what it spends.

    python -m benchmarks.samplers              # an hour and a half on two cores, most of it the GP sampler's
    python -m benchmarks.samplers random GP    # some of the samplers

Every search runs through Optuna as a study would, with the sampler and pruner that are named, on curves that
`benchmarks.surrogate` predicts. Found is the best error among its finished trials, spent the share of the epochs that
200 whole trials have. A surrogate has no noise, and is as good as its cross-validation says: it ranks ways to search,
it does not promise errors.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from benchmarks.curves import EPOCHS, load_curves
from benchmarks.surrogate import Surrogate
from hpo.search.pruners import PowerLawPruner
from hpo.search.samplers import suggest
from hpo.study import catalog

TRIALS = 200
SEARCHES = 20
LOOKS = (1, 2, 3, 4, 6, 8, 12, 16)

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "TPE, Optuna's defaults": lambda seed: TPESampler(seed=seed),
    "TPE, group, 10 random first": lambda seed: TPESampler(seed=seed, multivariate=True, group=True),
    "TPE, group, 40 random first": lambda seed: TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=40
    ),
    "GP": lambda seed: GPSampler(seed=seed),
}
PRUNERS: Mapping[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "power law, margin 1.1": lambda: PowerLawPruner(last_step=EPOCHS, margin=1.1),
    "power law, margin 1.5": lambda: PowerLawPruner(last_step=EPOCHS, margin=1.5),
    "power law, margin 2.0": lambda: PowerLawPruner(last_step=EPOCHS, margin=2.0),
}


def search(sampler: str, pruner: str, seed: int) -> tuple[float, float]:
    """Returns the best error that one search found, and the share of the epochs that it spent."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, definition = catalog.load_study("cnn")
    surrogate = Surrogate(load_curves())
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed), pruner=PRUNERS[pruner]())
    spent = 0
    for _ in range(TRIALS):
        trial = study.ask()
        curve = surrogate.curve(suggest(trial, definition))
        for epoch in LOOKS:
            trial.report(float(curve[epoch - 1]), epoch)
            if trial.should_prune():
                spent += epoch
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            spent += EPOCHS
            study.tell(trial, float(curve[-1]))
    return study.best_value, spent / (TRIALS * EPOCHS)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samplers", nargs="*", metavar="SAMPLER", default=list(SAMPLERS))
    parser.add_argument("--searches", type=int, default=SEARCHES)
    asked = parser.parse_args()
    if unknown := set(asked.samplers) - set(SAMPLERS):
        parser.error(f"no sampler {', '.join(map(repr, unknown))}; there are {', '.join(map(repr, SAMPLERS))}")
    searches = asked.searches
    print(f"{searches} searches of {TRIALS} trials each; found: median (lowest to highest), in percent\n")
    print("| sampler | pruner | found | spent |")
    print("|---|---|---|---|")
    with ProcessPoolExecutor() as pool:
        for sampler in asked.samplers:
            for pruner in PRUNERS:
                found, spent = np.array(list(pool.map(partial(search, sampler, pruner), range(searches)))).T
                span = f"{np.median(found):.2f} ({found.min():.2f} to {found.max():.2f})"
                print(f"| {sampler} | {pruner} | {span} | {100 * spent.mean():.0f} % |", flush=True)


if __name__ == "__main__":
    main()
