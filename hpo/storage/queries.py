"""Reads the studies and trials of a storage by SQL, where Optuna would load every trial whole.

Other programs may keep studies in the same database, and add trials to ours. A trial is ours where it carries a claim,
its slot and its worker, which no other program writes; only such trials are counted, ranked and believed, and what
cannot be read is left out.

Reads Optuna's own tables, private to it: `optuna>=5.0,<5.1` is pinned, and a test names the columns. Every reading is
repeated while the database is away.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.errors import HpoError, UnknownName
from hpo.storage.backends import explain_failure, reading
from hpo.storage.claims import FINISHED, Claim, id_of, in_utc
from hpo.storage.frozen_trials import UNREADABLE, freeze, read_attributes, select_trials
from hpo.storage.retry import retried
from hpo.storage.trial_attributes import believed, is_claim, is_whole
from hpo.text.secrets import show_url

AT_ONCE = 5000  # trials whose ids stand in one statement, which names them four times; SQLite takes 32 766 values


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the storage has it; times in UTC.

    Attributes:
        attributes: its user attributes, without those that are not as this program writes them.
        is_ours: whether this program has started it, and it holds what its state promises.
    """

    number: int
    state: TrialState
    value: float | None
    started: datetime | None
    finished: datetime | None
    params: dict[str, Any]
    attributes: dict[str, Any]
    is_ours: bool = True


def read_fault(storage: RDBStorage) -> str | None:
    """Says why a storage cannot be read at this moment, if it cannot; waits for nobody."""
    try:
        with reading(storage) as connection:
            connection.execute(sa.select(models.StudyModel.study_id).limit(1)).all()
    except (sa.exc.SQLAlchemyError, HpoError) as error:
        return f"storage {show_url(storage.url)} cannot be read: {explain_failure(error)}"
    return None


@retried
def study_names(storage: RDBStorage) -> list[str]:
    """Returns the names of the studies in a storage, in order of their creation."""
    with reading(storage) as connection:
        names = sa.cast(models.StudyModel.study_name, sa.Text)
        rows = connection.execute(sa.select(names).order_by(models.StudyModel.study_id))
        return [name for (name,) in rows]


@retried
def finished_slots(storage: RDBStorage) -> dict[str, int]:
    """Returns how many slots of each study have a finished trial; without studies that have none."""
    study, trial, claim = models.StudyModel, models.TrialModel, Claim()
    query = (
        claim.join(sa.select(sa.cast(study.study_name, sa.Text), sa.func.count(claim.slot.distinct())))
        .join(study, study.study_id == trial.study_id)
        .where(trial.state.in_(FINISHED))
        .group_by(study.study_name)
    )
    with reading(storage) as connection:
        return {name: count for name, count in connection.execute(query)}


def study_attributes(storage: RDBStorage, name: str) -> dict[str, Any]:
    """Returns a study's user attributes.

    Raises:
        UnknownName: where the storage has no such study.
    """
    return read_study(storage, name)[0]


def read_study(storage: RDBStorage, name: str) -> tuple[dict[str, Any], str]:
    """Returns a study's user attributes, and its direction, `minimize` or `maximize`; nothing where it has several.

    Raises:
        UnknownName: where the storage has no such study.
    """
    found = _read_studies(storage, models.StudyModel.study_name == name)
    if name not in found:
        raise _unknown(storage, name)
    return found[name]


def read_studies(storage: RDBStorage) -> dict[str, tuple[dict[str, Any], str]]:
    """Returns of each study what `read_study` does, in order of their creation."""
    return _read_studies(storage)


@retried
def _read_studies(storage: RDBStorage, *chosen: sa.ColumnElement[bool]) -> dict[str, tuple[dict[str, Any], str]]:
    study, attribute = models.StudyModel, models.StudyUserAttributeModel
    query = (
        sa.select(
            sa.cast(study.study_name, sa.Text),
            sa.cast(attribute.key, sa.Text),
            sa.cast(attribute.value_json, sa.Text),
            _only_direction(study.study_id),
        )
        .select_from(study)
        .outerjoin(attribute, attribute.study_id == study.study_id)
        .where(*chosen)
        .order_by(study.study_id)
    )
    texts: dict[str, list[tuple[str, str]]] = {}
    directions: dict[str, str] = {}
    with reading(storage) as connection:
        for name, key, text, direction in connection.execute(query):
            directions[name] = str(direction or "").lower()
            texts.setdefault(name, []).extend([(key, text)] if key is not None else [])
    return {name: (read_attributes(texts[name]), directions[name]) for name in texts}


def _only_direction(study_id: Any) -> sa.ColumnElement[str | None]:
    """A study's direction, as `MINIMIZE`; null where it has none or several."""
    direction = models.StudyDirectionModel
    text = sa.func.max(sa.cast(direction.direction, sa.Text))
    only = sa.select(text).where(direction.study_id == study_id)
    only = only.group_by(direction.study_id).having(sa.func.count() == 1)  # SQLite before 3.39 wants a group
    return only.correlate(models.StudyModel, models.TrialModel).scalar_subquery()


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


@retried
def count_trials(storage: RDBStorage, name: str) -> dict[TrialState, int]:
    """Returns how many trials of a study are in each state, whoever has started them."""
    state = sa.cast(models.TrialModel.state, sa.Text)
    query = sa.select(state, sa.func.count()).where(models.TrialModel.study_id == id_of(name)).group_by(state)
    with reading(storage) as connection:
        counted = {state: count for state, count in connection.execute(query)}
    return {state: counted.get(state.name, 0) for state in TrialState}


@retried
def count_trials_of(storage: RDBStorage, study_id: int) -> int:
    """Returns how many trials a study has, whatever their states; 0 where the storage has no study of that id."""
    query = sa.select(sa.func.count()).where(models.TrialModel.study_id == study_id)
    with reading(storage) as connection:
        return int(connection.execute(query).scalar_one())


@retried
def read_trials(
    storage: RDBStorage,
    name: str,
    *,
    states: Collection[TrialState] = tuple(TrialState),
    best: int | None = None,
    number: int | None = None,
    foreign: bool = False,
) -> list[StoredTrial]:
    """Reads the trials of a study in order of their numbers, or the best few in order of their values.

    Args:
        states: only trials in these states.
        best: only so many, the best values first, by the study's direction, and the earlier trial first among equals;
            trials without a value are left out.
        number: only the trial of this number.
        foreign: whether to read those too that this program has not started, or that cannot be believed.
    """
    trial, value, claim = models.TrialModel, models.TrialValueModel, Claim()
    times = (sa.cast(trial._datetime_start_utc, sa.Text), sa.cast(trial._datetime_complete_utc, sa.Text))
    query = (
        claim.outer_join(sa.select(trial.trial_id, claim.number, trial.state, value.value, *times, claim.is_there))
        .outerjoin(value, sa.and_(value.trial_id == trial.trial_id, value.objective == 0))
        .where(trial.study_id == id_of(name), trial.state.in_(states), claim.number.is_not(None))
    )
    if not foreign:
        query = query.where(claim.is_there)
    if number is not None:
        query = query.where(claim.number == number)
    if best is None:
        query = query.order_by(claim.number)
    else:
        less_is_better = sa.case((_only_direction(trial.study_id) == "MAXIMIZE", -value.value), else_=value.value)
        query = query.where(value.value.is_not(None)).order_by(less_is_better, claim.number)
    found: list[StoredTrial] = []
    with reading(storage) as connection:
        needed = _needed_params(connection, name)
        # Of the best, a few more than are asked for: one that cannot be believed makes room for the next.
        for rows in connection.execute(query).partitions(10_000 if best is None else best + 10):
            found += [read for read in _read_whole(connection, rows, needed) if foreign or read.is_ours]
            if best is not None and len(found) >= best:
                break
    return found[:best]


def _read_whole(connection: sa.Connection, rows: Sequence[Any], needed: set[str]) -> Iterator[StoredTrial]:
    frozen = {
        trial._trial_id: trial
        for start in range(0, len(rows), AT_ONCE)
        for trial in freeze(
            connection.execute(
                select_trials(some=True, brief=True),
                {"trials": [row.trial_id for row in rows[start : start + AT_ONCE]]},
            )
        )
    }
    for key, number, state, value, started, finished, is_claimed in rows:
        params = frozen[key].params if key in frozen else {}
        kept = believed(frozen[key].user_attrs) if key in frozen else {}
        is_configured = state is not TrialState.COMPLETE or params.keys() >= needed
        yield StoredTrial(
            number=number,
            state=state,
            value=value if isinstance(value, float) else None,
            started=in_utc(started),
            finished=in_utc(finished),
            params=params,
            attributes=kept,
            is_ours=bool(is_claimed) and is_claim(kept) and is_configured and is_whole(state, value, kept),
        )


def _needed_params(connection: sa.Connection, study: str) -> set[str]:
    """Returns the parameters that every trial of a study has, at the latest when it is measured to the end."""
    attribute = models.StudyUserAttributeModel
    text = sa.select(sa.cast(attribute.value_json, sa.Text)).where(
        attribute.study_id == id_of(study), attribute.key == "definition"
    )
    try:
        definition = json.loads(connection.execute(text).scalar_one_or_none() or "{}")
        listed = [set(entry["params"]) for entry in definition.get("trial", [])]
        always = {name for name, parameter in definition.get("space", {}).items() if not parameter["when"]}
    except (*UNREADABLE, AttributeError):
        return set()  # of a study that is not ours, or was tampered with
    return set.intersection(*listed) if listed else always


@retried
def last_finishes(storage: RDBStorage, name: str, count: int) -> list[datetime]:
    """Returns when the last so many trials of ours finished, the latest first."""
    trial, claim = models.TrialModel, Claim()
    query = (
        claim.join(sa.select(sa.cast(trial._datetime_complete_utc, sa.Text)))
        .where(trial.study_id == id_of(name), trial.state.in_(FINISHED))
        .order_by(trial._datetime_complete_utc.desc())
        .limit(count)
    )
    with reading(storage) as connection:
        return [finish for text in connection.execute(query).scalars() if (finish := in_utc(text)) is not None]
