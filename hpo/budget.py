"""The start lock: trials are started exactly as often as asked.

Whoever wants to start a trial holds the lock of its storage, and starts one only while finished and living trials
together are fewer than asked for. Dead workers' trials are failed first; FAIL is final in Optuna, so a trial once
given up can never count, and its place is taken exactly once more.

A study has slots 0, 1, 2 …; a trial takes the lowest without a finished or living trial. What is proposed in a slot is
seeded by the study's seed, the slot, and how many trials failed by an error there, but not by interruptions: so two
workers never make the same proposal by accident, and with one worker a study comes out the same whatever was
interrupted in between. The sampler is built afresh for each trial, because Optuna's samplers cannot be given a seed
later.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from . import records
from . import storage as stored
from .errors import WorkError
from .locks import hold_lock
from .presence import Worker, probe
from .pruning import PowerLawPruner
from .seeding import derive_seed
from .study import StudyDefinition

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class NoTrial(Enum):
    """Why no trial was started."""

    DONE = auto()
    """The study has all the trials asked for."""
    TAKEN = auto()
    """All that are missing are running; should one of them fail, its place is free again."""


@dataclass(frozen=True)
class Tally:
    """What a study has, read under the lock.

    Attributes:
        slots: the slots of finished and living trials.
        failures: slot -> how many of its trials failed by an error in training.
        recent_failures: how many of those began since the run that asks.
    """

    finished: int
    running: int
    slots: frozenset[int]
    failures: Mapping[int, int]
    recent_failures: int

    def lowest_free_slot(self) -> int:
        """Returns the slot that the next trial takes."""
        return next(slot for slot in range(len(self.slots) + 1) if slot not in self.slots)


def start_trial(
    storage: RDBStorage,
    study: optuna.Study,
    definition: StudyDefinition,
    worker: Worker,
    *,
    target: int,
    run_began_at: int,
) -> optuna.Trial | NoTrial:
    """Starts the next trial of a study, claimed for `worker`, unless it has `target` finished or living ones.

    Args:
        study: its sampler is replaced by the one for this trial.
        run_began_at: the number of the first trial that this run could have started; earlier failures don't count.

    Raises:
        WorkError: where too many trials of this run failed.
    """
    with hold_lock(stored.lock_file(storage.url)):
        fail_dead_trials(storage, study)
        tally = read_tally(storage, study.study_name, run_began_at)
        if tally.finished >= target:
            return NoTrial.DONE
        if tally.recent_failures >= definition.run.max_failed_trials:
            raise WorkError(
                f"study {study.study_name!r}: {tally.recent_failures} trials failed by an error, as many as "
                f"run.max_failed_trials allows; hpo trials --study {study.study_name} shows their errors"
            )
        if tally.finished + tally.running >= target:
            return NoTrial.TAKEN
        slot = tally.lowest_free_slot()
        study.sampler = make_sampler(definition, slot, tally.failures.get(slot, 0))
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Heartbeat of storage is supposed", category=UserWarning
            )  # worker.py has its own
            trial = study.ask()
        # The heartbeat before the claim: a trial with a claim has a heartbeat, and one without has lost its creator.
        storage.record_heartbeat(stored.trial_id(trial))
        trial.set_user_attr("worker", worker.as_json())
        trial.set_user_attr("slot", slot)
        return trial


def fail_dead_trials(storage: RDBStorage, study: optuna.Study) -> None:
    """Fails the trials of workers that are gone; needs the start lock.

    Gone is a worker whose lock file on this host is free, one whose heartbeat is older than the grace period, and one
    that
    died before it had published its claim: it held the lock that the caller holds now. Where a worker died alone and
        its parent lives, its trial may have killed it, so that is an error and not an interruption.
    """
    with stored.experimental():
        optuna.storages.fail_stale_trials(study)
    for trial in records.read_trials(storage, study.study_name, states=(TrialState.RUNNING,)):
        worker = Worker(**trial.attributes["worker"]) if "slot" in trial.attributes else None
        if worker is None:
            _fail(storage, study.study_name, trial.number)
        elif probe(worker.file) == "gone":
            alone = probe(worker.parent) == "alive"
            _fail(storage, study.study_name, trial.number, "its worker died" if alone else None)


def fail_trial_of(storage: RDBStorage, study: str, worker_pid: int, parent: str, cause: str) -> None:
    """Fails the trial that a worker process left when it died, with the cause; takes the start lock."""
    with hold_lock(stored.lock_file(storage.url)):
        for trial in records.read_trials(storage, study, states=(TrialState.RUNNING,)):
            claim = trial.attributes.get("worker", {})
            if (claim.get("pid"), claim.get("parent")) == (worker_pid, parent):
                _fail(storage, study, trial.number, cause)


def _fail(storage: RDBStorage, study: str, number: int, error: str | None = None) -> None:
    key = storage.get_trial_id_from_study_id_trial_number(records.study_id(storage, study), number)
    try:
        if error is not None:
            storage.set_trial_user_attr(key, "error", error)
        storage.set_trial_state_values(key, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return  # it was told, or given up, in this very moment


def read_tally(storage: RDBStorage, name: str, run_began_at: int) -> Tally:
    """Reads what a study has; needs the start lock to stay true."""
    counts = records.count_trials(storage, name)
    slots = records.read_attribute(storage, name, "slot", states=(*FINISHED, TrialState.RUNNING))
    failed = records.read_attribute(storage, name, "slot", states=(TrialState.FAIL,), having="error")
    return Tally(
        finished=sum(counts[state] for state in FINISHED),
        running=counts[TrialState.RUNNING],
        slots=frozenset(slots.values()),
        failures=Counter(failed.values()),
        recent_failures=sum(number >= run_began_at for number in failed),
    )


def make_sampler(definition: StudyDefinition, slot: int, failures: int) -> BaseSampler:
    """Returns the sampler of one trial: the study's, seeded for the slot; or the listed configuration itself."""
    if definition.trial:
        return _Listed(definition.trial[slot].params.model_dump())
    seed = derive_seed(definition.protocol.seed, "sampler", slot, failures)
    arguments = definition.sampler.model_dump(exclude={"name"})
    if definition.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with stored.experimental():  # group=True
        return optuna.samplers.TPESampler(seed=seed, **arguments)


def make_pruner(definition: StudyDefinition) -> BasePruner:
    """Returns the study's pruner."""
    if definition.pruner.name == "power_law":
        return PowerLawPruner(last_step=definition.protocol.epochs, margin=definition.pruner.margin)
    pruners: Mapping[str, type[BasePruner]] = {
        "none": optuna.pruners.NopPruner,
        "percentile": optuna.pruners.PercentilePruner,
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    }
    return pruners[definition.pruner.name](**definition.pruner.model_dump(exclude={"name"}))


class _Listed(BaseSampler):
    """Proposes one given configuration."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._params[param_name]
