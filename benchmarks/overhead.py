"""What a trial costs besides its evaluation, in milliseconds, beside plain Optuna in the same run.

    python -m benchmarks.overhead                  # takes a minute; needs the test extra

Plain Optuna is `study.optimize` with the same sampler and pruner on the same database, opened as its users open it;
ours adds the start lock, the curve for dead trials, the count, the claim and the heartbeat. Both do what a trial of the
cnn study does that is not pruned: they suggest its space, report nine values, ask the pruner after eight of them, and
store nine attributes. Ours and Optuna's trials take turns; medians over all but the first, which loads the
study's history in both. SQLite's file is in WAL mode for both, for the mode stays with the file.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import optuna

from benchmarks.many_trials import fill
from hpo.search.samplers import Slot, make_pruner, make_sampler, suggest
from hpo.storage.backends import open_storage
from hpo.storage.studies import create_study
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import batch_writes
from hpo.study.card import light_card
from hpo.study.catalog import load_study
from hpo.study.definition import StudyDefinition
from hpo.study.training import Training
from hpo.workers.budget import start_trial
from hpo.workers.evaluate import Stop, run_trial
from hpo.workers.launch import first_attributes
from hpo.workers.liveness import LivenessLock
from tests.postgres import TemporaryPostgres

SIZES = (10, 1_000, 10_000)
TRIALS = 40


class Objective:
    """Evaluates nothing, and does all else that a trial does.

    Args:
        together: within which what is written to a trial is written in one go.
    """

    device = "cpu"

    def __init__(
        self, definition: StudyDefinition, together: Callable[[optuna.Trial], AbstractContextManager[None]]
    ) -> None:
        self._definition, self._together = definition, together

    def __call__(self, trial: optuna.Trial, step_done: object = None) -> float:
        """Returns the proposed learning rate."""
        training = self._definition.training or Training()
        with self._together(trial):
            rate = float(suggest(trial, self._definition)["learning_rate"])
        for epoch in (*training.evaluate_at, training.epochs):
            trial.report(50.0, step=epoch)
            if epoch < training.epochs:
                trial.should_prune()  # whatever it says
        errors = [rate] * self._definition.protocol.rounds
        with self._together(trial):
            for key in ("errors", "errors_head", "errors_recognition"):
                trial.set_user_attr(key, errors)
            trial.set_user_attr("errors_by_step", {epoch: errors for epoch in training.evaluate_at})
            for key in ("seconds", "std", "diverged_rounds", "device", "versions"):
                trial.set_user_attr(key, 0.0)
        return rate


def plainly(trial: optuna.Trial) -> AbstractContextManager[None]:
    """Writes each value when it comes, as Optuna does."""
    return nullcontext()


def ours(url: str, definition: StudyDefinition, lock: LivenessLock) -> Callable[[], None]:
    """Returns what makes one trial by this program."""
    return our_trials(url, "cnn", definition, lock, Objective(definition, batch_writes))


def our_trials(
    url: str, name: str, definition: StudyDefinition, lock: LivenessLock, objective: Any
) -> Callable[[], None]:
    """Returns what makes one trial of a stored study as a worker does."""
    opened = open_storage(url, create=True)
    study = optuna.load_study(study_name=name, storage=opened, pruner=make_pruner(definition))
    worker = Worker("h", 1, "cpu", str(lock.file))

    def make() -> None:
        trial = start_trial(opened, study, definition, worker, target=10**9, run_began_at=0)
        if not isinstance(trial, optuna.Trial):
            raise RuntimeError("no trial was started")
        run_trial(opened, trial, objective, Stop(), definition.run.heartbeat_seconds)

    return make


def plain(url: str, definition: StudyDefinition) -> Callable[[], None]:
    """Returns what makes one trial by Optuna alone."""
    sampler = make_sampler(definition, Slot(0, failures=0))
    study = optuna.load_study(study_name="cnn", storage=url, sampler=sampler, pruner=make_pruner(definition))
    objective = Objective(definition, plainly)
    return lambda: study.optimize(objective, n_trials=1)


def measure(url: str, other_url: str, definition: StudyDefinition, trials: int = TRIALS) -> tuple[float, float]:
    """Returns the milliseconds of a trial, ours and Optuna's."""
    with LivenessLock() as lock:
        makers = (ours(url, definition, lock), plain(other_url, definition))
        taken: tuple[list[float], list[float]] = ([], [])
        for make in makers:
            make()
        for _ in range(trials):
            for make, seconds in zip(makers, taken, strict=True):
                began = time.perf_counter()
                make()
                seconds.append(time.perf_counter() - began)
    return 1000 * median(taken[0]), 1000 * median(taken[1])


def main() -> None:
    """Prints the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, definition = load_study("cnn")
    print("| database | finished trials | hpo, ms | plain Optuna, ms | ratio |\n|---|---|---|---|---|")
    server = TemporaryPostgres()
    with tempfile.TemporaryDirectory() as folder:
        for count in SIZES:
            for kind in ("SQLite", "PostgreSQL"):
                url = f"sqlite:///{folder}/{count}.db" if kind == "SQLite" else server.create_database(f"n{count}")
                opened = open_storage(url, create=True)
                create_study(
                    opened,
                    "cnn",
                    first_attributes(definition, light_card(definition)),
                    10**9,
                )
                fill(opened, "cnn", definition, count)
                opened.engine.dispose()
                if kind == "SQLite":
                    other = f"sqlite:///{folder}/{count}-plain.db"
                    shutil.copy(Path(folder) / f"{count}.db", Path(folder) / f"{count}-plain.db")
                else:
                    other = server.create_database(f"p{count}", template=f"n{count}")
                mine, theirs = measure(url, other, definition)
                print(f"| {kind} | {count:,} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |")
                sys.stdout.flush()
    server.remove()


if __name__ == "__main__":
    main()
