"""Recorded learning curves of configurations of the cnn space, on which searches are replayed.

To record and to keep them (resumable; about 35 s a trial on one core of two):

    hpo optimize --study benchmarks/curves.toml --trials 240 --storage sqlite:///curves.db
    python -m benchmarks.curves sqlite:///curves.db curves

Those of `fair_curves.toml`, half of them of configurations that TPE proposed, were recorded after pruner and race had
been chosen; ten more rounds of the same configurations say how good each is on rounds that no replay has seen:

    hpo optimize --study benchmarks/fair_curves.toml --trials 120 --storage sqlite:///fair.db
    python -m benchmarks.curves sqlite:///fair.db fair_curves fair_held_out.toml
    hpo optimize --study fair_held_out.toml --storage sqlite:///fair.db
    python -m benchmarks.curves sqlite:///fair.db fair_held_out
"""

from __future__ import annotations

import gzip
import json
import sys
import tomllib
from collections.abc import Sequence
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
        errors: for each epoch that was measured, the test error of each of 10 rounds, in percent.
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


def export(url: str, study: str) -> list[Curve]:
    """Writes the finished trials of a study in a storage to `STUDY.json.gz`, in the order of their slots."""
    trials = read_trials(open_storage(url), study, states=(TrialState.COMPLETE,))
    trials.sort(key=lambda trial: trial.attributes["slot"])
    curves = []
    for trial in trials:
        by_epoch = {int(epoch): errors for epoch, errors in trial.attributes["errors_by_step"].items()}
        errors = [[round(error, 4) for error in by_epoch[epoch]] for epoch in sorted(by_epoch)]
        curves.append(Curve(trial.params, errors, trial.attributes["seconds"]))
    file = FILE.with_name(f"{study}.json.gz")
    with gzip.GzipFile(file, "wb", mtime=0) as opened:
        opened.write(json.dumps([asdict(curve) for curve in curves], separators=(",", ":")).encode())
    print(f"{len(curves)} curves in {file}")
    return curves


def write_held_out(curves: Sequence[Curve], study: str, file: Path) -> None:
    """Writes a study that measures the configurations of another on the ten rounds after its own."""
    table = tomllib.loads(FILE.with_name(f"{study}.toml").read_text(encoding="utf-8"))
    lines = [f"title = {json.dumps(table['title'] + ', on other rounds')}"]
    kept = {
        "task": table["task"],
        "training": {key: value for key, value in table["training"].items() if key != "evaluate_at"},
        "protocol": {**table["protocol"], "first_round": table["protocol"]["rounds"]},
    }
    for name, settings in kept.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    for number, curve in enumerate(curves):
        params = ", ".join(f"{key} = {json.dumps(value)}" for key, value in curve.params.items())
        lines += ["[[trial]]", f'label = "{number}"', f"params = {{ {params} }}"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Exports a study, and writes the file of its held-out rounds where that is named."""
    url, study, *file = sys.argv[1:]
    curves = export(url, study)
    if file:
        write_held_out(curves, study, Path(file[0]))


if __name__ == "__main__":
    main()
