"""The start lock: trials are started exactly as often as asked.

Whoever wants to start a trial holds the lock of its study, and starts one only while finished and living trials
together are fewer than asked for. Dead workers' trials are failed first; FAIL is final in Optuna, so a trial once
given up can never count, and its slot is taken exactly once more.

A study has slots 0, 1, 2 …; a trial takes the lowest without a finished or living trial. Slots are counted, not trials,
and only those of trials that carry a claim: what other programs add to a study neither counts nor is touched.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.search.samplers import Slot, enqueued_fault, make_sampler, suggest
from hpo.storage.backends import lost_lock, start_lock
from hpo.storage.claims import FINISHED, ActiveClaim, read_running
from hpo.storage.fast_reads import TrialGone
from hpo.storage.locks import LockLost
from hpo.storage.retry import retried
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import ask, batch_writes, enqueued_params, speaking_for, trial_id_of
from hpo.study.definition import StudyDefinition
from hpo.study.repetition import identity_of
from hpo.workers.liveness import probe
from hpo.workers.slots import NoTrial, find_slot, measured

MOST_LOST_LOCKS = 3  # one after the other, before the connection is blamed


@dataclass(frozen=True)
class Heartbeats:
    """What one process has seen of the heartbeats of others: since when each has stood still, by its own clock.

    A heartbeat's age is read from the database's clock, which may be set back: then a worker that died would seem alive
    until the clock has caught up. So a heartbeat from the future is stale when it has stood still for the grace period.
    """

    seen: dict[tuple[int, datetime], float] = field(default_factory=dict)

    def is_stale(self, trial: ActiveClaim, grace_seconds: float) -> bool:
        """Says whether a trial's worker has not been heard of for the grace period."""
        age = trial.heartbeat_age_seconds
        if trial.heartbeat is None or age is None:
            return True
        if age < 0:
            age = time.monotonic() - self.seen.setdefault((trial.trial_id, trial.heartbeat), time.monotonic())
        return age > grace_seconds


@retried
def look_for_slot(
    storage: RDBStorage,
    study: str,
    definition: StudyDefinition,
    *,
    target: int,
    run_began_at: int,
    heartbeats: Heartbeats | None = None,
    stop: Callable[[], bool] = bool,
    mine: Collection[int] = (),
) -> Slot | NoTrial:
    """Says whether a trial could be started now, for one who has costly things to prepare before.

    The arguments and errors are those of `start_trial`.
    """
    with start_lock(storage, study).hold(stop):
        fail_dead_trials(storage, study, definition.run.grace_seconds, heartbeats)
        return find_slot(storage, study, definition, target=target, run_began_at=run_began_at)


@retried
def start_trial(
    storage: RDBStorage,
    study: optuna.Study,
    definition: StudyDefinition,
    worker: Worker,
    *,
    target: int,
    run_began_at: int,
    heartbeats: Heartbeats | None = None,
    stop: Callable[[], bool] = bool,
    mine: Collection[int] = (),
) -> optuna.Trial | NoTrial:
    """Starts the next trial of a study, claimed for `worker`, unless it has `target` finished or living ones.

    Begins anew where the start lock was lost meanwhile, or an enqueued trial was refused.

    Args:
        study: its sampler is replaced by the one for this trial.
        run_began_at: the number of the first trial that this run could have started; earlier failures don't count.
        heartbeats: what this process has seen of others.
        stop: asked now and then while waiting for the lock.
        mine: the trials that this worker runs already.

    Raises:
        WorkError: where too many trials of this run failed, or the lock is lost each time that it is taken.
        Stopped: where `stop` said so.
    """
    lock, name, lost = start_lock(storage, study.study_name), study.study_name, 0
    while True:
        with suppress(LockLost), lock.hold(stop):
            fail_dead_trials(storage, name, definition.run.grace_seconds, heartbeats, starting=worker, mine=mine)
            slot = find_slot(storage, name, definition, target=target, run_began_at=run_began_at)
            if isinstance(slot, NoTrial):
                return slot
            study.sampler = make_sampler(definition, slot)
            claimed = replace(worker, claim=uuid.uuid4().hex)
            trial = ask(storage, study, {"slot": slot.slot, "worker": claimed.as_json()})
            try:
                fault = enqueued_fault(trial, definition) or _propose(storage, trial, definition)
                lock.verify()
            except (LockLost, UpdateFinishedTrialError, TrialGone):  # it was given up meanwhile, as after a long pause
                _fail(storage, trial_id_of(trial))
                lost += 1
                if lost >= MOST_LOST_LOCKS:
                    raise lost_lock(storage, name) from None
                continue
            if fault:
                _refuse(storage, trial, fault)
                continue
            return trial


def _propose(storage: RDBStorage, trial: optuna.Trial, definition: StudyDefinition) -> str | None:
    """Gives a trial its parameters while the start lock is held, so that no other is given the same.

    Returns why it cannot be measured with those that it was enqueued with, if it cannot.
    """
    if not definition.avoids_repetition:
        return None
    is_enqueued = bool(enqueued_params(trial))
    with batch_writes(trial):
        suggest(trial, definition)
    if not is_enqueued:
        return None
    others = measured(storage, trial.study.study_name, (*FINISHED, TrialState.RUNNING), but=trial.number)
    return "it is measured already, or running" if identity_of(trial.params) in others else None


def fail_dead_trials(
    storage: RDBStorage,
    study: str,
    grace_seconds: float,
    heartbeats: Heartbeats | None = None,
    *,
    starting: Worker | None = None,
    mine: Collection[int] = (),
) -> None:
    """Fails the trials of workers that are gone; needs the start lock.

    Gone is a worker whose lock file on this host is free, and one whose heartbeat is older than the grace period. A
    worker that died alone is left to its parent, which knows the cause. A claim that cannot be read is nobody's.

    Args:
        starting: who is about to start a trial, and works on `mine` alone; another one in its name was created in an
            outage, and the answer got lost.
    """
    seen = heartbeats or Heartbeats()
    for trial in read_running(storage, study):
        worker = trial.worker
        if trial.trial_id in mine:
            dead = False
        elif worker is None or (starting is not None and _is_same(worker, starting)):
            dead = True
        else:
            died = probe(worker.file) == "gone" and probe(worker.parent) != "alive"
            dead = died or seen.is_stale(trial, grace_seconds)
        if dead:
            _fail(storage, trial.trial_id, claim=trial.claim)


def _is_same(worker: Worker, other: Worker) -> bool:
    """Says whether two claims are of one worker."""
    return replace(worker, claim="") == replace(other, claim="")


def fail_trial_of(storage: RDBStorage, studies: Iterable[str], pid: int, parent: str, error: str) -> None:
    """Fails the trial that a worker process left when it died, with the cause, or all that it ran beside each other."""
    for study in studies:
        left = [
            trial
            for trial in read_running(storage, study)
            if trial.worker and (trial.worker.pid, trial.worker.parent) == (pid, parent)
        ]
        for trial in left:
            others = ", ".join(str(other.number) for other in left if other is not trial)
            _fail(storage, trial.trial_id, f"{error}; it ran beside {others}" if others else error, claim=trial.claim)


def _fail(storage: RDBStorage, trial_id: int, error: str | None = None, claim: str | None = None) -> None:
    # It may have been told, given up, or deleted in this very moment.
    with suppress(UpdateFinishedTrialError, TrialGone), speaking_for(storage, trial_id, claim):
        if error is not None:
            storage.set_trial_user_attr(trial_id, "error", error)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _refuse(storage: RDBStorage, trial: optuna.Trial, fault: str) -> None:
    """Fails a trial that somebody has enqueued and that cannot be measured; it is no failure of the run."""
    with suppress(UpdateFinishedTrialError, TrialGone):
        trial.set_user_attr("refused", f"enqueued, but {fault}")
        storage.set_trial_state_values(trial_id_of(trial), TrialState.FAIL)
