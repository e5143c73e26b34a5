"""A worker: starts a trial, evaluates it, tells its result, and so on until there is nothing to do.

It is handed what it needs to evaluate a trial as a function, so this file knows nothing of training.

A worker stops at SIGTERM: it gives its trial back at once. Further signals say nothing new, for a service manager
sends one to each process of a group, and the parent passes its own on; who is in a hurry kills.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from . import records
from . import storage as stored
from .address import without_secrets
from .budget import Heartbeats, NoTrial, look_for_place, start_trial
from .datasets import DATASETS, prepare
from .errors import HpoError, StorageGone, UnknownName, WorkError
from .frugal import TrialGone
from .locks import Stopped
from .presence import Presence, Worker
from .results import UnfinishedStudy, own_studies, read_definition, unfinished_studies
from .sampling import concerns, make_pruner
from .signals import interrupt
from .study import StudyDefinition


class Objective(Protocol):
    """Maps a trial to its value; raises optuna.TrialPruned where the trial is pruned."""

    @property
    def device(self) -> str:
        """The device that it works on, for people."""

    def __call__(self, trial: optuna.Trial, epoch_done: Callable[[int], None]) -> float:
        """Evaluates the trial; `epoch_done` is given the number of each epoch that is trained."""


Evaluate = Callable[[optuna.Trial], float]
MakeObjective = Callable[[StudyDefinition, str, Path], Objective]

MAX_OBJECTIVES = 4  # kept at a time: each holds its rounds' pairs, 31 MB
SHORTEST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0
EPOCH_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker process is told at its start; it reads the rest from the storage.

    Attributes:
        studies: the studies to serve, or None for all that the storage has, and will have.
        target: the number of finished trials at which a study has enough; None takes what was asked for last.
        identity: of the one study to serve, where a target is given; see `results.UnfinishedStudy`.
        began_at: study -> the number of the first trial that this run could have started there; 0 for others.
        exit_when_done: whether to end when every study has its trials, those that are still to come too, or else wait
            for more.
        device: for each process in turn.
        make_objective: `module:function`, given the study's definition, the device and the data folder.
        parent: the lock file of the process that looks after the worker.
    """

    url: str
    studies: tuple[str, ...] | None
    target: int | None = None
    identity: str | None = None
    began_at: Mapping[str, int] = field(default_factory=dict)
    exit_when_done: bool = True
    device: str
    data_folder: Path
    make_objective: str = "hpo.objective:make_objective"
    parent: str = ""


@dataclass(frozen=True)
class Began:
    """A worker began a trial, which may take `limit_seconds`."""

    study: str
    trial: int
    limit_seconds: float | None


@dataclass(frozen=True)
class EpochDone:
    """A worker has trained another epoch of its trial."""

    number: int


@dataclass(frozen=True)
class Ended:
    """A worker ended its trial, however."""


@dataclass(frozen=True)
class GaveUp:
    """A worker cannot go on: with one study, or where `study` is None, at all."""

    study: str | None
    message: str
    exit_code: int


Tell = Callable[[Began | EpochDone | Ended | GaveUp], None]


class Stop:
    """The wish to stop. While a trial is evaluated it interrupts; elsewhere it waits to be asked for."""

    def __init__(self) -> None:
        self.asked = False  # a plain flag: whatever takes a lock could deadlock in a signal handler
        self._in_trial = False

    def ask(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Takes a signal; a second one must not interrupt the first's work."""
        if self.asked and number != signal.SIGALRM:
            return
        self.asked = True
        if self._in_trial:
            # Once more, in a second: Python drops an exception that a callback of the garbage collector meets.
            signal.signal(signal.SIGALRM, self.ask)
            signal.alarm(1)
            interrupt()

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
            signal.alarm(0)


def run_worker(assignment: Assignment, make_objective: MakeObjective, stop: Stop, tell: Tell) -> None:
    """Serves the studies of an assignment until they have their trials, or a stop is asked for.

    A study that cannot be served here, for lack of its dataset or for too many failures, is given up, and the others
    are gone on with; `tell` is told so.
    """
    storage = stored.open_storage(assignment.url, write=True, patient=True)
    try:
        with Presence() as presence:
            _work(_Server(storage, assignment, make_objective, str(presence.file), stop, tell), stop)
    finally:
        storage.engine.dispose()


def _work(server: _Server, stop: Stop) -> None:
    pause = SHORTEST_PAUSE_SECONDS
    while not stop.asked:
        outcome = server.work()
        if outcome is None:
            pause = SHORTEST_PAUSE_SECONDS
        elif outcome is NoTrial.DONE and server.assignment.exit_when_done and not server.awaits_a_study():
            break
        else:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, 1.5 * pause)


class _Server:
    """Serves one study after the other, the oldest first."""

    def __init__(
        self,
        storage: RDBStorage,
        assignment: Assignment,
        make_objective: MakeObjective,
        file: str,
        stop: Stop,
        tell: Tell,
    ) -> None:
        self._came: set[str] = set()
        self._given_up: set[tuple[str, str | None]] = set()
        self._heartbeats = Heartbeats()
        self._objectives: dict[tuple[str, str | None], Objective] = {}
        self._storage, self.assignment, self._make_objective = storage, assignment, make_objective
        self._file, self._stop, self._tell = file, stop, tell
        self._open = lru_cache(maxsize=64)(self._open_study)

    def work(self) -> NoTrial | None:
        """Works on one trial, or says why there is none to work on."""
        outcome = NoTrial.DONE
        for wanted in self._wanted():
            try:
                found = self._work_on(wanted)
            except StorageGone:
                raise
            except HpoError as error:
                self._given_up.add((wanted.name, wanted.identity))
                self._tell(GaveUp(wanted.name, str(error), error.exit_code))
                outcome = NoTrial.TAKEN  # so that the others are looked at again, and a successor of the same name
                continue
            if found is None:
                return None
            if found is NoTrial.TAKEN:
                outcome = found
        return outcome

    def awaits_a_study(self) -> bool:
        """Says whether a study that was named, or any where none was, has not come into the storage yet."""
        named = self.assignment.studies
        self._came |= own_studies(self._storage).keys()
        return not self._came.issuperset(named) if named else not self._came

    def _wanted(self) -> list[UnfinishedStudy]:
        """Returns the studies that may need a trial."""
        chosen, target = self.assignment.studies, self.assignment.target
        if chosen is not None and target is not None:
            wanted = [UnfinishedStudy(name, target, self.assignment.identity) for name in chosen]
        else:
            wanted = unfinished_studies(self._storage)
        return [
            study
            for study in wanted
            if (study.name, study.identity) not in self._given_up and (chosen is None or study.name in chosen)
        ]

    def _work_on(self, wanted: UnfinishedStudy) -> NoTrial | None:
        self._came.add(wanted.name)
        try:
            return self._serve(wanted)
        except Stopped:
            return NoTrial.TAKEN
        except TrialGone:  # as when a backup is restored; what Optuna remembers of the study is of no use either
            self._open.cache_clear()
            return NoTrial.TAKEN
        except (KeyError, UnknownName) as error:  # Optuna's word for a study that is not there, and ours
            if self._is_there(wanted):
                raise
            raise was_deleted(wanted.name) from error

    def _is_there(self, wanted: UnfinishedStudy) -> bool:
        try:
            identity = records.study_attributes(self._storage, wanted.name).get("identity")
        except UnknownName:
            return False
        return wanted.identity in (None, identity)

    def _serve(self, wanted: UnfinishedStudy) -> NoTrial | None:
        name, stop = wanted.name, self._stop
        study, definition = self._open(name, wanted.identity)
        terms: dict[str, Any] = {
            "target": wanted.target,
            "run_began_at": self.assignment.began_at.get(name, 0),
            "heartbeats": self._heartbeats,
            "stop": lambda: stop.asked,
        }
        key = (name, wanted.identity)
        if key not in self._objectives:
            place = look_for_place(self._storage, name, definition, **terms)
            if isinstance(place, NoTrial):
                return place
            self._make_room()
            self._objectives[key] = self._make_objective(
                definition, self.assignment.device, self.assignment.data_folder
            )
        objective = self._objectives[key]
        worker = Worker(platform.node(), os.getpid(), objective.device, self._file, self.assignment.parent)
        started = start_trial(self._storage, study, definition, worker, **terms)
        if isinstance(started, NoTrial):
            return started
        self._tell(Began(name, started.number, definition.run.trial_timeout_seconds))
        told = partial(objective, epoch_done=self._now_and_then())
        if not run_trial(self._storage, started, told, stop, definition.run.heartbeat_seconds):
            self._open.cache_clear()  # what Optuna remembers of the study may be of a database that was restored since
        self._tell(Ended())
        return None

    def _now_and_then(self) -> Callable[[int], None]:
        """Returns what tells of epochs, but not of each: some take milliseconds."""
        told_at = -math.inf

        def epoch_done(number: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at >= EPOCH_SECONDS:
                told_at = time.monotonic()
                self._tell(EpochDone(number))

        return epoch_done

    def _make_room(self) -> None:
        while len(self._objectives) >= MAX_OBJECTIVES:
            del self._objectives[next(iter(self._objectives))]

    def _open_study(self, name: str, identity: str | None) -> tuple[optuna.Study, StudyDefinition]:
        definition = read_definition(self._storage, name)
        dataset = definition.protocol.dataset
        if records.study_attributes(self._storage, name)["dataset_sha256"] != DATASETS[dataset].sha256:
            raise WorkError(f"study {name!r} was created on another release of its dataset, {dataset}")
        prepare(dataset, self.assignment.data_folder)
        study = optuna.load_study(study_name=name, storage=self._storage, pruner=make_pruner(definition))
        stored.show_only(self._storage, study, partial(concerns, definition=definition))
        return study, definition


def was_deleted(study: str) -> WorkError:
    """Returns the error about a study that somebody deleted while it was worked on."""
    return WorkError(f"study {study!r} was deleted while it was worked on")


def run_trial(
    storage: RDBStorage, trial: optuna.Trial, objective: Evaluate, stop: Stop, heartbeat_seconds: float
) -> bool:
    """Evaluates a trial and tells its result; whatever happens, the trial does not stay RUNNING.

    A trial that was given up for dead meanwhile, or is not there any more, refuses whatever is told of it; its result
    is dropped. Returns whether it was told.
    """
    with _heartbeat(storage, trial, heartbeat_seconds):
        try:
            _evaluate(storage, trial, objective, stop)
        except UpdateFinishedTrialError:
            print(f"trial {trial.number} was given up for dead meanwhile; its result is dropped", file=sys.stderr)
            return False
        except TrialGone:
            print(f"trial {trial.number} was deleted meanwhile; its result is dropped", file=sys.stderr)
            return False
    return True


def _evaluate(storage: RDBStorage, trial: optuna.Trial, objective: Evaluate, stop: Stop) -> None:
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
    except (UpdateFinishedTrialError, TrialGone):
        raise
    except Exception as error:
        trial.set_user_attr("error", without_secrets(f"{type(error).__name__}: {error}"))
        trial.set_user_attr("traceback", without_secrets(traceback.format_exc()))
        tell(TrialState.FAIL)
    else:
        tell(TrialState.COMPLETE, value)


@contextmanager
def _heartbeat(storage: RDBStorage, trial: optuna.Trial, seconds: float) -> Iterator[None]:
    """Records the trial's heartbeat in a thread of its own.

    Optuna's own thread would die at the first database error.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                storage.record_heartbeat(stored.trial_id(trial))
            # The next beat may succeed; should none, the trial is given up after the grace period.
            except Exception as error:
                warnings.warn(f"trial {trial.number}: heartbeat not recorded: {error}", stacklevel=1)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
