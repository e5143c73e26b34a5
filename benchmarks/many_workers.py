"""How many trials a second 64 workers could start on one PostgreSQL, beside plain Optuna with 64 processes.

    python -m benchmarks.many_workers              # takes 3 minutes; needs the test extra

Nothing is evaluated, so this is the ceiling that the database, the start lock and the sampler set. All processes wait
for each other before their first trial; the time is from the first trial's start to the last one's end. Ours makes
exactly the trials asked for; plain Optuna's processes make a fixed share each.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import optuna

from benchmarks.overhead import Objective, plainly
from hpo.search.samplers import Slot, make_pruner, make_sampler
from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials
from hpo.storage.studies import create_study
from hpo.storage.trials import batch_writes
from hpo.study.card import light_card
from hpo.study.catalog import load_study
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.launch import first_attributes, run_study
from hpo.workers.plan import Plan
from tests.postgres import TemporaryPostgres

WORKERS = 64
TRIALS_EACH = 10


def make_objective(definition: StudyDefinition, device: str, sources: Sources) -> Objective:
    """Returns the objective, once every worker is there."""
    meet(sources.data)
    return Objective(definition, batch_writes)


def meet(folder: Path) -> None:
    """Waits until all processes are there."""
    Path(tempfile.mkstemp(dir=folder)[1])
    while len(list(folder.iterdir())) < WORKERS:
        time.sleep(0.05)


def work_plainly(url: str, folder: Path, number: int) -> None:
    """The life of one of plain Optuna's processes."""
    _, definition = load_study("cnn", [("task.dataset", "digits")])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name="cnn",
        storage=url,
        sampler=make_sampler(definition, Slot(number, failures=0)),
        pruner=make_pruner(definition),
    )
    meet(folder)
    study.optimize(Objective(definition, plainly), n_trials=TRIALS_EACH)


def rate(url: str) -> tuple[int, float]:
    """Returns how many trials a study has, and how many it made a second."""
    trials = read_trials(open_storage(url), "cnn", foreign=True)
    moments = [moment.timestamp() for trial in trials for moment in (trial.started, trial.finished) if moment]
    return len(trials), len(trials) / (max(moments) - min(moments))


def main() -> None:
    """Prints the table."""
    server = TemporaryPostgres()
    _, definition = load_study("cnn", [("task.dataset", "digits")])
    count = WORKERS * TRIALS_EACH
    print("| 64 processes | trials | trials a second |\n|---|---|---|")
    url = server.create_database("ours")
    with tempfile.TemporaryDirectory() as folder:
        opened = open_storage(url, create=True)
        create_study(
            opened,
            "cnn",
            first_attributes(definition, light_card(definition)),
            count,
        )
        run_study(
            opened,
            Plan("cnn", definition, count),
            devices=["cpu"] * WORKERS,
            sources=Sources(Path(folder)),
            show=lambda status: None,
            make_objective="benchmarks.many_workers:make_objective",
        )
    print("| hpo | {} | {:.1f} |".format(*rate(url)))
    sys.stdout.flush()
    url = server.create_database("plain")
    with tempfile.TemporaryDirectory() as folder:
        open_storage(url, create=True)
        optuna.create_study(study_name="cnn", storage=url)
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=work_plainly, args=(url, Path(folder), i)) for i in range(WORKERS)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    print("| plain Optuna | {} | {:.1f} |".format(*rate(url)))
    server.remove()


if __name__ == "__main__":
    main()
