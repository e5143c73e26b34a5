"""What a trial of a function costs besides its calls, in milliseconds, beside plain Optuna in the same run.

    python -m benchmarks.function_overhead         # two minutes; needs the test extra

Plain Optuna is `study.optimize` with the same sampler on the same database, opened as its users open it, whose
objective suggests the parameters, calls the function in five rounds, and returns the mean: either *bare*, or *kept*,
with the errors of the rounds and their deviation as attributes, without which no two configurations can be compared.
Ours is a worker's own code from the start of a trial to its end: it also keeps the time, the device and the versions,
claims the trial, and beats. Trials take turns; medians over all but the first. SQLite's file is in WAL mode for all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import optuna
from optuna.storages import RDBStorage

from benchmarks.overhead import our_trials
from hpo.search.samplers import Slot, make_sampler
from hpo.storage.backends import open_storage
from hpo.storage.studies import create_study
from hpo.study.card import make_card
from hpo.study.definition import StudyDefinition, read_study
from hpo.study.loading import load_task
from hpo.study.references import Sources
from hpo.study.resolving import resolve_by
from hpo.workers.launch import first_attributes
from hpo.workers.liveness import LivenessLock
from hpo.workers.objective import make_objective
from tests.postgres import TemporaryPostgres

SIZES = (10, 200)  # trials before those that are measured
TRIALS = 60
CODE = """
def bowl(params, seed):
    return (params["x"] - 0.3) ** 2 + (params["y"] - 1) ** 2 + seed % 100 / 1000
"""
STUDY = """
title = "A bowl"
[task]
name = "bowl.py:bowl"
[protocol]
rounds = 5
[sampler]
name = "tpe"
[pruner]
name = "none"
[space]
x = { low = -1.0, high = 1.0 }
y = { low = 1e-3, high = 10.0, log = true }
kind = ["one", "other"]
"""


def plain(url: str, definition: StudyDefinition, function: Any, *, keeps: bool) -> Callable[[], None]:
    """Returns what makes one trial by Optuna alone.

    Args:
        keeps: whether it keeps the errors of the rounds, and their deviation.
    """
    seeds = [one.seed("function") for one in definition.rounds]

    def objective(trial: optuna.Trial) -> float:
        params = {
            "x": trial.suggest_float("x", -1.0, 1.0),
            "y": trial.suggest_float("y", 1e-3, 10.0, log=True),
            "kind": trial.suggest_categorical("kind", ["one", "other"]),
        }
        errors = [function(params, seed) for seed in seeds]
        if keeps:
            trial.set_user_attr("errors", errors)
            trial.set_user_attr("std", stdev(errors))
        return fmean(errors)

    sampler = make_sampler(definition, Slot(0, failures=0))
    study = optuna.create_study(study_name="plain", storage=RDBStorage(url), sampler=sampler)
    return lambda: study.optimize(objective, n_trials=1)


def measure(makers: dict[str, Callable[[], None]], before: int) -> dict[str, float]:
    """Returns the milliseconds of a trial, by each maker, after so many."""
    taken: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(before + TRIALS):
        for name, make in makers.items():
            began = time.perf_counter()
            make()
            if number >= before:
                taken[name].append(time.perf_counter() - began)
    return {name: 1000 * median(seconds) for name, seconds in taken.items()}


def main() -> None:
    """Prints the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| database | trials before | hpo, ms | Optuna kept, ms | ratio | Optuna bare, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    server = TemporaryPostgres()
    with tempfile.TemporaryDirectory() as place, LivenessLock() as lock:
        folder = Path(place)
        (folder / "bowl.py").write_text(CODE)
        (folder / "bowl.toml").write_text(STUDY)
        sources = Sources(folder, folder, ("bowl.py:bowl",))
        given = read_study(folder / "bowl.toml")
        loaded = load_task(given, study="bowl", sources=sources)
        definition = resolve_by(loaded, given, study="bowl")
        function = vars(__import__("bowl"))["bowl"]
        for count in SIZES:
            for kind in ("sqlite", "postgresql"):
                name = f"n{count}"
                of: dict[str, str] = {
                    which: f"sqlite:///{folder}/{which}{name}.db"
                    if kind == "sqlite"
                    else server.create_database(f"{which}{name}")
                    for which in ("ours", "kept", "bare")
                }
                for url in of.values():
                    opened = open_storage(url, create=True)
                    if url == of["ours"]:
                        create_study(opened, "bowl", first_attributes(definition, make_card(definition, loaded)), 10**9)
                    opened.engine.dispose()
                makers = {
                    "ours": our_trials(
                        of["ours"], "bowl", definition, lock, make_objective(definition, "cpu", sources)
                    ),
                    "kept": plain(of["kept"], definition, function, keeps=True),
                    "bare": plain(of["bare"], definition, function, keeps=False),
                }
                found = measure(makers, count)
                row = [kind, str(count), f"{found['ours']:.1f}"]
                for rival in ("kept", "bare"):
                    row += [f"{found[rival]:.1f}", f"{found['ours'] / found[rival]:.2f}"]
                print(f"| {' | '.join(row)} |", flush=True)
    server.remove()


if __name__ == "__main__":
    main()
