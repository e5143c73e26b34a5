"""Reads a study into rows: its trials, its best, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StorageError, UnknownName
from hpo.storage import backends as stored
from hpo.storage import queries as records
from hpo.storage.claims import FINISHED, RunningTrial, read_failures, read_running, read_slots
from hpo.study.definition import ListedTrial, StudyDefinition, define_study
from hpo.study.space import Setup
from hpo.text.commands import command_here
from hpo.text.formatting import time_left
from hpo.workers.liveness import Worker

RANGE_TEST_PREFIX = "range_test "  # of the study attributes that hold range tests
RATE_TRIALS = 30  # so many of the last make the rate


@dataclass(frozen=True)
class TrialRow:
    """A trial. Errors in percent; those of a trial that was not measured to the end are None.

    Attributes:
        label, published: of the listed entry that it measured, else None.
        error: why it failed, where it failed by an error.
        diverged_rounds: those that ended with logits that are not finite, the study's first round being 0.

    A trial that another program has added is `FOREIGN`: nothing of it is believed but its number.
    """

    number: int
    state: str
    value: float | None = None
    std: float | None = None
    errors: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    published: dict[str, Any] | None = None
    seconds: float | None = None
    device: str | None = None
    precision: str | None = None
    worker: dict[str, Any] | None = None
    error: str | None = None
    diverged_rounds: list[int] | None = None


@dataclass(frozen=True)
class Best:
    """The winner of a study: the lowest mean error among trials measured to the end.

    Attributes:
        label: of the listed entry that it measured; None in a search.
    """

    study: str
    trial: int
    value: float
    std: float | None
    errors: list[float]
    params: dict[str, Any]
    rounds: int
    dataset: str
    confirmed: dict[str, Any] | None
    label: str | None = None


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        is_ours: whether this program has made the study; of another's nothing but trials are counted.
        total: the trials asked for; None where none were yet.
        failed: by an error.
        interrupted: given back or lost with their workers, and started again.
        foreign: trials that another program has added; they do not count.
        trials: all trials whatever, the number of the next.
        workers: those that run a trial now: host, pid, device, trial, since when, and how old its last heartbeat is.
        trials_per_hour: the rate of the last thirty trials; None where nothing can be said.
        eta_seconds: None where nothing can be foretold.
    """

    study: str
    total: int | None
    complete: int
    pruned: int
    running: int
    failed: int
    interrupted: int
    best: dict[str, Any] | None
    workers: list[dict[str, Any]]
    trials_per_hour: float | None
    eta_seconds: float | None
    foreign: int = 0
    trials: int = 0
    is_ours: bool = True

    @property
    def finished(self) -> int:
        """The trials that count."""
        return self.complete + self.pruned


@dataclass(frozen=True)
class UnfinishedStudy:
    """A study with fewer finished trials than were asked for.

    Attributes:
        target: the number of finished trials that was asked for.
        identity: tells it from a study of the same name that is made after this one was deleted.
    """

    name: str
    target: int
    identity: str | None


def own_attributes(storage: RDBStorage, study: str) -> dict[str, Any] | None:
    """Returns the attributes of a study that this program has made; None for another program's.

    Ours minimises one objective, and has all that a study is created with.

    Raises:
        UnknownName: where the storage has no such study.
    """
    attributes, is_minimised = records.read_study(storage, study)
    return attributes if is_minimised and stored.are_ours(attributes) else None


def own_studies(storage: RDBStorage) -> dict[str, dict[str, Any]]:
    """Returns the studies of a storage that this program has made, name -> attributes, in order of their creation."""
    return {
        name: attributes
        for name, (attributes, is_minimised) in records.read_studies(storage).items()
        if is_minimised and stored.are_ours(attributes)
    }


def unfinished_studies(storage: RDBStorage) -> list[UnfinishedStudy]:
    """Returns the studies of this program's with fewer finished slots than were asked for, the oldest first."""
    finished = records.finished_slots(storage)
    return [
        UnfinishedStudy(name, target, attributes["identity"])
        for name, attributes in own_studies(storage).items()
        if (target := stored.stored_target(attributes)) > finished.get(name, 0)
    ]


def read_definition(storage: RDBStorage, study: str) -> StudyDefinition:
    """Returns the definition that a study was created with.

    Raises:
        StorageError: where the study was not made by this program.
    """
    attributes = own_attributes(storage, study)
    if attributes is None:
        raise stored.not_ours(storage, study)
    return define_study(attributes["definition"], name=study)


def range_test_key(setup: Setup) -> str:
    """Returns the name of the study attribute that holds the range test of a setup."""
    return RANGE_TEST_PREFIX + json.dumps(setup.model_dump(include=set(Setup.model_fields), exclude_none=True))


def read_range_tests(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the range tests that a study's attributes hold, as `sweep.describe_sweep` has described them."""
    kept = [value for key, value in attributes.items() if key.startswith(RANGE_TEST_PREFIX)]
    return [test for test in kept if is_range_test(test)]


def is_range_test(kept: Any) -> bool:
    """Says whether an attribute holds a range test."""
    keys = {"optimizer": str, "rates": list, "losses": list, "optima": list, "mean": float}
    return isinstance(kept, dict) and all(isinstance(kept.get(key), kind) for key, kind in keys.items())


def read_rows(storage: RDBStorage, study: str) -> list[TrialRow]:
    """Returns all trials of a study."""
    listed = read_definition(storage, study).trial
    return [_row(trial, listed) for trial in records.read_trials(storage, study, foreign=True)]


def flatten(row: TrialRow, first_round: int) -> dict[str, Any]:
    """Returns a trial as one flat dictionary, its rounds and parameters among the keys.

    Args:
        first_round: the number of the study's first round.
    """
    published = row.published or {}
    return {
        **{key: getattr(row, key) for key in ("number", "state", "value", "std")},
        **{f"round {r}": error for r, error in enumerate(row.errors or [], first_round)},
        **row.params,
        "label": row.label,
        "published_mean": published.get("mean"),
        "published_std": published.get("std"),
        **{key: getattr(row, key) for key in ("seconds", "device", "precision", "error")},
    }


def columns_of(definition: StudyDefinition) -> list[str]:
    """Returns the keys of a study's flat trials, in their order, whether or not it has any trial yet."""
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(TrialRow))
    whole = {"errors": [0.0] * definition.protocol.rounds, "params": dict.fromkeys(definition.search_space)}
    return list(flatten(TrialRow(**{**nothing, **whole}), definition.protocol.first_round))


def read_best(storage: RDBStorage, study: str) -> Best:
    """Returns the winner of a study.

    Raises:
        StorageError: where no trial has been measured to the end.
    """
    definition = read_definition(storage, study)
    best = records.read_trials(storage, study, states=(TrialState.COMPLETE,), best=1)
    if not best or best[0].value is None:
        raise StorageError(
            f"study {study!r} has no trial yet that was measured to the end; "
            f"{command_here('status', '--study', study)} tells how far it is"
        )
    (trial,) = best
    entry = entry_of(trial, definition.trial)
    return Best(
        study=study,
        trial=trial.number,
        value=best[0].value,
        std=trial.attributes["std"],
        errors=trial.attributes["errors"],
        params=trial.params,
        rounds=definition.protocol.rounds,
        dataset=definition.protocol.dataset,
        confirmed=None,
        label=entry.label if entry else None,
    )


def read_trial(storage: RDBStorage, study: str, number: int | None) -> records.StoredTrial:
    """Returns the winner of a study, or another trial that was measured to the end, by its number.

    Raises:
        StorageError: where there is no such trial.
    """
    wanted = read_best(storage, study).trial if number is None else number
    found = records.read_trials(storage, study, states=(TrialState.COMPLETE,), number=wanted)
    if not found:
        raise StorageError(f"study {study!r} has no trial {wanted} that was measured to the end")
    return found[0]


def read_status(storage: RDBStorage, study: str) -> Status:
    """Returns how far a study is, without loading its trials."""
    attributes = own_attributes(storage, study)
    counts = records.count_trials(storage, study)
    trials = sum(counts.values())
    if attributes is None:
        complete, pruned, running, failed = (
            counts[state] for state in (*FINISHED, TrialState.RUNNING, TrialState.FAIL)
        )
        return Status(
            study, None, complete, pruned, running, failed, 0, None, [], None, None, trials=trials, is_ours=False
        )
    slots, failures = read_slots(storage, study), read_failures(storage, study)
    total = read_target(attributes)
    best = records.read_trials(storage, study, states=(TrialState.COMPLETE,), best=1)
    per_hour = trials_per_hour(records.last_finishes(storage, study, RATE_TRIALS))
    failed = sum(failure.by_error for failure in failures)
    started = trials - counts[TrialState.WAITING]
    return Status(
        study=study,
        total=total,
        complete=slots.complete,
        pruned=slots.pruned,
        running=slots.running,
        failed=failed,
        interrupted=sum(not (failure.by_error or failure.refused) for failure in failures),
        best={"trial": best[0].number, "value": best[0].value, "std": best[0].attributes["std"]} if best else None,
        workers=[_worker(trial, trial.worker) for trial in read_running(storage, study) if trial.worker is not None],
        trials_per_hour=per_hour,
        eta_seconds=None if total is None else time_left(total - slots.finished, per_hour),
        foreign=max(0, started - slots.trials - len(failures)),  # one may have ended between the two readings
        trials=trials,
    )


def read_target(attributes: Mapping[str, Any]) -> int | None:
    """Returns the number of trials that a study was asked for; None where it says none, or no number."""
    return stored.stored_target(attributes) or None


def read_statuses(storage: RDBStorage, studies: Iterable[str]) -> list[Status]:
    """Returns how far studies are, leaving out those that were deleted meanwhile."""
    statuses = []
    for study in studies:
        with suppress(UnknownName):
            statuses.append(read_status(storage, study))
    return statuses


def entry_of(trial: records.StoredTrial, listed: Sequence[ListedTrial]) -> ListedTrial | None:
    """Returns the entry of a list that a trial measures; None in a search, and where the list has no such entry."""
    slot = trial.attributes.get("slot", len(listed))
    return listed[slot] if slot < len(listed) else None


def read_entries(storage: RDBStorage, study: str) -> list[tuple[ListedTrial, records.StoredTrial]]:
    """Returns the entries of a study's list that are measured to the end, as `measured_entries` does."""
    trials = records.read_trials(storage, study, states=(TrialState.COMPLETE,))
    return measured_entries(trials, read_definition(storage, study))


def measured_entries(
    trials: Iterable[records.StoredTrial], definition: StudyDefinition
) -> list[tuple[ListedTrial, records.StoredTrial]]:
    """Returns the entries of a list that are measured in all rounds, each with its trial, in the order of the list."""
    found: dict[int, records.StoredTrial] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE and len(trial.attributes["errors"]) == definition.protocol.rounds:
            found.setdefault(trial.attributes["slot"], trial)
    return [(entry, found[slot]) for slot, entry in enumerate(definition.trial) if slot in found]


def _row(trial: records.StoredTrial, listed: tuple[ListedTrial, ...]) -> TrialRow:
    if not trial.is_ours:
        return TrialRow(trial.number, "FOREIGN")
    attributes = trial.attributes
    entry = entry_of(trial, listed)
    is_refused = trial.state is TrialState.FAIL and "refused" in attributes
    return TrialRow(
        number=trial.number,
        state="REFUSED" if is_refused else trial.state.name,
        value=trial.value,
        std=attributes.get("std"),
        errors=attributes.get("errors"),
        params=trial.params,
        label=entry.label if entry else None,
        published=entry.published.model_dump() if entry and entry.published else None,
        seconds=attributes.get("seconds"),
        device=attributes.get("device"),
        precision=attributes.get("precision"),
        worker=attributes.get("worker"),
        error=attributes.get("error", attributes.get("refused")),
        diverged_rounds=attributes.get("diverged_rounds"),
    )


def _worker(trial: RunningTrial, claim: Worker) -> dict[str, Any]:
    since = trial.started.isoformat(timespec="seconds") if trial.started else None
    age = trial.heartbeat_age_seconds
    return {
        "host": claim.host,
        "pid": claim.pid,
        "device": claim.device,
        "trial": trial.number,
        "since": since,
        "heartbeat_age_seconds": None if age is None else max(0.0, age),  # a clock may have been set back
    }


def trials_per_hour(finishes: Sequence[datetime]) -> float | None:
    """Returns the rate at which trials finish, from the latest finishing times; None where two are not to be had.

    A pause, as of a study that was resumed the next day, begins the count anew: a gap of more than a quarter of an hour
    that is also over ten times the usual one.
    """
    times = sorted(finishes)
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    if not gaps:
        return None
    pause = max(900.0, 10 * median(gaps))
    since = max((i + 1 for i, gap in enumerate(gaps) if gap > pause), default=0)
    lasted = (times[-1] - times[since]).total_seconds()
    return 3600 * (len(times) - 1 - since) / lasted if lasted else None
