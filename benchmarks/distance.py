"""What a trial costs besides its evaluation, by the distance to PostgreSQL, beside plain Optuna in the same run.

    python -m benchmarks.distance                  # four minutes; needs root, for network namespaces

As `benchmarks.overhead`, by a process in a network namespace behind a wire that delivers late. What a trial takes
longer at 20 ms than at none, over 20 ms, is how often it goes to the server and back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import optuna

from hpo import storage
from hpo.catalog import load_study
from tests.chaos.network import Wire
from tests.postgres import TemporaryPostgres

from .many_trials import fill
from .overhead import measure

ROUND_TRIPS = (0.0, 0.005, 0.020)  # seconds
FINISHED, TRIALS = 100, 20


def main() -> None:
    """Prints the table."""
    server = TemporaryPostgres(listen="*")
    _, definition = load_study("cnn")
    found: dict[float, tuple[float, float]] = {}
    try:
        print("| round trip, ms | hpo, ms a trial | plain Optuna, ms a trial | ratio |\n|---|---|---|---|")
        for number, seconds in enumerate(ROUND_TRIPS):
            ours = server.create_database(f"ours{number}")
            opened = storage.open_storage(ours, create=True)
            storage.create_study(opened, "cnn", {"definition": definition.model_dump(mode="json")}, 10**9)
            fill(opened, "cnn", definition, FINISHED)
            opened.engine.dispose()
            plain = server.create_database(f"plain{number}", template=f"ours{number}")
            with Wire(number, delay=seconds / 2) as wire:
                command = [*wire.prefix, sys.executable, "-m", "benchmarks.distance", wire.reach(ours)]
                done = subprocess.run([*command, wire.reach(plain)], check=True, capture_output=True, text=True)
            mine, theirs = found[seconds] = json.loads(done.stdout)
            print(f"| {1000 * seconds:g} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} |", flush=True)
    finally:
        server.remove()
    near, far = found[ROUND_TRIPS[0]], found[ROUND_TRIPS[-1]]
    ways = [(after - before) / (1000 * ROUND_TRIPS[-1]) for before, after in zip(near, far, strict=True)]
    print(f"\nto the server and back for a trial: hpo {ways[0]:.0f} times, plain Optuna {ways[1]:.0f}")


def measure_here(ours: str, plain: str) -> None:
    """Prints the milliseconds of both, from where this process is."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, definition = load_study("cnn")
    print(json.dumps(measure(ours, plain, definition, TRIALS)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure_here(*sys.argv[1:])
    elif os.geteuid() != 0:
        sys.exit("network namespaces need root")
    else:
        main()
