"""How long `hpo status`, `hpo best` and reading every trial take on a study of 10 000 trials.

    python -m benchmarks.reading                   # takes two minutes; needs the test extra

Every trial is what a worker reads when it joins, and the dashboard when it opens; beside Optuna's own storage.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from statistics import median

from optuna.storages import RDBStorage

from benchmarks.many_trials import fill
from hpo.storage.backends import open_storage
from hpo.storage.studies import create_study
from hpo.study.card import light_card
from hpo.study.catalog import load_study
from hpo.workers.launch import first_attributes
from tests.postgres import TemporaryPostgres

TRIALS = 10_000
REPEATS = 5


def seconds(url: str, *arguments: str) -> float:
    """Returns how long a command takes, the median of several times."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hpo", *arguments, "--storage", url], check=True, stdout=subprocess.DEVNULL
        )
        taken.append(time.perf_counter() - began)
    return median(taken)


def reading_seconds(opened: RDBStorage) -> float:
    """Returns how long it takes to read every trial, the median of several times."""
    taken = []
    study = opened.get_study_id_from_name("cnn")
    for _ in range(REPEATS):
        began = time.perf_counter()
        opened.get_all_trials(study, deepcopy=False)
        taken.append(time.perf_counter() - began)
    return median(taken)


def main() -> None:
    """Prints the table."""
    _, definition = load_study("cnn")
    server = TemporaryPostgres()
    print("| database | hpo status, s | hpo best, s | every trial, s | by Optuna's storage, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, url in (("SQLite", f"sqlite:///{folder}/many.db"), ("PostgreSQL", server.create_database("many"))):
            opened = open_storage(url, create=True)
            create_study(
                opened,
                "cnn",
                first_attributes(definition, light_card(definition)),
                2 * TRIALS,
            )
            fill(opened, "cnn", definition, TRIALS)
            plain = RDBStorage(opened.engine.url.render_as_string(hide_password=False))
            every = [f"{reading_seconds(one):.2f}" for one in (opened, plain)]
            for one in (opened, plain):
                one.engine.dispose()
            commands = [f"{seconds(url, *command):.2f}" for command in (("status",), ("best", "--study", "cnn"))]
            print(f"| {kind} | {' | '.join(commands + every)} |", flush=True)
    server.remove()


if __name__ == "__main__":
    main()
