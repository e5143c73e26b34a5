"""Workers: start a trial, evaluate it, tell its result; and the parent that looks after several of them.

A worker is a process of its own, spawned, never forked. It is handed what it needs to evaluate a trial as the import
path of a function, so this file knows nothing of training, and its parent never imports torch.

Only the parent answers the terminal: workers ignore SIGINT and stop at SIGTERM, which the parent passes on once. A
stopping worker gives its trial back at once. A second signal ends everything immediately; what then stays RUNNING
is found dead by the next worker that looks.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from . import records
from . import storage as stored
from .budget import NoTrial, fail_trial_of, make_pruner, start_trial
from .errors import HpoError, WorkError
from .presence import Presence, Worker
from .study import StudyDefinition, define_study


class Objective(Protocol):
    """Maps a trial to its value; raises optuna.TrialPruned where the trial is pruned."""

    @property
    def device(self) -> str:
        """The device that it works on, for people."""

    def __call__(self, trial: optuna.Trial) -> float:
        """Evaluates the trial."""


MakeObjective = Callable[[StudyDefinition, str, Path], Objective]

POLL_SECONDS = 0.5
STOP_SECONDS = 10.0
INTERRUPTED = 130
MAX_DEATHS = 20  # of worker processes, before the run is given up


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker process is told at its start; it reads the rest from the storage.

    Attributes:
        target: the number of finished trials at which the study has enough.
        run_began_at: the number of the first trial that this run could have started.
        make_objective: `module:function`, given the study's definition, the device and the data folder.
        parent: the lock file of the process that looks after the worker.
    """

    url: str
    study: str
    target: int
    run_began_at: int
    device: str
    data_folder: Path
    make_objective: str = "hpo.objective:make_objective"
    parent: str = ""


class Stop:
    """The wish to stop. While a trial is evaluated it interrupts; elsewhere it waits to be asked for."""

    def __init__(self) -> None:
        self.asked = False  # a plain flag: whatever takes a lock could deadlock in a signal handler
        self._in_trial = False

    def ask(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Takes a signal: the first stops the worker, the second ends the process."""
        if self.asked:
            os._exit(INTERRUPTED)
        self.asked = True
        if self._in_trial:
            raise KeyboardInterrupt

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Within, a signal raises KeyboardInterrupt."""
        self._in_trial = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._in_trial = False


def run_worker(assignment: Assignment, make_objective: MakeObjective, stop: Stop) -> None:
    """Works on a study until it has its trials, or a stop is asked for.

    Raises:
        HpoError: where it cannot go on; a trial that it had begun is given back.
    """
    storage = stored.open_storage(assignment.url, create=True)
    definition = define_study(records.study_attributes(storage, assignment.study)["definition"], name=assignment.study)
    study = optuna.load_study(study_name=assignment.study, storage=storage, pruner=make_pruner(definition))
    objective = make_objective(definition, assignment.device, assignment.data_folder)
    with Presence() as presence:
        worker = Worker(platform.node(), os.getpid(), objective.device, str(presence.file), assignment.parent)
        while not stop.asked:
            started = start_trial(
                storage, study, definition, worker, target=assignment.target, run_began_at=assignment.run_began_at
            )
            if started is NoTrial.DONE:
                return
            if isinstance(started, NoTrial):
                time.sleep(POLL_SECONDS)
            else:
                run_trial(storage, started, objective, stop)


def run_trial(storage: RDBStorage, trial: optuna.Trial, objective: Objective, stop: Stop) -> None:
    """Evaluates a trial and tells its result; whatever happens, the trial does not stay RUNNING.

    A trial that was given up for dead meanwhile refuses whatever is told of it; its result is dropped.
    """
    with _heartbeat(storage, trial):
        try:
            _evaluate(storage, trial, objective, stop)
        except UpdateFinishedTrialError:
            print(f"trial {trial.number} was given up for dead meanwhile; its result is dropped", file=sys.stderr)


def _evaluate(storage: RDBStorage, trial: optuna.Trial, objective: Objective, stop: Stop) -> None:
    """The one place where an exception becomes a state.

    An interruption gives the place back; an error in training is kept with its traceback.
    """

    def tell(state: TrialState, *values: float) -> None:
        # Not study.tell, which would give a pruned trial its last intermediate value for an objective.
        storage.set_trial_state_values(stored.trial_id(trial), state, values or None)

    try:
        with stop.interrupts():
            value = objective(trial)
    except optuna.TrialPruned:
        tell(TrialState.PRUNED)
    except KeyboardInterrupt:
        tell(TrialState.FAIL)
    except HpoError:
        tell(TrialState.FAIL)
        raise
    except UpdateFinishedTrialError:
        raise
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        trial.set_user_attr("traceback", traceback.format_exc())
        tell(TrialState.FAIL)
    else:
        tell(TrialState.COMPLETE, value)


@contextmanager
def _heartbeat(storage: RDBStorage, trial: optuna.Trial) -> Iterator[None]:
    """Records the trial's heartbeat in a thread of its own.

    Optuna's own thread would die at the first database error.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(stored.HEARTBEAT_SECONDS):
            try:
                storage.record_heartbeat(stored.trial_id(trial))
            except (
                Exception
            ) as error:  # the next beat may succeed; should none, the trial is given up after the grace period
                warnings.warn(f"trial {trial.number}: heartbeat not recorded: {error}", stacklevel=1)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Crew:
    """Several worker processes under one parent, while it is entered. A worker that dies is replaced.

    On leaving, every worker is asked to stop, and ended if it does not.
    """

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self._assignment = assignment
        self._workers = workers
        self._spawn = multiprocessing.get_context("spawn")
        self._presence = Presence()
        self._deaths = 0
        self._processes: dict[BaseProcess, Connection] = {}  # each with what it has to say before it ends

    def __enter__(self) -> Crew:
        self._presence.__enter__()
        self._assignment = replace(self._assignment, parent=str(self._presence.file))
        try:
            for _ in range(self._workers):
                self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for process in self._processes:
                process.terminate()
            end = time.monotonic() + STOP_SECONDS
            for process in self._processes:
                process.join(max(0.0, end - time.monotonic()))
        finally:  # after a second Ctrl-C too
            for process in self._processes:
                process.kill()
                process.join()
            self._presence.__exit__(kind, error, trace)

    def is_working(self) -> bool:
        """Says whether any worker still works; replaces those that died.

        Raises:
            WorkError: where a worker said that it cannot go on, or too many died.
        """
        for process, connection in list(self._processes.items()):
            if process.is_alive():
                continue
            del self._processes[process]
            process.join()
            with connection, suppress(EOFError):  # where it had nothing to say
                raise WorkError(*connection.recv())
            if process.exitcode not in (0, INTERRUPTED):
                self._replace(process)
        return bool(self._processes)

    def wait(self, seconds: float) -> None:
        """Sleeps until a worker ends, `seconds` at most."""
        multiprocessing.connection.wait([process.sentinel for process in self._processes], seconds)

    def _replace(self, dead: BaseProcess) -> None:
        cause = f"its worker {_cause(dead.exitcode)}"
        storage = stored.open_storage(self._assignment.url, create=True)
        fail_trial_of(storage, self._assignment.study, dead.pid or 0, self._assignment.parent, cause)
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise WorkError(f"{self._deaths} workers died; the last one {_cause(dead.exitcode)}")
        print(f"worker {dead.pid} {_cause(dead.exitcode)}; another takes its place", file=sys.stderr)
        self._start()

    def _start(self) -> None:
        ours, theirs = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_main, args=(self._assignment, theirs))
        process.start()
        theirs.close()
        self._processes[process] = ours


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"ended with exit code {exit_code}"


def _main(assignment: Assignment, parent: Connection) -> None:
    """The life of a worker process; what ends it for good it says to its parent: a line and an exit code."""
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop.ask)
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        module, _, function = assignment.make_objective.partition(":")
        run_worker(assignment, getattr(importlib.import_module(module), function), stop)
    except HpoError as error:
        parent.send((str(error), error.exit_code))
    except stored.FAILURES as error:
        parent.send((f"storage {stored.show_url(assignment.url)} failed: {stored.explain_failure(error)}", 1))
    sys.exit(INTERRUPTED if stop.asked else 0)


def _follow_parent() -> None:
    """Waits for the parent's end, however it comes, and follows it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os._exit(INTERRUPTED)
