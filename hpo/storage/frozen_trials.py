"""Trials and studies as Optuna has them, read from its tables by one statement.

Optuna's own storage asks each table apart, and makes an object of every row: it takes five to seven times as long to
read 10 000 trials (`benchmarks/reading.py`). Optuna's tables are private to it; `optuna>=5.0,<5.1` is pinned.

Other programs write to a database too, and SQLite takes any value in any column: an attribute that cannot be read is
left out, and a trial whose parameters or values cannot be read too. So nothing here is believed before its kind is
checked, and Optuna's own readers, which trust what they find, are called with what they can read alone.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

TRIAL = models.TrialModel
PARAM, USER, SYSTEM = models.TrialParamModel, models.TrialUserAttributeModel, models.TrialSystemAttributeModel
VALUE, REPORT = models.TrialValueModel, models.TrialIntermediateValueModel
STUDY, DIRECTION = models.StudyModel, models.StudyDirectionModel
STUDY_USER, STUDY_SYSTEM = models.StudyUserAttributeModel, models.StudySystemAttributeModel

NO_NUMBER = sa.cast(sa.null(), sa.Float)
PARTS: tuple[tuple[str, Any, Any, Any, Any], ...] = (  # what belongs to a trial: its id, name, number and text
    ("param", PARAM.param_id, PARAM.param_name, PARAM.param_value, PARAM.distribution_json),
    ("user", USER.trial_user_attribute_id, USER.key, NO_NUMBER, USER.value_json),
    ("system", SYSTEM.trial_system_attribute_id, SYSTEM.key, NO_NUMBER, SYSTEM.value_json),
    ("value", VALUE.trial_value_id, VALUE.objective, VALUE.value, VALUE.value_type),
    (
        *("report", REPORT.trial_intermediate_value_id, REPORT.step, REPORT.intermediate_value),
        REPORT.intermediate_value_type,
    ),
)
NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
"""How Optuna stores what is no finite number: by its kind, without a number."""
UNREADABLE = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What the functions here raise about rows that make no trial."""


@cache  # to make it takes a millisecond, and a trial reads trials a dozen times
def select_trials(
    *, one: bool = False, some: bool = False, newer: bool = False, in_states: bool = False, brief: bool = False
) -> sa.CompoundSelect[Any]:
    """Returns the statement that reads trials with all that belongs to them.

    Its parameters are named here in quotes.

    Args:
        one: whether it reads the trial of an id, "trial"; else those of a study, "study".
        some: or those of some ids, "trials".
        newer: whether of those only some, "included", and all with an id above one, "after". None of them has an id
            below "since"; said of each table, it lets the database skip a long study's rows.
        in_states: whether only those in some "states".
        brief: whether without their reports and Optuna's own attributes.
    """
    chosen: list[sa.ColumnElement[bool]] = [TRIAL.study_id == sa.bindparam("study")]
    if one or some:
        ids: Any = sa.bindparam("trials", expanding=True)
        chosen = [TRIAL.trial_id == sa.bindparam("trial") if one else TRIAL.trial_id.in_(ids)]
    if newer:
        included = TRIAL.trial_id.in_(sa.bindparam("included", expanding=True))
        chosen.append(sa.or_(included, TRIAL.trial_id > sa.bindparam("after")))
    if in_states:
        chosen.append(TRIAL.state.in_(sa.bindparam("states", expanding=True)))
    since: Any = sa.bindparam("since", 0)
    # Coerced, not cast: SQLite would make 0 of any text.
    number, none = sa.type_coerce(TRIAL.number, sa.Float), sa.cast(sa.null(), sa.Text)
    times = (sa.cast(TRIAL._datetime_start_utc, sa.Text), sa.cast(TRIAL._datetime_complete_utc, sa.Text))
    everything = [
        sa.select(
            TRIAL.trial_id, sa.literal("trial").label("part"), TRIAL.trial_id.label("row_id"),
            sa.cast(TRIAL.state, sa.Text).label("name"), number.label("number"), sa.literal("").label("text"),
            *times,
        ).where(*chosen, TRIAL.trial_id >= since)
    ]  # fmt: skip
    for part, row_id, name, value, text in PARTS:
        if brief and part in ("system", "report"):
            continue
        columns = (sa.cast(name, sa.Text), sa.type_coerce(value, sa.Float), sa.cast(text, sa.Text))
        everything.append(
            sa.select(TRIAL.trial_id, sa.literal(part), row_id, *columns, none, none)
            .join(row_id.class_, row_id.class_.trial_id == TRIAL.trial_id)
            .where(*chosen, TRIAL.trial_id >= since, row_id.class_.trial_id >= since)
        )
    return sa.union_all(*everything)


def freeze(rows: Iterable[Any]) -> list[FrozenTrial]:
    """Returns the trials that the rows of `select_trials` make, in the order of their ids."""
    trials: list[tuple[Any, ...]] = []
    parts: dict[tuple[int, str], list[Part]] = defaultdict(list)
    for trial_id, part, row_id, name, number, text, started, ended in rows:
        if part == "trial":
            trials.append((trial_id, number, name, started, ended))
        else:
            parts[trial_id, part].append((row_id, name, number, text))
    return list(_readable(trials, parts))


def _readable(trials: list[tuple[Any, ...]], parts: dict[tuple[int, str], list[Part]]) -> Iterator[FrozenTrial]:
    for trial_id, number, state, started, ended in sorted(trials):
        try:
            yield frozen_trial(
                trial_id, int(_finite(number)), TrialState[state], read_time(started), read_time(ended),
                params=parts[trial_id, "param"], user=parts[trial_id, "user"], system=parts[trial_id, "system"],
                values=parts[trial_id, "value"], reports=parts[trial_id, "report"],
            )  # fmt: skip
        except UNREADABLE:
            continue  # `queries.count_trials` still counts it, so `hpo status` says that it is there


Part = tuple[int, str, Any, str]  # a row's id, name, number or None, and text


def frozen_trial(
    trial_id: int,
    number: int,
    state: TrialState,
    started: datetime | None,
    ended: datetime | None,
    *,
    params: Sequence[Part] = (),
    user: Sequence[Part] = (),
    system: Sequence[Part] = (),
    values: Sequence[Part] = (),
    reports: Sequence[Part] = (),
) -> FrozenTrial:
    """Returns a trial made of rows.

    Raises:
        UNREADABLE: where they make none.
    """
    in_order = sorted(params)  # of their being proposed
    distributions = {_text(name): parse_distribution(text) for _, name, _, text in in_order}
    objectives = {int(name): _number(value, kind) for _, name, value, kind in values}
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=[objectives[k] for k in sorted(objectives)] or None,
        datetime_start=_local(started),
        datetime_complete=_local(ended),
        params={name: read_param(value, distributions[name]) for _, name, value, _ in in_order},
        distributions=distributions,
        user_attrs=read_attributes((name, text) for _, name, _, text in user),
        system_attrs=read_attributes((name, text) for _, name, _, text in system),
        intermediate_values={
            int(step): _number(value, kind) for _, step, value, kind in sorted(reports, key=lambda row: int(row[1]))
        },
        trial_id=trial_id,
    )


def read_attributes(rows: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Returns attributes by their names, from their JSON; without those that are none."""
    found = {}
    for name, text in rows:
        try:
            found[_text(name)] = json.loads(text)
        except (RecursionError, TypeError, ValueError):
            continue
    return found


def read_time(text: str | None) -> datetime | None:
    """Returns a stored time, in UTC and without saying so; None where it cannot be read."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None) if text else None
    except (TypeError, ValueError):
        return None


@lru_cache(maxsize=256)
def parse_distribution(text: str) -> BaseDistribution:
    """Returns the distribution that a stored parameter was drawn from; the same object for the same text.

    Raises:
        ValueError: where the text is none.
    """
    try:
        found = json_to_distribution(text)
    except Exception as error:  # it raises whatever Python does on what is not as it expects
        raise ValueError(f"no distribution: {error}") from error
    if isinstance(found, CategoricalDistribution):
        if not all(choice is None or isinstance(choice, bool | int | float | str) for choice in found.choices):
            raise ValueError("no distribution: a choice is neither a number nor a text")
    elif not (math.isfinite(found.low) and math.isfinite(found.high)):  # type: ignore[attr-defined]
        raise ValueError("no distribution: it has no bounds")
    return found


def read_param(stored: Any, distribution: BaseDistribution) -> Any:
    """Returns the value of a stored parameter.

    Raises:
        UNREADABLE: where the distribution has no such value.
    """
    internal = _finite(stored)
    if not distribution._contains(internal):
        raise ValueError(f"{internal} is no value of {distribution}")
    return distribution.to_external_repr(internal)


def _number(stored: Any, kind: str) -> float:
    """Returns an objective value or a report, by what its kind says."""
    if kind == "FINITE":
        return _finite(stored)
    if stored is not None:
        raise ValueError(f"{kind} has no number")
    return NOT_FINITE[kind]


def _finite(stored: Any) -> float:
    if not isinstance(stored, int | float):
        raise TypeError(f"{stored!r} is no number")
    if not math.isfinite(stored):
        raise ValueError(f"{stored} is not finite")
    return stored


def _text(stored: Any) -> str:
    if not isinstance(stored, str):
        raise TypeError(f"{stored!r} is no text")
    return stored


def select_studies(*chosen: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    """Returns the statement that reads studies, with their directions and attributes."""
    names = sa.cast(STUDY.study_name, sa.Text)
    everything = [sa.select(STUDY.study_id, sa.literal("study").label("part"), names.label("name"), sa.literal(""))]
    for part, row_id, name, text in (
        ("direction", DIRECTION.study_direction_id, DIRECTION.objective, DIRECTION.direction),
        ("user", STUDY_USER.study_user_attribute_id, STUDY_USER.key, STUDY_USER.value_json),
        ("system", STUDY_SYSTEM.study_system_attribute_id, STUDY_SYSTEM.key, STUDY_SYSTEM.value_json),
    ):
        columns = (sa.cast(name, sa.Text), sa.cast(text, sa.Text))
        everything.append(
            sa.select(STUDY.study_id, sa.literal(part), *columns).join(
                row_id.class_, row_id.class_.study_id == STUDY.study_id
            )
        )
    return sa.union_all(*(one.where(*chosen) for one in everything))


def freeze_studies(rows: Iterable[Any]) -> list[FrozenStudy]:
    """Returns the studies that the rows of `select_studies` make, in the order of their ids.

    A direction that Optuna has no name for is said to be none that is set.
    """
    names: dict[int, str] = {}
    parts: dict[tuple[int, str], list[tuple[Any, Any]]] = defaultdict(list)
    for study_id, part, name, text in rows:
        if part == "study":
            names[study_id] = name
        else:
            parts[study_id, part].append((name, text))
    known = StudyDirection.__members__
    return [
        FrozenStudy(
            study_name=names[key],
            direction=None,
            directions=[known.get(text, StudyDirection.NOT_SET) for _, text in sorted(parts[key, "direction"])]
            or [StudyDirection.NOT_SET],
            user_attrs=read_attributes(parts[key, "user"]),
            system_attrs=read_attributes(parts[key, "system"]),
            study_id=key,
        )
        for key in sorted(names)
    ]


def _local(moment: datetime | None) -> datetime | None:
    """Returns a stored time as Optuna shows it, in this machine's zone and without saying so."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
