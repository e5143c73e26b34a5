"""The supervisor of several worker processes: starts them, watches them, replaces those that die.

Processes are spawned, never forked, and handed their objective as the import path of a function: the parent never
imports torch. Only the parent answers the terminal: workers ignore SIGINT and SIGHUP and stop at SIGTERM, which the
parent passes on once. A parent that dies takes its workers along.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from optuna.storages import RDBStorage

from hpo.errors import HpoError, WorkError, explain_os_error
from hpo.signals import INTERRUPTED, SIGNALS, check, deferred, end_on_signals, hush, stopping
from hpo.storage.backends import FAILURES, explain_failure
from hpo.storage.queries import study_names
from hpo.text.formatting import count
from hpo.text.output import guard_streams
from hpo.text.secrets import show_url
from hpo.text.streams import prepare
from hpo.workers.budget import fail_trial_of
from hpo.workers.evaluate import Stop
from hpo.workers.liveness import LivenessLock
from hpo.workers.messages import Assignment, Began, Crashed, Ended, GaveUp, StepDone
from hpo.workers.worker import run_worker

STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
MAX_DEATHS = 20  # of worker processes, none of which ended a trial, before the run is given up


@dataclass
class _Process:
    """A worker process, and what its parent knows of it."""

    process: BaseProcess
    connection: Connection
    device: str
    trial: Began | None = None
    began: float = 0.0
    crashed: Crashed | None = None
    step: int | None = None

    @property
    def is_overdue(self) -> bool:
        """Whether its trial takes longer than it may."""
        limit = self.trial.limit_seconds if self.trial else None
        return limit is not None and time.monotonic() - self.began > limit


class Supervisor:
    """Several worker processes, one for each of the devices, while it is entered. A worker that dies is replaced.

    On leaving, every worker is asked to stop, and ended if it does not.

    Attributes:
        given_up: what workers said of studies that cannot be served here.
    """

    def __init__(self, storage: RDBStorage, assignment: Assignment, devices: Sequence[str]) -> None:
        self._storage, self._assignment, self._devices = storage, assignment, devices
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
            self._assignment = replace(self._assignment, parent=str(self._lock.file))
            for device in self._devices:
                self._start(device)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

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
            if worker.is_overdue:
                self._end_overdue(worker)
            elif not worker.process.is_alive():
                self._listen(worker)  # to what it said before it died
                self._handle_exit(worker)
        return bool(self._processes)

    def steps(self) -> dict[tuple[str, int], int]:
        """Returns how far running trials are: study, trial number -> the last step that a worker told of."""
        return {(m.trial.study, m.trial.trial): m.step for m in self._processes if m.trial and m.step}

    def wait(self, seconds: float) -> None:
        """Sleeps until a worker ends, `seconds` at most; what workers say meanwhile waits, for there is much of it."""
        multiprocessing.connection.wait([worker.process.sentinel for worker in self._processes], seconds)

    def _alive(self) -> list[BaseProcess]:
        return [worker.process for worker in self._processes if worker.process.is_alive()]

    def _listen(self, worker: _Process) -> None:
        with suppress(EOFError, ConnectionResetError):
            while worker.connection.poll():
                said = worker.connection.recv()
                if isinstance(said, Crashed):
                    worker.crashed = said
                    continue
                if isinstance(said, StepDone):
                    worker.step = said.number
                    continue
                worker.step = None
                worker.trial, worker.began = (said if isinstance(said, Began) else None), time.monotonic()
                if isinstance(said, Ended):
                    self._deaths = 0
                elif isinstance(said, GaveUp):
                    self._hear(said)

    def _hear(self, said: GaveUp) -> None:
        if said.study is None or len(self._assignment.studies or ()) == 1:
            raise WorkError(said.message, said.exit_code)
        if said not in self.given_up:  # each worker finds it out for itself
            self.given_up.add(said)
            print(said.message, file=sys.stderr)

    def _end_overdue(self, worker: _Process) -> None:
        limit = worker.trial.limit_seconds if worker.trial else None
        worker.process.kill()
        self._replace(worker, f"it took longer than {limit:g} s (run.trial_timeout_seconds)")

    def _handle_exit(self, worker: _Process) -> None:
        worker.process.join()
        if worker.process.exitcode in (0, INTERRUPTED):
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
        studies = self._assignment.studies or study_names(self._storage)
        fail_trial_of(self._storage, studies, worker.process.pid or 0, self._assignment.parent, cause)

    def _remove(self, worker: _Process) -> None:
        worker.connection.close()
        self._processes.remove(worker)

    def _start(self, device: str) -> None:
        ours, theirs = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_main, args=(replace(self._assignment, device=device), theirs))
        # A worker inherits what is blocked, and lets signals in once it can answer them.
        with deferred():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                process.start()
                theirs.close()
                self._processes.append(_Process(process, ours, device))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(worker: _Process) -> str:
    exit_code = worker.process.exitcode
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"ended with exit code {exit_code}" + (f" ({worker.crashed.message})" if worker.crashed else "")


def _main(assignment: Assignment, parent: Connection) -> None:
    """The life of a worker process; what ends it for good it says to its parent."""
    prepare()
    guard_streams()
    hush()
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_on_signals()  # while it imports torch, it has nothing to give back
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_follow_parent, daemon=True).start()

    def tell(said: Began | StepDone | Ended | GaveUp | Crashed) -> None:
        if not isinstance(said, StepDone) or _has_room(parent):
            with suppress(BrokenPipeError):  # the parent is gone: `_follow_parent` ends us too
                parent.send(said)

    try:
        module, _, function = assignment.make_objective.partition(":")
        make_objective = getattr(importlib.import_module(module), function)
        signal.signal(signal.SIGTERM, stop.ask)
        run_worker(assignment, make_objective, stop, tell)
    except HpoError as error:
        tell(GaveUp(None, str(error), error.exit_code))
    except FAILURES as error:
        tell(GaveUp(None, f"storage {show_url(assignment.url)} failed: {explain_failure(error)}", 1))
    except OSError as error:
        tell(GaveUp(None, explain_os_error(error), 1))
    except Exception as error:
        tell(Crashed(f"{type(error).__name__}: {error}".partition("\n")[0]))
        raise
    sys.exit(INTERRUPTED if stop.asked else 0)


def _has_room(connection: Connection) -> bool:
    """Whether something can be sent at once: no training shall wait for a parent that waits for the database."""
    return bool(select.select([], [connection], [], 0)[1])


def _follow_parent() -> None:
    """Waits for the parent's end, however it comes, and follows it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(INTERRUPTED)
