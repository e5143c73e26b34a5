"""A crew: several worker processes under a parent that looks after them.

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
from hpo.storage import backends as stored
from hpo.storage import queries as records
from hpo.text import streams
from hpo.text.formatting import count
from hpo.text.output import guard_streams
from hpo.workers.budget import fail_trial_of
from hpo.workers.liveness import Presence
from hpo.workers.signals import INTERRUPTED, SIGNALS, check, deferred, end_on_signals, hush, stopping
from hpo.workers.worker import Assignment, Began, Ended, EpochDone, GaveUp, Stop, run_worker

STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
MAX_DEATHS = 20  # of worker processes, none of which ended a trial, before the run is given up


@dataclass(frozen=True)
class Crashed:
    """A worker process ends by an error that is a bug, here or in what it calls."""

    message: str


@dataclass
class _Member:
    """A worker process, and what its parent knows of it."""

    process: BaseProcess
    connection: Connection
    device: str
    trial: Began | None = None
    began: float = 0.0
    crashed: Crashed | None = None
    epoch: int | None = None

    @property
    def is_overdue(self) -> bool:
        """Whether its trial takes longer than it may."""
        limit = self.trial.limit_seconds if self.trial else None
        return limit is not None and time.monotonic() - self.began > limit


class Crew:
    """Several worker processes, one for each of the devices, while it is entered. A worker that dies is replaced.

    On leaving, every worker is asked to stop, and ended if it does not.

    Attributes:
        given_up: what workers said of studies that cannot be served here.
    """

    def __init__(self, storage: RDBStorage, assignment: Assignment, devices: Sequence[str]) -> None:
        self._storage, self._assignment, self._devices = storage, assignment, devices
        self._spawn = multiprocessing.get_context("spawn")
        self._presence = Presence()
        self._members: list[_Member] = []
        self._deaths = 0
        self.given_up: set[GaveUp] = set()

    def __enter__(self) -> Crew:
        self._presence.__enter__()
        try:
            with deferred():  # not in `_start`: it lets the signals through that are blocked there
                multiprocessing.resource_tracker.ensure_running()
            self._assignment = replace(self._assignment, parent=str(self._presence.file))
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
            for member in self._members:
                member.process.terminate()
            end = time.monotonic() + STOP_SECONDS
            while (alive := self._alive()) and time.monotonic() < end and not is_hurried():
                multiprocessing.connection.wait([process.sentinel for process in alive], POLL_SECONDS)
            for member in self._members:
                member.process.kill()
                member.process.join()
            self._presence.__exit__(None, None, None)  # its file can go: that workers died, theirs tell
        if kind is None:
            check()

    def is_working(self) -> bool:
        """Says whether any worker still works; replaces those that died, and those whose trial takes too long.

        Raises:
            WorkError: where a worker cannot go on at all, or too many died.
            KeyboardInterrupt: where one was dropped.
        """
        check()
        for member in list(self._members):
            self._listen(member)
            if member.is_overdue:
                self._end_overdue(member)
            elif not member.process.is_alive():
                self._listen(member)  # to its last words
                self._bury(member)
        return bool(self._members)

    def epochs(self) -> dict[tuple[str, int], int]:
        """Returns how far running trials are: study, trial number -> the last epoch that a worker told of."""
        return {(m.trial.study, m.trial.trial): m.epoch for m in self._members if m.trial and m.epoch}

    def wait(self, seconds: float) -> None:
        """Sleeps until a worker ends, `seconds` at most; what workers say meanwhile waits, for there is much of it."""
        multiprocessing.connection.wait([member.process.sentinel for member in self._members], seconds)

    def _alive(self) -> list[BaseProcess]:
        return [member.process for member in self._members if member.process.is_alive()]

    def _listen(self, member: _Member) -> None:
        with suppress(EOFError, ConnectionResetError):
            while member.connection.poll():
                said = member.connection.recv()
                if isinstance(said, Crashed):
                    member.crashed = said
                    continue
                if isinstance(said, EpochDone):
                    member.epoch = said.number
                    continue
                member.epoch = None
                member.trial, member.began = (said if isinstance(said, Began) else None), time.monotonic()
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

    def _end_overdue(self, member: _Member) -> None:
        limit = member.trial.limit_seconds if member.trial else None
        member.process.kill()
        self._replace(member, f"it took longer than {limit:g} s (run.trial_timeout_seconds)")

    def _bury(self, member: _Member) -> None:
        member.process.join()
        if member.process.exitcode in (0, INTERRUPTED):
            self._remove(member)
            return
        cause = _cause(member)
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise WorkError(f"{count(self._deaths, 'worker')} died; the last one {cause}")
        print(f"worker {member.process.pid} {cause}; another takes its place", file=sys.stderr)
        self._replace(member, f"its worker {cause}")

    def _replace(self, member: _Member, cause: str) -> None:
        member.process.join()
        self._remove(member)
        self._fail_trial_of(member, cause)
        self._start(member.device)

    def _fail_trial_of(self, member: _Member, cause: str) -> None:
        studies = self._assignment.studies or records.study_names(self._storage)
        fail_trial_of(self._storage, studies, member.process.pid or 0, self._assignment.parent, cause)

    def _remove(self, member: _Member) -> None:
        member.connection.close()
        self._members.remove(member)

    def _start(self, device: str) -> None:
        ours, theirs = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_main, args=(replace(self._assignment, device=device), theirs))
        # A worker inherits what is blocked, and lets signals in once it can answer them.
        with deferred():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                process.start()
                theirs.close()
                self._members.append(_Member(process, ours, device))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(member: _Member) -> str:
    exit_code = member.process.exitcode
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"ended with exit code {exit_code}" + (f" ({member.crashed.message})" if member.crashed else "")


def _main(assignment: Assignment, parent: Connection) -> None:
    """The life of a worker process; what ends it for good it says to its parent."""
    streams.prepare()
    guard_streams()
    hush()
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_on_signals()  # while it imports torch, it has nothing to give back
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_follow_parent, daemon=True).start()

    def tell(said: Began | EpochDone | Ended | GaveUp | Crashed) -> None:
        if not isinstance(said, EpochDone) or _has_room(parent):
            with suppress(BrokenPipeError):  # the parent is gone: `_follow_parent` ends us too
                parent.send(said)

    try:
        module, _, function = assignment.make_objective.partition(":")
        make_objective = getattr(importlib.import_module(module), function)
        signal.signal(signal.SIGTERM, stop.ask)
        run_worker(assignment, make_objective, stop, tell)
    except HpoError as error:
        tell(GaveUp(None, str(error), error.exit_code))
    except stored.FAILURES as error:
        tell(GaveUp(None, f"storage {stored.show_url(assignment.url)} failed: {stored.explain_failure(error)}", 1))
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
