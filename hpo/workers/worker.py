"""A worker: starts a trial, evaluates it, tells its result, and so on until there is nothing to do.

It is handed what it needs to evaluate a trial as a function, so this file knows nothing of training.

A worker stops at SIGTERM: it gives its trial back at once. Further signals say nothing new, for a service manager
sends one to each process of a group, and the parent passes its own on; who is in a hurry kills.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Protocol

import optuna
from optuna.storages import RDBStorage

from hpo.errors import HpoError, StorageGone, UnknownName, WorkError
from hpo.search.samplers import concerns, make_pruner
from hpo.storage.backends import open_storage
from hpo.storage.fast_reads import TrialGone
from hpo.storage.locks import Stopped
from hpo.storage.queries import study_attributes
from hpo.storage.studies import UnfinishedStudy, own_studies, unfinished_studies
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import show_only
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.budget import Heartbeats, look_for_slot, start_trial
from hpo.workers.checking import open_stored
from hpo.workers.evaluate import Stop, run_trial
from hpo.workers.liveness import LivenessLock
from hpo.workers.messages import Assignment, Began, Ended, GaveUp, StepDone
from hpo.workers.several import PATIENCE_SECONDS, Running, Underway
from hpo.workers.slots import NoTrial


class Objective(Protocol):
    """Maps a trial to its value; raises optuna.TrialPruned where the trial is pruned."""

    @property
    def device(self) -> str:
        """The device that it works on, for people."""

    def __call__(self, trial: optuna.Trial, step_done: Callable[[int], None]) -> float:
        """Evaluates the trial; `step_done` is given the number of each step that is done."""


MakeObjective = Callable[[StudyDefinition, str, Sources], Objective]

MAX_OBJECTIVES = 4  # kept at a time: each holds its rounds' pairs, 31 MB
SHORTEST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0
STEP_SECONDS = 0.5


Tell = Callable[[Began | StepDone | Ended | GaveUp], None]


def run_worker(assignment: Assignment, make_objective: MakeObjective, stop: Stop, tell: Tell) -> None:
    """Serves the studies of an assignment until they have their trials, or a stop is asked for.

    A study that cannot be served here, for lack of its data or for too many failures, is given up, and the others
    are gone on with; `tell` is told so.
    """
    storage = open_storage(assignment.url, write=True, patient=True)
    try:
        with LivenessLock() as lock:
            _work(_Server(storage, assignment, make_objective, str(lock.file), stop, tell), stop)
    finally:
        storage.engine.dispose()


def _work(server: _Server, stop: Stop) -> None:
    pause, look_again = SHORTEST_PAUSE_SECONDS, 0.0
    try:
        while not stop.asked:
            ended = server.running.go_on()  # which may have left a slot free
            if server.has_room() and (ended or not server.running or time.monotonic() >= look_again):
                with server.running.passing_over():
                    outcome = server.work()
                if outcome is None:
                    pause = SHORTEST_PAUSE_SECONDS
                    continue
                is_done = outcome is NoTrial.DONE and not server.running and server.assignment.exit_when_done
                if is_done and not server.awaits_a_study() and server.work() is NoTrial.DONE:
                    break  # looked for twice: one that was awaited may have come in between
                if server.running:
                    look_again = time.monotonic() + pause
                else:
                    time.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, 1.5 * pause)
            server.running.wait()
    finally:
        server.running.give_back()


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
        self._at_once = 1
        self.running = Running(self._give_up, self._ended)

    def has_room(self) -> bool:
        """Says whether another trial could be run beside those that are."""
        return self._has_room_for(self._at_once)

    def _has_room_for(self, at_once: int) -> bool:
        return not self.running or len(self.running) < min(at_once, self.running.most)

    def work(self) -> NoTrial | None:
        """Works on one trial, or begins it, where several run at once; or says why there is none to work on."""
        outcome = NoTrial.DONE
        for wanted in self._wanted():
            try:
                found = self._work_on(wanted)
            except StorageGone:
                raise
            except HpoError as error:
                self._give_up(wanted, error)
                outcome = NoTrial.TAKEN  # so that the others are looked at again, and a successor of the same name
                continue
            if found is None:
                return None
            if found is NoTrial.TAKEN:
                outcome = found
        return outcome

    def _give_up(self, wanted: UnfinishedStudy, error: HpoError) -> None:
        self._given_up.add((wanted.name, wanted.identity))
        self._tell(GaveUp(wanted.name, str(error), error.exit_code))

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
            identity = study_attributes(self._storage, wanted.name).get("identity")
        except UnknownName:
            return False
        return wanted.identity in (None, identity)

    def _serve(self, wanted: UnfinishedStudy) -> NoTrial | None:
        name, stop = wanted.name, self._stop
        if not self.running.are_of(name, wanted.identity):  # trials of one study alone run beside each other
            return NoTrial.TAKEN
        study, definition = self._open(name, wanted.identity)
        terms: dict[str, Any] = {
            "target": wanted.target,
            "run_began_at": self.assignment.began_at.get(name, 0),
            "heartbeats": self._heartbeats,
            "stop": lambda: stop.asked,
            "mine": self.running.ids,
        }
        key = (name, wanted.identity)
        if key not in self._objectives:
            slot = look_for_slot(self._storage, name, definition, **terms)
            if isinstance(slot, NoTrial):
                return slot
            self._make_room()
            self._objectives[key] = self._make_objective(definition, self.assignment.device, self.assignment.sources)
        objective = self._objectives[key]
        at_once = 1 if self.assignment.at_once == 1 else getattr(objective, "at_once", 1)
        if not self._has_room_for(at_once):
            return NoTrial.TAKEN
        worker = Worker(platform.node(), os.getpid(), objective.device, self._file, self.assignment.parent)
        started = start_trial(self._storage, study, definition, worker, **terms)
        if isinstance(started, NoTrial):
            return started
        self._at_once = at_once
        self._evaluate(wanted, definition, objective, started)
        return None

    def _evaluate(
        self, wanted: UnfinishedStudy, definition: StudyDefinition, objective: Any, trial: optuna.Trial
    ) -> None:
        """Evaluates a trial; one of several is begun, and gone on with when its device is ready."""
        name, number, run = wanted.name, trial.number, definition.run
        step_done = self._now_and_then(name, number)
        if self._at_once > 1:
            self._tell(Began(name, number, run.trial_timeout_seconds, PATIENCE_SECONDS))
            underway = Underway(
                *(self._storage, trial, objective.steps(trial, step_done), self._stop),
                heartbeat_seconds=run.heartbeat_seconds,
                limit_seconds=run.trial_timeout_seconds,
                gives_back=self.running.lack_memory,
            )
            self.running.add(wanted, number, underway)
            return
        self._tell(Began(name, number, run.trial_timeout_seconds))
        told, was_told = partial(objective, step_done=step_done), True
        try:
            was_told = run_trial(self._storage, trial, told, self._stop, run.heartbeat_seconds)
        finally:
            self._ended(name, number, was_told)

    def _ended(self, study: str, trial: int, was_told: bool) -> None:
        if not was_told:
            self._open.cache_clear()  # what Optuna remembers may be of a database that was restored since
        self._tell(Ended(study, trial))

    def _now_and_then(self, study: str, trial: int) -> Callable[[int], None]:
        """Returns what tells of steps, but not of each: some take milliseconds."""
        told_at = -math.inf

        def step_done(number: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at >= STEP_SECONDS:
                told_at = time.monotonic()
                self._tell(StepDone(study, trial, number))

        return step_done

    def _make_room(self) -> None:
        while len(self._objectives) >= MAX_OBJECTIVES:
            del self._objectives[next(iter(self._objectives))]

    def _open_study(self, name: str, identity: str | None) -> tuple[optuna.Study, StudyDefinition]:
        definition = open_stored(self._storage, name, self.assignment.sources, self.assignment.sha256)
        study = optuna.load_study(study_name=name, storage=self._storage, pruner=make_pruner(definition))
        show_only(self._storage, study, partial(concerns, definition=definition))
        return study, definition


def was_deleted(study: str) -> WorkError:
    """Returns the error about a study that somebody deleted while it was worked on."""
    return WorkError(f"study {study!r} was deleted while it was worked on")
