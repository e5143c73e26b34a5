"""Recorded learning curves of random configurations of the cnn space, on which searches are replayed.

To record and to keep them (resumable; about 35 s a trial on one core of two):

    hpo optimize --study benchmarks/curves.toml --trials 240 --storage sqlite:///curves.db
    python -m benchmarks.curves sqlite:///curves.db
"""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState

from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials

FILE = Path(__file__).with_name("curves.json.gz")
EPOCHS = 25


@dataclass(frozen=True)
class Curve:
    """One configuration's learning curve.

    Attributes:
        errors: for each of the 25 epochs, the test error of each of 10 rounds, in percent.
        seconds: what it took to record.
    """

    params: dict[str, Any]
    errors: list[list[float]]
    seconds: float

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """The mean over rounds after each epoch, (25,)."""
        means: npt.NDArray[np.float64] = np.asarray(self.errors).mean(axis=1)
        return means


def load_curves(file: Path = FILE) -> list[Curve]:
    """Returns recorded curves, in the order of their slots."""
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        return [Curve(**curve) for curve in json.load(opened)]


def export(url: str) -> None:
    """Writes the finished trials of the study 'curves' in a storage to `curves.json.gz`."""
    trials = read_trials(open_storage(url), "curves", states=(TrialState.COMPLETE,))
    trials.sort(key=lambda trial: trial.attributes["slot"])
    curves = []
    for trial in trials:
        by_epoch = trial.attributes["errors_by_step"]
        errors = [[round(error, 4) for error in by_epoch[str(epoch)]] for epoch in range(1, EPOCHS + 1)]
        curves.append(asdict(Curve(trial.params, errors, trial.attributes["seconds"])))
    with gzip.GzipFile(FILE, "wb", mtime=0) as file:
        file.write(json.dumps(curves, separators=(",", ":")).encode())
    print(f"{len(curves)} curves in {FILE}")


if __name__ == "__main__":
    export(sys.argv[1])
