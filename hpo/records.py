"""Reads the studies and trials of a storage by SQL, where Optuna would load every trial whole.

Reads Optuna's own tables, private to it: `optuna>=5.0,<5.1` is pinned, and a test names the columns. Every reading is
repeated while the database is away.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from .errors import UnknownName
from .frozen import parse_distribution
from .outages import persistent
from .storage import reading, show_url


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the storage has it; times in UTC."""

    number: int
    state: TrialState
    value: float | None
    started: datetime | None
    finished: datetime | None
    params: dict[str, Any]
    attributes: dict[str, Any]


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


@dataclass(frozen=True)
class RunningTrial:
    """A trial that is running, or was when its worker died.

    Attributes:
        trial_id: the id by which the storage knows it.
        slot, worker: its claim; None before it has published one.
        heartbeat_age_seconds: by the database's clock; None before its first heartbeat.
    """

    trial_id: int
    number: int
    started: datetime | None
    slot: int | None
    worker: dict[str, Any] | None
    heartbeat_age_seconds: float | None


FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@persistent
def study_names(storage: RDBStorage) -> list[str]:
    """Returns the names of the studies in a storage, in order of their creation."""
    with reading(storage) as connection:
        rows = connection.execute(sa.select(models.StudyModel.study_name).order_by(models.StudyModel.study_id))
        return [name for (name,) in rows]


@persistent
def unfinished_studies(storage: RDBStorage) -> list[UnfinishedStudy]:
    """Returns the studies with fewer finished trials than were asked for, the oldest first."""
    study, trial = models.StudyModel, models.TrialModel
    target, identity = (sa.orm.aliased(models.StudyUserAttributeModel) for _ in range(2))
    finished = (
        sa.select(sa.func.count())
        .where(trial.study_id == study.study_id, trial.state.in_(FINISHED))
        .correlate(study)
        .scalar_subquery()
    )
    query = (
        sa.select(study.study_name, target.value_json, identity.value_json, finished)
        .join(target, sa.and_(target.study_id == study.study_id, target.key == "target"))
        .outerjoin(identity, sa.and_(identity.study_id == study.study_id, identity.key == "identity"))
        .order_by(study.study_id)
    )
    with reading(storage) as connection:
        rows = connection.execute(query).all()
    return [
        UnfinishedStudy(name, int(wanted), token and json.loads(token))
        for name, wanted, token, count in rows
        if count < int(wanted)
    ]


@persistent
def study_attributes(storage: RDBStorage, name: str) -> dict[str, Any]:
    """Returns a study's user attributes.

    Raises:
        UnknownName: where the storage has no such study.
    """
    study, attribute = models.StudyModel, models.StudyUserAttributeModel
    query = (
        sa.select(attribute.key, attribute.value_json)
        .select_from(study)
        .outerjoin(attribute, attribute.study_id == study.study_id)
        .where(study.study_name == name)
    )
    with reading(storage) as connection:
        rows = connection.execute(query).all()
    if not rows:
        raise _unknown(storage, name)
    return {key: json.loads(value) for key, value in rows if key is not None}


def set_study_attribute(storage: RDBStorage, name: str, key: str, value: Any) -> None:
    """Sets one of a study's user attributes.

    Raises:
        UnknownName: where the storage has no such study.
    """
    try:
        found = storage.get_study_id_from_name(name)
    except KeyError:
        raise _unknown(storage, name) from None
    storage.set_study_user_attr(found, key, value)


def _unknown(storage: RDBStorage, study: str) -> UnknownName:
    return UnknownName("study", study, study_names(storage), where=f"storage {show_url(storage.url)}: ")


@persistent
def count_trials(storage: RDBStorage, name: str) -> dict[TrialState, int]:
    """Returns how many trials of a study are in each state."""
    table = models.TrialModel
    query = sa.select(table.state, sa.func.count()).where(table.study_id == _id_of(name)).group_by(table.state)
    with reading(storage) as connection:
        counted = {state: count for state, count in connection.execute(query)}
    return {state: counted.get(state, 0) for state in TrialState}


@persistent
def count_trials_of(storage: RDBStorage, study_id: int) -> int:
    """Returns how many trials a study has, whatever their states; 0 where the storage has no study of that id."""
    query = sa.select(sa.func.count()).where(models.TrialModel.study_id == study_id)
    with reading(storage) as connection:
        return int(connection.execute(query).scalar_one())


@persistent
def read_trials(
    storage: RDBStorage,
    name: str,
    *,
    states: Collection[TrialState] = tuple(TrialState),
    best: int | None = None,
    number: int | None = None,
) -> list[StoredTrial]:
    """Reads the trials of a study in order of their numbers, or the best few in order of their values.

    Args:
        states: only trials in these states.
        best: only so many, the lowest values first, the earlier trial first among equals; trials without a value are
            left out.
        number: only the trial of this number.
    """
    trial, value = models.TrialModel, models.TrialValueModel
    query = (
        sa.select(
            trial.trial_id,
            trial.number,
            trial.state,
            value.value,
            trial._datetime_start_utc,
            trial._datetime_complete_utc,
        )
        .outerjoin(value, value.trial_id == trial.trial_id)
        .where(trial.study_id == _id_of(name), trial.state.in_(states))
    )
    if number is not None:
        query = query.where(trial.number == number)
    if best is None:
        query = query.order_by(trial.number)
    else:
        query = query.where(value.value.is_not(None)).order_by(value.value, trial.number).limit(best)
    with reading(storage) as connection:
        rows = connection.execute(query).all()
        found = [row.trial_id for row in rows]
        params = _read_params(connection, found)
        attributes = _read_attributes(connection, found)
    return [
        StoredTrial(number, state, error, _utc(started), _utc(finished), params.get(key, {}), attributes.get(key, {}))
        for key, number, state, error, started, finished in rows
    ]


@persistent
def read_running(storage: RDBStorage, name: str) -> list[RunningTrial]:
    """Reads the trials of a study that are running, in order of their numbers."""
    trial, beat = models.TrialModel, models.TrialHeartbeatModel
    slot, worker = (sa.orm.aliased(models.TrialUserAttributeModel) for _ in range(2))
    query = (
        sa.select(
            trial.trial_id,
            trial.number,
            trial._datetime_start_utc,
            beat.heartbeat,
            sa.func.now(),
            slot.value_json,
            worker.value_json,
        )
        .outerjoin(beat, beat.trial_id == trial.trial_id)
        .outerjoin(slot, sa.and_(slot.trial_id == trial.trial_id, slot.key == "slot"))
        .outerjoin(worker, sa.and_(worker.trial_id == trial.trial_id, worker.key == "worker"))
        .where(trial.study_id == _id_of(name), trial.state == TrialState.RUNNING)
        .order_by(trial.number)
    )
    with reading(storage) as connection:
        rows = connection.execute(query).all()
    return [
        RunningTrial(
            trial_id=key,
            number=number,
            started=_utc(started),
            slot=slot_json and json.loads(slot_json),
            worker=worker_json and json.loads(worker_json),
            heartbeat_age_seconds=(now.replace(tzinfo=None) - beaten).total_seconds() if beaten else None,
        )
        for key, number, started, beaten, now, slot_json, worker_json in rows
    ]


@persistent
def lowest_free_slot(storage: RDBStorage, name: str) -> int:
    """Returns the lowest slot of a study without a finished or running trial."""
    trial, attribute = models.TrialModel, models.TrialUserAttributeModel
    slot = sa.cast(attribute.value_json, sa.Integer)
    query = (
        sa.select(slot)
        .distinct()
        .join(trial, attribute.trial_id == trial.trial_id)
        .where(
            trial.study_id == _id_of(name),
            trial.state.in_((*FINISHED, TrialState.RUNNING)),
            attribute.key == "slot",
        )
    )
    taken = query.subquery()
    with reading(storage) as connection:
        count, highest = connection.execute(sa.select(sa.func.count(), sa.func.max(taken.c[0]))).one()
        if count == 0 or count == highest + 1:  # the rule; a failed trial leaves a gap
            return int(count)
        slots = set(connection.execute(query).scalars())
    return next(slot for slot in range(len(slots) + 1) if slot not in slots)


@persistent
def read_attribute(
    storage: RDBStorage, name: str, key: str, *, states: Collection[TrialState], having: str | None = None
) -> dict[int, Any]:
    """Reads one user attribute of a study's trials: trial number -> value.

    Args:
        states: only of trials in these states.
        having: only of trials that have this attribute too.
    """
    trial, attribute = models.TrialModel, models.TrialUserAttributeModel
    query = (
        sa.select(trial.number, attribute.value_json)
        .join(attribute, attribute.trial_id == trial.trial_id)
        .where(trial.study_id == _id_of(name), trial.state.in_(states), attribute.key == key)
    )
    if having is not None:
        other = sa.orm.aliased(attribute)
        query = query.where(sa.exists().where(other.trial_id == trial.trial_id, other.key == having))
    with reading(storage) as connection:
        return {number: json.loads(value) for number, value in connection.execute(query)}


@persistent
def last_finishes(storage: RDBStorage, name: str, count: int) -> list[datetime]:
    """Returns when the last so many trials finished, the latest first."""
    trial = models.TrialModel
    query = (
        sa.select(trial._datetime_complete_utc)
        .where(trial.study_id == _id_of(name), trial.state.in_(FINISHED))
        .order_by(trial._datetime_complete_utc.desc())
        .limit(count)
    )
    with reading(storage) as connection:
        return [finish.replace(tzinfo=UTC) for (finish,) in connection.execute(query)]


def _id_of(name: str) -> sa.ScalarSelect[int]:
    """The id of a study, found in the query that needs it: each query of its own is a round trip more."""
    return sa.select(models.StudyModel.study_id).where(models.StudyModel.study_name == name).scalar_subquery()


def _read_params(connection: sa.Connection, trial_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    table = models.TrialParamModel
    params: dict[int, dict[str, Any]] = {}
    query = sa.select(table.trial_id, table.param_name, table.param_value, table.distribution_json).order_by(
        table.param_id
    )
    for key, name, value, distribution in _rows_of(connection, query, table.trial_id, trial_ids):
        params.setdefault(key, {})[name] = parse_distribution(distribution).to_external_repr(value)
    return params


def _read_attributes(connection: sa.Connection, trial_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    table = models.TrialUserAttributeModel
    attributes: dict[int, dict[str, Any]] = {}
    query = sa.select(table.trial_id, table.key, table.value_json)
    for key, name, value in _rows_of(connection, query, table.trial_id, trial_ids):
        attributes.setdefault(key, {})[name] = json.loads(value)
    return attributes


def _rows_of(connection: sa.Connection, query: sa.Select[Any], column: Any, trial_ids: Sequence[int]) -> Iterator[Any]:
    for start in range(0, len(trial_ids), 10_000):  # SQLite takes up to 32 766 values in one statement
        yield from connection.execute(query.where(column.in_(trial_ids[start : start + 10_000])))


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
