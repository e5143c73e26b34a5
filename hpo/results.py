"""Reads a study into rows: its trials, its best, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from . import records
from . import storage as stored
from .errors import StorageError, UnknownName
from .formatting import time_left
from .space import Setup
from .study import ListedTrial, StudyDefinition, define_study

RANGE_TEST_PREFIX = "range_test "  # of the study attributes that hold range tests
RATE_TRIALS = 30  # so many of the last make the rate


@dataclass(frozen=True)
class TrialRow:
    """A trial. Errors in percent; those of a trial that was not measured to the end are None.

    Attributes:
        label, published: of the listed entry that it measured, else None.
        error: why it failed, where it failed by an error.
        diverged_rounds: those that ended with logits that are not finite, the study's first round being 0.
    """

    number: int
    state: str
    value: float | None
    std: float | None
    errors: list[float] | None
    params: dict[str, Any]
    label: str | None
    published: dict[str, Any] | None
    seconds: float | None
    device: str | None
    precision: str | None
    worker: dict[str, Any] | None
    error: str | None
    diverged_rounds: list[int] | None


@dataclass(frozen=True)
class Best:
    """The winner of a study: the lowest mean error among trials measured to the end."""

    study: str
    trial: int
    value: float
    std: float | None
    errors: list[float]
    params: dict[str, Any]
    rounds: int
    dataset: str
    confirmed: dict[str, Any] | None


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        total: the trials asked for; None where none were yet.
        failed: by an error.
        interrupted: given back or lost with their workers, and started again.
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

    @property
    def finished(self) -> int:
        """The trials that count."""
        return self.complete + self.pruned

    @property
    def trials(self) -> int:
        """All trials, the number of the next."""
        return self.finished + self.failed + self.interrupted + self.running


def read_definition(storage: RDBStorage, study: str) -> StudyDefinition:
    """Returns the definition that a study was created with.

    Raises:
        StorageError: where the study was not made by this program.
    """
    attributes = records.study_attributes(storage, study)
    if "definition" not in attributes:
        raise stored.not_ours(storage, study)
    return define_study(attributes["definition"], name=study)


def range_test_key(setup: Setup) -> str:
    """Returns the name of the study attribute that holds the range test of a setup."""
    return RANGE_TEST_PREFIX + json.dumps(setup.model_dump(include=set(Setup.model_fields), exclude_none=True))


def read_rows(storage: RDBStorage, study: str) -> list[TrialRow]:
    """Returns all trials of a study."""
    listed = read_definition(storage, study).trial
    return [_row(trial, listed) for trial in records.read_trials(storage, study)]


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
            f"hpo status --study {study} tells how far it is"
        )
    (trial,) = best
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
    counts = records.count_trials(storage, study)
    complete, pruned = counts[TrialState.COMPLETE], counts[TrialState.PRUNED]
    total = records.study_attributes(storage, study).get("target")
    best = records.read_trials(storage, study, states=(TrialState.COMPLETE,), best=1)
    running = records.read_running(storage, study)
    failed = len(records.read_attribute(storage, study, "error", states=(TrialState.FAIL,)))
    per_hour = trials_per_hour(records.last_finishes(storage, study, RATE_TRIALS))
    return Status(
        study=study,
        total=total,
        complete=complete,
        pruned=pruned,
        running=counts[TrialState.RUNNING],
        failed=failed,
        interrupted=max(0, counts[TrialState.FAIL] - failed),  # another may have failed between the two readings
        best={"trial": best[0].number, "value": best[0].value, "std": best[0].attributes.get("std")} if best else None,
        workers=[_worker(trial, trial.worker) for trial in running if trial.worker is not None],
        trials_per_hour=per_hour,
        eta_seconds=None if total is None else time_left(total - complete - pruned, per_hour),
    )


def read_statuses(storage: RDBStorage, studies: Iterable[str]) -> list[Status]:
    """Returns how far studies are, leaving out those that were deleted meanwhile."""
    statuses = []
    for study in studies:
        with suppress(UnknownName):
            statuses.append(read_status(storage, study))
    return statuses


def _row(trial: records.StoredTrial, listed: tuple[ListedTrial, ...]) -> TrialRow:
    attributes = trial.attributes
    entry = listed[attributes["slot"]] if listed and "slot" in attributes else None
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
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
        error=attributes.get("error"),
        diverged_rounds=attributes.get("diverged_rounds"),
    )


def _worker(trial: records.RunningTrial, claim: dict[str, Any]) -> dict[str, Any]:
    since = trial.started.isoformat(timespec="seconds") if trial.started else None
    return {
        **{key: claim[key] for key in ("host", "pid", "device")},
        "trial": trial.number,
        "since": since,
        "heartbeat_age_seconds": trial.heartbeat_age_seconds,
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
