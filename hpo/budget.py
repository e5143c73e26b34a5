"""The start lock: trials are started exactly as often as asked.

Whoever wants to start a trial holds the lock of its study, and starts one only while finished and living trials
together are fewer than asked for. Dead workers' trials are failed first; FAIL is final in Optuna, so a trial once
given up can never count, and its place is taken exactly once more.

A study has slots 0, 1, 2 …; a trial takes the lowest without a finished or living trial.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import suppress
from enum import Enum, auto

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from . import records
from . import storage as stored
from .errors import WorkError
from .formatting import count
from .locks import LockLost
from .outages import persistent
from .presence import Worker, probe
from .repetition import identity_of
from .sampling import Place, make_sampler, suggest
from .study import StudyDefinition


class NoTrial(Enum):
    """Why no trial was started."""

    DONE = auto()
    """The study has all the trials asked for."""
    TAKEN = auto()
    """All that are missing are running; should one of them fail, its place is free again."""


@persistent
def look_for_place(
    storage: RDBStorage,
    study: str,
    definition: StudyDefinition,
    *,
    target: int,
    run_began_at: int,
    stop: Callable[[], bool] = bool,
) -> Place | NoTrial:
    """Says whether a trial could be started now, for one who has costly things to prepare before.

    The arguments and errors are those of `start_trial`.
    """
    with stored.start_lock(storage, study).hold(stop):
        fail_dead_trials(storage, study, grace_seconds=definition.run.grace_seconds)
        return find_place(storage, study, definition, target=target, run_began_at=run_began_at)


@persistent
def start_trial(
    storage: RDBStorage,
    study: optuna.Study,
    definition: StudyDefinition,
    worker: Worker,
    *,
    target: int,
    run_began_at: int,
    stop: Callable[[], bool] = bool,
) -> optuna.Trial | NoTrial:
    """Starts the next trial of a study, claimed for `worker`, unless it has `target` finished or living ones.

    Begins anew where the start lock was lost meanwhile, or the database went away.

    Args:
        study: its sampler is replaced by the one for this trial.
        run_began_at: the number of the first trial that this run could have started; earlier failures don't count.
        stop: asked now and then while waiting for the lock.

    Raises:
        WorkError: where too many trials of this run failed.
        Stopped: where `stop` said so.
    """
    lock = stored.start_lock(storage, study.study_name)
    while True:
        with suppress(LockLost), lock.hold(stop):
            fail_dead_trials(storage, study.study_name, grace_seconds=definition.run.grace_seconds, starting=worker)
            place = find_place(storage, study.study_name, definition, target=target, run_began_at=run_began_at)
            if isinstance(place, NoTrial):
                return place
            study.sampler = make_sampler(definition, place)
            trial = stored.ask(storage, study, {"worker": worker.as_json(), "slot": place.slot})
            if definition.avoids_repetition:
                _propose(trial, definition)
            try:
                lock.verify()
            except LockLost:
                _fail(storage, stored.trial_id(trial))
                raise
            return trial


def _propose(trial: optuna.Trial, definition: StudyDefinition) -> None:
    """Gives a trial its parameters while the start lock is held, so that no other is given the same."""
    # What is wrong with an enqueued trial its objective meets again, and there it is the trial's failure.
    with suppress(ValueError), stored.together(trial):
        suggest(trial, definition)


def most_trials(storage: RDBStorage, study: str, definition: StudyDefinition) -> int | None:
    """Returns at how many finished trials every configuration is measured; None where they are countless."""
    if definition.configurations is None:
        return None
    counts = records.count_trials(storage, study)
    finished = sum(counts[state] for state in records.FINISHED)
    return finished + definition.configurations - len(_measured(storage, study, records.FINISHED))


def _measured(storage: RDBStorage, study: str, states: Collection[TrialState]) -> set[Hashable]:
    trials = records.read_trials(storage, study, states=states)
    return {identity_of(trial.params) for trial in trials if "slot" in trial.attributes}


def fail_dead_trials(storage: RDBStorage, study: str, *, grace_seconds: float, starting: Worker | None = None) -> None:
    """Fails the trials of workers that are gone; needs the start lock.

    Gone is a worker whose lock file on this host is free, and one whose heartbeat is older than the grace period. A
    worker that died alone is left to its parent, which knows the cause. A trial without a claim was started by another
    program, which does not know of the lock.

    Args:
        starting: who is about to start a trial, and so works on none; one in its name was born in an outage, and the
            answer got lost.
    """
    for trial in records.read_running(storage, study):
        if trial.worker is None or trial.slot is None:
            _fail(storage, trial.trial_id)
            continue
        worker = Worker(**trial.worker)
        if worker == starting:
            _fail(storage, trial.trial_id)
            continue
        died = probe(worker.file) == "gone" and probe(worker.parent) != "alive"
        age = trial.heartbeat_age_seconds
        if died or age is None or age > grace_seconds:
            _fail(storage, trial.trial_id)


def fail_trial_of(storage: RDBStorage, studies: Iterable[str], pid: int, parent: str, error: str) -> None:
    """Fails the trial that a worker process left when it died, with the cause."""
    for study in studies:
        for trial in records.read_running(storage, study):
            if trial.worker and (trial.worker["pid"], trial.worker["parent"]) == (pid, parent):
                _fail(storage, trial.trial_id, error)


def _fail(storage: RDBStorage, trial_id: int, error: str | None = None) -> None:
    with suppress(UpdateFinishedTrialError):  # it was told, or given up, in this very moment
        if error is not None:
            storage.set_trial_user_attr(trial_id, "error", error)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)


def find_place(
    storage: RDBStorage, study: str, definition: StudyDefinition, *, target: int, run_began_at: int
) -> Place | NoTrial:
    """Returns the place of the next trial; needs the start lock for the answer to stay true.

    Raises:
        WorkError: where too many trials of this run failed.
    """
    counts = records.count_trials(storage, study)
    finished = sum(counts[state] for state in records.FINISHED)
    if finished >= target:
        return NoTrial.DONE
    any_failed = bool(counts[TrialState.FAIL])
    errors = records.read_attribute(storage, study, "error", states=(TrialState.FAIL,)) if any_failed else {}
    recent = sum(number >= run_began_at for number in errors)
    if recent >= definition.run.max_failed_trials:
        raise WorkError(
            f"study {study!r}: {count(recent, 'trial')} failed by an error, as many as "
            f"run.max_failed_trials allows; hpo trials --study {study} shows their errors"
        )
    if finished + counts[TrialState.RUNNING] >= target:
        return NoTrial.TAKEN
    different = definition.configurations
    if different is not None and finished + counts[TrialState.RUNNING] >= different:
        measured = _measured(storage, study, records.FINISHED)
        if len(measured) >= different:
            return NoTrial.DONE
        if len(measured | _measured(storage, study, (TrialState.RUNNING,))) >= different:
            return NoTrial.TAKEN
    failed = records.read_attribute(storage, study, "slot", states=(TrialState.FAIL,)) if errors else {}
    # Not just the number of finished and running trials: a worker that lost the lock may be adding one, to fail it.
    slot = records.lowest_free_slot(storage, study)
    if slot >= target:
        return NoTrial.TAKEN
    return Place(slot, failures=sum(failed.get(number) == slot for number in errors))
