"""How long `hpo status` and `hpo best` take on a study of 10 000 trials.

python -m benchmarks.reading                   # takes a minute; needs the test extra
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from statistics import median

from hpo import storage
from hpo.catalog import load_study
from tests.postgres import TemporaryPostgres

from .many_trials import fill

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


def main() -> None:
    """Prints the table."""
    _, definition = load_study("cnn")
    server = TemporaryPostgres()
    print("| database | hpo status, s | hpo best, s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, url in (("SQLite", f"sqlite:///{folder}/many.db"), ("PostgreSQL", server.create_database("many"))):
            opened = storage.open_storage(url, create=True)
            storage.create_study(opened, "cnn", {"definition": definition.model_dump(mode="json")}, 2 * TRIALS)
            fill(opened, "cnn", definition, TRIALS)
            opened.engine.dispose()
            print(
                f"| {kind} | {seconds(url, 'status'):.2f} | {seconds(url, 'best', '--study', 'cnn'):.2f} |", flush=True
            )
    server.remove()


if __name__ == "__main__":
    main()
