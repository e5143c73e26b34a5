"""Tuning curves: the best error to expect after so many trials, and how sure that is.

    python -m benchmarks.tuning_curves            # half an hour on two cores, most of it the GP sampler's
    python -m benchmarks.tuning_curves random     # the exact bands alone, in seconds

For random search the curve follows from the distribution of one trial's error, of which the recorded configurations are
a sample; so its band is exact, simultaneous for all numbers of trials and free of any assumption (N. Lourie, K. Cho and
H. He, "Show Your Work with Confidence", 2024; the library opda). A sampler that learns has no such distribution: for
TPE and GP there are twenty searches on a surrogate of the recorded curves: the median of their best so far, and the
lowest and the highest, which speak of searches on that surrogate and of nothing else.
"""

from __future__ import annotations

import argparse
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import optuna
from opda.nonparametric import EmpiricalDistribution

from benchmarks.curves import load_curves
from benchmarks.samplers import SAMPLERS
from benchmarks.surrogate import Surrogate
from hpo.search.samplers import suggest
from hpo.study import catalog

TRIALS = (1, 2, 5, 10, 20, 50, 100, 200)
SEARCHES = 20
LEARNING = ("TPE, group, 10 random first", "GP")
CONFIDENCE = 0.95
RESOLUTION = 0.01  # of a mean over ten rounds of a thousand pairs


def random_search() -> list[npt.NDArray[np.float64]]:
    """Returns the median best error after so many random trials, and the ends of its band, (8,) each."""
    random = np.random.default_rng(0)
    finals = np.array([curve.means[-1] for curve in load_curves()])
    finals += random.uniform(-RESOLUTION / 2, RESOLUTION / 2, len(finals))  # ties would make the band too wide
    ends = {"a": -RESOLUTION, "b": 100.0 + RESOLUTION}
    bands = EmpiricalDistribution.confidence_bands(finals, CONFIDENCE, **ends, generator=random)
    counts = np.array(TRIALS, dtype=float)
    low, median, high = (np.clip(band.quantile_tuning_curve(counts, minimize=True), 0, 100) for band in bands)
    return [median, np.minimum(low, high), np.maximum(low, high)]


def search(sampler: str, seed: int) -> list[float]:
    """Returns the best error so far after so many trials of a search on the surrogate, without pruning, (8,)."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, definition = catalog.load_study("cnn")
    surrogate, study = Surrogate(load_curves()), optuna.create_study(sampler=SAMPLERS[sampler](seed))
    for _ in range(max(TRIALS)):
        trial = study.ask()
        study.tell(trial, float(surrogate.curve(suggest(trial, definition))[-1]))
    best = np.minimum.accumulate([trial.value or np.inf for trial in study.trials])
    return [float(best[count - 1]) for count in TRIALS]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", choices=["random"])
    asked = parser.parse_args()
    print("| sampler | " + " | ".join(f"{count} trials" for count in TRIALS) + " |")
    print("|---|" + "---|" * len(TRIALS))
    median, low, high = random_search()
    cells = [f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in zip(median, low, high, strict=True)]
    print(f"| random, measured; exact 95 % band | {' | '.join(cells)} |", flush=True)
    if asked.only:
        return
    with ProcessPoolExecutor() as pool:
        for sampler in LEARNING:
            found = np.array(list(pool.map(partial(search, sampler), range(SEARCHES))))  # (20, 8)
            cells = [f"{np.median(of):.2f} ({of.min():.2f} to {of.max():.2f})" for of in found.T]
            print(f"| {sampler}, on the surrogate; of {SEARCHES} searches | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
