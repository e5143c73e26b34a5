"""Trials by their claims: which are ours, which slots they take, which run, which have failed.

A claim is what a trial carries from the moment in which it is started: its slot and its worker, as attributes of those
names. Other programs may keep studies in the same database, and add trials to ours; those carry none, and are not
counted here. Reads Optuna's own tables by SQL; `optuna>=5.0,<5.1` is pinned for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.storage.backends import reading
from hpo.storage.frozen_trials import read_attributes, read_time
from hpo.storage.retry import retried
from hpo.storage.trial_attributes import Worker

CLAIM = '{"host": %"pid": %"file": %'  # how the JSON of a `Worker` looks
LONGEST_SLOT = 9  # digits
STUDY = "study"  # the parameter of statements that are made once: a study's name
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
RANKS = {TrialState.COMPLETE: 3, TrialState.PRUNED: 2, TrialState.RUNNING: 1}


@dataclass(frozen=True)
class ActiveClaim:
    """The claim to a trial that is running, or was when its worker died.

    Attributes:
        trial_id: the id by which the storage knows it.
        worker: who claims it; None where that cannot be read.
        claim: the text of that claim.
        heartbeat: when its worker was last heard of; None before its first heartbeat.
        heartbeat_age_seconds: by the database's clock; negative where that was set back.
    """

    trial_id: int
    number: int
    started: datetime | None
    slot: int
    worker: Worker | None
    claim: str
    heartbeat: datetime | None
    heartbeat_age_seconds: float | None


@dataclass(frozen=True)
class Failure:
    """A trial of ours that failed.

    Attributes:
        by_error: whether by an error, rather than given back, or refused.
        refused: whether it was enqueued and cannot be measured.
    """

    number: int
    slot: int
    by_error: bool
    refused: bool


@dataclass(frozen=True)
class Slots:
    """How many slots of a study are taken, each counted once, by the best that its trials have come to.

    Attributes:
        lowest_free: the first slot without a finished or running trial.
        trials: finished or running ones; more than there are slots where one was measured twice.
    """

    complete: int
    pruned: int
    running: int
    lowest_free: int
    trials: int

    @property
    def finished(self) -> int:
        """The slots that count."""
        return self.complete + self.pruned


@retried
def read_slots(storage: RDBStorage, name: str) -> Slots:
    """Returns how many slots of a study are taken."""
    by_rank, all_slots = _select_slots()
    with reading(storage) as connection:
        rows = connection.execute(by_rank, {STUDY: name}).all()
        taken, highest = sum(row[1] for row in rows), max((row[2] for row in rows), default=-1)
        free = taken
        if taken != highest + 1:  # a failed trial leaves a gap
            slots = set(connection.execute(all_slots, {STUDY: name}).scalars())
            free = next(slot for slot in range(len(slots) + 1) if slot not in slots)
    counts = {rank: count for rank, count, *_ in rows}
    complete, pruned, running = (counts.get(rank, 0) for rank in RANKS.values())
    return Slots(complete, pruned, running, free, sum(int(row[3]) for row in rows))


@retried
def read_taken(storage: RDBStorage, name: str) -> set[int]:
    """Returns the slots of a study with a finished or running trial."""
    with reading(storage) as connection:
        return set(connection.execute(_select_slots()[1], {STUDY: name}).scalars())


@cache  # to make such a statement takes several milliseconds, and each trial needs all of them
def _select_slots() -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Returns the statements that count a study's slots by rank, and that read them all."""
    trial, claim = models.TrialModel, Claim()
    rank = sa.case(*((trial.state == state, rank) for state, rank in RANKS.items()))
    by_slot = (
        claim.join(
            sa.select(claim.slot.label("slot"), sa.func.max(rank).label("rank"), sa.func.count().label("trials"))
        )
        .where(trial.study_id == id_of(sa.bindparam(STUDY)), trial.state.in_(RANKS))
        .group_by(claim.slot)
        .subquery()
    )
    by_rank = sa.select(
        by_slot.c.rank, sa.func.count(), sa.func.max(by_slot.c.slot), sa.func.sum(by_slot.c.trials)
    ).group_by(by_slot.c.rank)
    return by_rank, sa.select(by_slot.c.slot)


@retried
def read_failures(storage: RDBStorage, name: str) -> list[Failure]:
    """Reads the trials of ours that failed, in order of their numbers."""
    with reading(storage) as connection:
        return [Failure(*row) for row in connection.execute(_select_failures(), {STUDY: name})]


@cache
def _select_failures() -> sa.Select[Any]:
    trial, claim = models.TrialModel, Claim()
    by_error, refused = (_has_attribute(key) for key in ("error", "refused"))
    query: sa.Select[Any] = (
        claim.join(sa.select(claim.number, claim.slot, by_error, refused))
        .where(trial.study_id == id_of(sa.bindparam(STUDY)), trial.state == TrialState.FAIL)
        .order_by(claim.number)
    )
    return query


@retried
def read_running(storage: RDBStorage, name: str) -> list[ActiveClaim]:
    """Reads the trials of ours that are running, in order of their numbers."""
    with reading(storage) as connection:
        rows = connection.execute(_select_running(), {STUDY: name}).all()
    found = []
    for key, number, slot, text, *moments in rows:
        started, beaten, now = map(read_time, moments)
        age = (now - beaten).total_seconds() if now and beaten else None
        worker = Worker.from_json(read_attributes([("worker", text)]).get("worker"))
        found.append(ActiveClaim(key, number, in_utc(started), slot, worker, text, beaten, age))
    return found


@cache
def _select_running() -> sa.Select[Any]:
    trial, beat, claim = models.TrialModel, models.TrialHeartbeatModel, Claim()
    times = (trial._datetime_start_utc, beat.heartbeat, sa.func.current_timestamp())
    query: sa.Select[Any] = (
        claim.join(
            sa.select(
                trial.trial_id,
                claim.number,
                claim.slot,
                claim.worker_json,
                *(sa.cast(moment, sa.Text) for moment in times),
            )
        )
        .outerjoin(beat, beat.trial_id == trial.trial_id)
        .where(trial.study_id == id_of(sa.bindparam(STUDY)), trial.state == TrialState.RUNNING)
        .order_by(claim.number)
    )
    return query


class Claim:
    """A trial's claim in a query: the columns of its slot, its worker and its number, and how to join them."""

    def __init__(self) -> None:
        self._slot, self._worker = (sa.orm.aliased(models.TrialUserAttributeModel) for _ in range(2))
        self.slot: sa.ColumnElement[int | None] = whole_number(self._slot.value_json)
        self.worker_json: Any = self._worker.value_json
        self.number: sa.ColumnElement[int | None] = whole_number(sa.cast(models.TrialModel.number, sa.Text))
        self.is_there = sa.and_(
            self.slot.is_not(None), self.worker_json.like(CLAIM), self.number.is_not(None), _holds_its_value()
        )

    def outer_join(self, query: Any) -> Any:
        """Returns a query of trials with the columns beside them that a claim has."""
        trial_id = models.TrialModel.trial_id
        for attribute, key in ((self._slot, "slot"), (self._worker, "worker")):
            query = query.outerjoin(attribute, sa.and_(attribute.trial_id == trial_id, attribute.key == key))
        return query

    def join(self, query: Any) -> Any:
        """Returns a query of trials that are claimed alone."""
        trial_id = models.TrialModel.trial_id
        query = query.select_from(models.TrialModel)
        for attribute, key in ((self._slot, "slot"), (self._worker, "worker")):
            query = query.join(attribute, sa.and_(attribute.trial_id == trial_id, attribute.key == key))
        return query.where(self.is_there)


def whole_number(text: Any) -> sa.ColumnElement[int | None]:
    """Returns the number that JSON's digits stand for, else null: PostgreSQL casts no other text, SQLite any."""
    digits = sa.and_(sa.func.trim(text, "0123456789") == "", sa.func.length(text).between(1, LONGEST_SLOT))
    is_json = sa.or_(text == "0", sa.not_(text.startswith("0")))
    return sa.case((sa.and_(digits, is_json), sa.cast(text, sa.Integer)))


def _holds_its_value() -> sa.ColumnElement[bool]:
    """The condition that a trial that is COMPLETE has a value."""
    trial, value = models.TrialModel, sa.orm.aliased(models.TrialValueModel)
    measured = sa.exists().where(
        value.trial_id == trial.trial_id,
        value.objective == 0,
        value.value_type == models.TrialValueModel.TrialValueType.FINITE,
        value.value.is_not(None),
    )
    return sa.or_(trial.state != TrialState.COMPLETE, measured)


def _has_attribute(key: str) -> sa.ColumnElement[bool]:
    attribute = sa.orm.aliased(models.TrialUserAttributeModel)
    return sa.exists().where(attribute.trial_id == models.TrialModel.trial_id, attribute.key == key)


def id_of(name: str | sa.BindParameter[Any]) -> sa.ScalarSelect[int]:
    """The id of a study, found in the query that needs it: each query of its own is a round trip more."""
    return sa.select(models.StudyModel.study_id).where(models.StudyModel.study_name == name).scalar_subquery()


def in_utc(moment: datetime | str | None) -> datetime | None:
    """Returns a stored time with its zone."""
    read = read_time(moment) if isinstance(moment, str) else moment
    return None if read is None else read.replace(tzinfo=UTC)
