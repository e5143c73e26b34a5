"""The supervisor of several worker processes: starts them, watches them, replaces those that die.

Processes are spawned, never forked, and handed their objective as the import path of a function: the parent never
imports torch, nor any code that a study names. Each waits for its orders: the first may have a study to check before
there is anything to work on. Only the parent answers the terminal: workers ignore SIGINT and SIGHUP and stop at
SIGTERM, which the parent passes on once. A parent that dies takes its workers along.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from optuna.storages import RDBStorage

from hpo.errors import RequestError, StudyError, WorkError
from hpo.signals import INTERRUPTED, SIGNALS, check, deferred, stopping
from hpo.storage.queries import study_names
from hpo.text.formatting import count
from hpo.workers.budget import fail_trial_of
from hpo.workers.evaluate import took_longer
from hpo.workers.liveness import LivenessLock
from hpo.workers.messages import (
    Assignment,
    Began,
    Check,
    Checked,
    Checking,
    Crashed,
    Ended,
    GaveUp,
    StepDone,
)
from hpo.workers.process import STOP_SECONDS, UNGUARDED, live

POLL_SECONDS = 0.1
MAX_DEATHS = 20  # of worker processes, none of which ended a trial, before the run is given up


@dataclass
class _Trial:
    """What a worker has said of a trial that it runs; `step` is the last that is done."""

    said: Began
    began: float
    step: int | None = None

    @property
    def is_overdue(self) -> bool:
        """Whether it takes longer than it may, and its worker does not end it."""
        limit = self.said.limit_seconds
        return limit is not None and time.monotonic() - self.began > limit + self.said.patience_seconds


@dataclass
class _Process:
    """A worker process, and what its parent knows of it."""

    process: BaseProcess
    connection: Connection
    device: str
    trials: dict[tuple[str, int], _Trial] = field(default_factory=dict)
    crashed: Crashed | None = None

    @property
    def overdue(self) -> _Trial | None:
        """A trial of it that takes longer than it may."""
        return next((trial for trial in self.trials.values() if trial.is_overdue), None)


class Supervisor:
    """Several worker processes, one for each of the devices, while it is entered. A worker that dies is replaced.

    On leaving, every worker is asked to stop, and ended if it does not.

    Args:
        preload: a module that workers import while they wait for orders, if any.

    Attributes:
        given_up: what workers said of studies that cannot be served here.
    """

    def __init__(self, devices: Sequence[str], preload: str = "") -> None:
        self._devices, self._preload = devices, preload
        self._storage: RDBStorage | None = None
        self._assignment: Assignment | None = None
        self._spawn = multiprocessing.get_context("spawn")
        self._lock = LivenessLock()
        self._processes: list[_Process] = []
        self._deaths = 0
        self.given_up: set[GaveUp] = set()

    def __enter__(self) -> Supervisor:
        self._lock.__enter__()
        try:
            with deferred():  # not in `_start`: it lets the signals through that are blocked there
                multiprocessing.resource_tracker.ensure_running()
            for device in self._devices:
                self._start(device)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def check_study(self, order: Check, show: Callable[[str], None]) -> Checked:
        """Lets the first worker check a study; `show` is told what it does, again and again.

        Raises:
            HpoError: where it cannot be measured.
        """
        worker = self._processes[0]
        worker.connection.send(order)
        doing = "starting"
        while True:
            check()
            show(doing)
            if not worker.connection.poll(POLL_SECONDS):
                continue
            try:
                said = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                _refuse_unguarded(worker)
                cause = f"the process that checked it {_cause(worker)} ({doing})"
                raise StudyError(f"study {order.study!r}: {cause}") from None
            if isinstance(said, Checking):
                doing = said.what
            elif isinstance(said, GaveUp):
                raise WorkError(said.message, said.exit_code)
            elif isinstance(said, Crashed):
                worker.crashed = said
            elif isinstance(said, Checked):
                return said

    def assign(self, storage: RDBStorage, assignment: Assignment) -> None:
        """Sets the workers to work."""
        self._storage, self._assignment = storage, replace(assignment, parent=str(self._lock.file))
        for worker in self._processes:
            self._order(worker)

    def _order(self, worker: _Process) -> None:
        if self._assignment is not None:
            with suppress(BrokenPipeError):  # it is dead, as `is_working` will find
                worker.connection.send(replace(self._assignment, device=worker.device))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with stopping() as is_hurried:
            for worker in self._processes:
                worker.process.terminate()
            end = time.monotonic() + STOP_SECONDS
            while (alive := self._alive()) and time.monotonic() < end and not is_hurried():
                multiprocessing.connection.wait([process.sentinel for process in alive], POLL_SECONDS)
            for worker in self._processes:
                worker.process.kill()
                worker.process.join()
            self._lock.__exit__(None, None, None)  # its file can go: that workers died, theirs tell
        if kind is None:
            check()

    def is_working(self) -> bool:
        """Says whether any worker still works; replaces those that died, and those whose trial takes too long.

        Raises:
            WorkError: where a worker cannot go on at all, or too many died.
            KeyboardInterrupt: where one was dropped.
        """
        check()
        for worker in list(self._processes):
            self._listen(worker)
            if worker.overdue:
                self._end_overdue(worker, worker.overdue)
            elif not worker.process.is_alive():
                self._listen(worker)  # to what it said before it died
                self._handle_exit(worker)
        return bool(self._processes)

    def steps(self) -> dict[tuple[str, int], int]:
        """Returns how far running trials are: study, trial number -> the last step that a worker told of."""
        trials = [of for worker in self._processes for of in worker.trials.items()]
        return {key: trial.step for key, trial in trials if trial.step}

    def wait(self, seconds: float) -> None:
        """Sleeps until a worker ends, `seconds` at most; what workers say meanwhile waits, for there is much of it."""
        multiprocessing.connection.wait([worker.process.sentinel for worker in self._processes], seconds)

    def _alive(self) -> list[BaseProcess]:
        return [worker.process for worker in self._processes if worker.process.is_alive()]

    def _listen(self, worker: _Process) -> None:
        with suppress(EOFError, ConnectionResetError):
            while worker.connection.poll():
                said = worker.connection.recv()
                if isinstance(said, Began):
                    worker.trials[said.study, said.trial] = _Trial(said, time.monotonic())
                elif isinstance(said, StepDone):
                    worker.trials[said.study, said.trial].step = said.number
                elif isinstance(said, Ended):
                    del worker.trials[said.study, said.trial]
                    self._deaths = 0
                elif isinstance(said, GaveUp):
                    self._hear(said)
                elif isinstance(said, Crashed):
                    worker.crashed = said

    def _hear(self, said: GaveUp) -> None:
        if said.study is None or len((self._assignment and self._assignment.studies) or ()) == 1:
            raise WorkError(said.message, said.exit_code)
        if said not in self.given_up:  # each worker finds it out for itself
            self.given_up.add(said)
            print(said.message, file=sys.stderr)

    def _end_overdue(self, worker: _Process, trial: _Trial) -> None:
        worker.process.kill()
        self._replace(worker, took_longer(trial.said.limit_seconds))

    def _handle_exit(self, worker: _Process) -> None:
        worker.process.join()
        _refuse_unguarded(worker)
        if worker.process.exitcode in (0, INTERRUPTED) and not worker.trials:  # else its code ended it
            self._remove(worker)
            return
        cause = _cause(worker)
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise WorkError(f"{count(self._deaths, 'worker')} died; the last one {cause}")
        print(f"worker {worker.process.pid} {cause}; another takes its place", file=sys.stderr)
        self._replace(worker, f"its worker {cause}")

    def _replace(self, worker: _Process, cause: str) -> None:
        worker.process.join()
        self._remove(worker)
        self._fail_trial_of(worker, cause)
        self._start(worker.device)

    def _fail_trial_of(self, worker: _Process, cause: str) -> None:
        if self._storage is not None and self._assignment is not None:
            studies = self._assignment.studies or study_names(self._storage)
            fail_trial_of(self._storage, studies, worker.process.pid or 0, self._assignment.parent, cause)

    def _remove(self, worker: _Process) -> None:
        worker.connection.close()
        self._processes.remove(worker)

    def _start(self, device: str) -> None:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(target=live, args=(self._preload, theirs))
        # A worker inherits what is blocked, and lets signals in once it can answer them.
        with deferred():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                process.start()
                theirs.close()
                self._processes.append(_Process(process, ours, device))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._order(self._processes[-1])


def _refuse_unguarded(worker: _Process) -> None:
    if worker.process.exitcode == UNGUARDED:
        raise RequestError(
            "several workers are processes of their own, and each runs the script again that starts them: put what is "
            "to run once below if __name__ == '__main__':, or take workers=1"
        ) from None


def _cause(worker: _Process) -> str:
    exit_code = worker.process.exitcode
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"ended with exit code {exit_code}" + (f" ({worker.crashed.message})" if worker.crashed else "")
