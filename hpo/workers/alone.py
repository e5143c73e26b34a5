"""A supervisor whose only worker is this process: what it measures need not be importable by others."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from optuna.storages import RDBStorage
from threadpoolctl import threadpool_limits

from hpo.threads import THREADS
from hpo.workers.checking import check_study
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Assignment, Check, Checked, GaveUp
from hpo.workers.supervisor import Supervisor
from hpo.workers.worker import run_worker


class Alone(Supervisor):
    """Works in this process, trial after trial, until all are done; Ctrl-C gives the running trial back.

    A trial's time limit does not hold here, and what kills a worker ends this process.

    Args:
        heard: is called whenever a trial has begun, gone on or ended.
    """

    def __init__(self, devices: Sequence[str], preload: str = "", heard: Callable[[], None] = lambda: None) -> None:
        super().__init__(devices[:1])
        self._heard = heard

    def __enter__(self) -> Alone:
        self._left = ExitStack()
        self._left.enter_context(_threads_restored())
        self._left.enter_context(self._lock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.close()

    def check_study(self, order: Check, show: Callable[[str], None]) -> Checked:
        """Checks a study; see `Supervisor`."""
        return check_study(order, show)

    def assign(self, storage: RDBStorage, assignment: Assignment) -> None:
        """Works until there is nothing to do.

        Raises:
            WorkError: where it cannot be gone on with.
            KeyboardInterrupt: where it was stopped.
        """
        self._assignment = replace(assignment, device=self._devices[0])
        module, _, function = assignment.make_objective.partition(":")
        stop = Stop()
        with _stopped_by_ctrl_c(stop):
            run_worker(self._assignment, getattr(importlib.import_module(module), function), stop, self._hear_of)
        if stop.asked:
            raise KeyboardInterrupt

    def _hear_of(self, said: Any) -> None:
        if isinstance(said, GaveUp):
            self._hear(said)
        self._heard()


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Context manager after which libraries compute with as many threads as before: a worker takes one."""
    environment, torch = dict(os.environ), sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    with threadpool_limits(limits=None):
        try:
            yield
        finally:
            for name in THREADS:
                if name in environment:
                    os.environ[name] = environment[name]
                else:
                    os.environ.pop(name, None)
            if torch:
                torch.set_num_threads(threads)


@contextmanager
def _stopped_by_ctrl_c(stop: Stop) -> Iterator[None]:
    """Context manager in which SIGINT asks for a stop; outside the main thread signals go where they went."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop.ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
