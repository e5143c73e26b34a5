"""Processes forked from one that has imported the program already: to import it takes a process seconds.

The tests start hundreds of processes. Of those in which starting is not what is tested, one such server is the parent.
Workers that it forks find what `spawn` would give them: environment, folder, streams and process group of whoever
starts them.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

from hpo.cli.main import COMMANDS
from hpo.workers.supervisor import Supervisor
from tests import once

STREAMS = (1, 2)
once.prepare()  # here and in what is forked
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    [
        *(f"hpo.cli.{file.removesuffix('.py').replace('/', '.')}" for file, _ in COMMANDS.values()),
        *("hpo.analysis.confirmation", "hpo.training.export", "hpo.dashboard.note", "hpo.workers.objective"),
        *("hpo.workers.launch", "hpo.report.html", "hpo.report.sections", "hpo.search.samplers", "tests.program"),
        *("alembic.command", "numba", "plotly.graph_objects", "sklearn.datasets", "torch._dynamo"),  # imported in use
        *("hpo.tasks.digit_pairs.mlp_rounds", "hpo.tasks.function", "psycopg", "tests.chaos.parent", "tests.stubs"),
        "tests.preloaded",
    ]
)


class _WarmContext:
    """What a supervisor needs of `multiprocessing`'s contexts to start its workers."""

    Pipe = staticmethod(multiprocessing.Pipe)

    def Process(self, target: Callable[..., object], args: tuple[Any, ...]) -> BaseProcess:  # noqa: N802
        forkserver._forkserver.ensure_running()  # here, where no signal is blocked: what it forks would not hear of one
        streams = []
        for stream in STREAMS:
            with suppress(OSError):  # it is closed
                streams.append((stream, Connection(os.dup(stream), readable=False)))
        surroundings = (dict(os.environ), os.getcwd(), os.getpgrp(), streams)
        return WARM.Process(target=_live, args=(*surroundings, target, args))


def _live(
    environment: dict[str, str],
    folder: str,
    group: int,
    streams: list[tuple[int, Connection]],
    target: Callable[..., object],
    args: tuple[Any, ...],
) -> None:
    if os.getpgrp() != group:
        os.setpgid(0, group)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, given in streams:
        os.dup2(given.fileno(), stream)
        given.close()
    target(*args)


@contextmanager
def warm_workers() -> Iterator[None]:
    """Context manager in which supervisors have their workers forked from the warm process."""
    make = Supervisor.__init__

    def make_warm(self: Any, *arguments: Any, **settings: Any) -> None:
        make(self, *arguments, **settings)
        self._spawn = _WarmContext()

    with patch.object(Supervisor, "__init__", make_warm):
        yield


def share_server() -> None:
    """Lets a process that was forked from the warm one have others forked from it too, not from one of its own."""
    vars(forkserver._forkserver)["ensure_running"] = resource_tracker.ensure_running


def start_server() -> dict[str, Any]:
    """Starts the warm process, and returns by what others reach it; it ends with this process."""
    forkserver.ensure_running()
    known = vars(forkserver._forkserver)
    return {name: known[name] for name in ("_forkserver_address", "_forkserver_authkey") if name in known}


def join_server(reached_by: dict[str, Any]) -> None:
    """Has this process use the warm one that another has started."""
    alive = os.open(os.devnull, os.O_RDONLY)  # whose end ends the server; the starter has the true one
    vars(forkserver._forkserver).update(reached_by, _forkserver_alive_fd=alive)
    share_server()
