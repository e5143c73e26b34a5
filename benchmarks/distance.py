"""What a trial costs besides its evaluation, by the distance to PostgreSQL, beside plain Optuna; what a server carries.

    python -m benchmarks.distance                  # six minutes; needs root, for network namespaces

As `benchmarks.overhead`, by a process in a network namespace over a link that delivers late. What a trial takes
longer at 20 ms than at none, over 20 ms, is how often it goes to the server and back. Then, ours alone: for how long a
trial holds the start lock, of which a study has one, and how much of a core the server needs for a trial.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import optuna
import psutil

from benchmarks.many_trials import fill
from benchmarks.overhead import measure, ours
from hpo.storage.backends import open_storage
from hpo.storage.postgresql import AdvisoryLock
from hpo.storage.studies import create_study
from hpo.study.card import light_card
from hpo.study.catalog import load_study
from hpo.workers.launch import first_attributes
from hpo.workers.liveness import LivenessLock
from tests.chaos.network import Link
from tests.postgres import TemporaryPostgres

ROUND_TRIPS = (0.0, 0.001, 0.005, 0.020)  # seconds
FINISHED, TRIALS = 100, 20


def main() -> None:
    """Prints the tables."""
    server = TemporaryPostgres(listen="*")
    found: dict[float, list[float]] = {}
    try:
        print("| round trip, ms | hpo, ms a trial | plain Optuna, ms a trial | ratio | start lock held, ms |")
        print("|---|---|---|---|---|")
        for number, seconds in enumerate(ROUND_TRIPS):
            mine_at, plain_at = _databases(server, number)
            with Link(number, delay=seconds / 2) as link:
                mine, theirs = _there(link, "beside", mine_at, plain_at)
                (held,) = _there(link, "held", mine_at)
            found[seconds] = [mine, theirs]
            print(f"| {1000 * seconds:g} | {mine:.0f} | {theirs:.0f} | {mine / theirs:.2f} | {held:.0f} |", flush=True)
        mine_at, _ = _databases(server, len(ROUND_TRIPS))
        with Link(0) as link:
            before = server_seconds(server)
            _there(link, "held", mine_at)
            spent = (server_seconds(server) - before) / (TRIALS + 1)
    finally:
        server.remove()
    near, far = found[ROUND_TRIPS[0]], found[ROUND_TRIPS[-1]]
    ways = [(after - before) / (1000 * ROUND_TRIPS[-1]) for before, after in zip(near, far, strict=True)]
    print(f"\nto the server and back for a trial: hpo {ways[0]:.0f} times, plain Optuna {ways[1]:.0f}")
    print(f"the server computes {1000 * spent:.0f} ms for a trial of ours, connecting included")


def server_seconds(server: TemporaryPostgres) -> float:
    """Returns the processor time of the sessions that a server has had; waits until all have ended."""
    process = psutil.Process(server.pid)
    while any("(" in " ".join(child.cmdline()) for child in process.children()):  # as in "postgres: hpo hpo host(port)"
        time.sleep(0.05)
    spent = process.cpu_times()
    return float(spent.children_user + spent.children_system)


def _databases(server: TemporaryPostgres, number: int) -> tuple[str, str]:
    """Returns two databases with the same study of finished trials."""
    _, definition = load_study("cnn")
    first = server.create_database(f"ours{number}")
    opened = open_storage(first, create=True)
    create_study(opened, "cnn", first_attributes(definition, light_card(definition)), 10**9)
    fill(opened, "cnn", definition, FINISHED)
    opened.engine.dispose()
    return first, server.create_database(f"plain{number}", template=f"ours{number}")


def _there(link: Link, what: str, *urls: str) -> list[float]:
    """Lets a process over the link measure."""
    command = [*link.prefix, sys.executable, "-m", "benchmarks.distance", what, *map(link.reach, urls)]
    found: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measure_beside(mine: str, plain: str) -> list[float]:
    """Returns the milliseconds of a trial, ours and plain Optuna's."""
    return list(measure(mine, plain, load_study("cnn")[1], TRIALS))


def measure_held(mine: str) -> list[float]:
    """Returns for how many milliseconds a trial of ours holds the start lock, until the server's word that it is free.

    Who waits for it is told half a round trip after it is freed, and it is freed half a round trip before that word: so
    this is also the shortest time between two trials of a study.
    """
    held: list[float] = []
    hold = AdvisoryLock.hold

    @contextmanager
    def timed(self: AdvisoryLock, stop: Callable[[], bool] = bool) -> Iterator[None]:
        began = time.perf_counter()
        with hold(self, stop):
            began = time.perf_counter()
            yield
        held.append(time.perf_counter() - began)

    AdvisoryLock.hold = timed  # type: ignore[method-assign]
    with LivenessLock() as lock:
        make = ours(mine, load_study("cnn")[1], lock)
        for _ in range(TRIALS + 1):  # the first loads the study
            make()
    return [1000 * median(held[1:])]


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if len(sys.argv) > 1:
        what, *urls = sys.argv[1:]
        print(json.dumps(measure_beside(*urls) if what == "beside" else measure_held(*urls)))
    elif os.geteuid() != 0:
        sys.exit("network namespaces need root")
    else:
        main()
