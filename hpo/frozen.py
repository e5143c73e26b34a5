"""Trials as Optuna has them, read from its tables by one statement.

Optuna's own storage asks each table apart, and makes an object of every row: it takes five to seven times as long to
read 10 000 trials (`benchmarks/reading.py`). Optuna's tables are private to it; `optuna>=5.0,<5.1` is pinned.

Other programs write to a database too, and SQLite takes any value in any column: an attribute that cannot be read is
left out, and a trial whose parameters or values cannot be read too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

TRIAL = models.TrialModel
PARAM, USER, SYSTEM = models.TrialParamModel, models.TrialUserAttributeModel, models.TrialSystemAttributeModel
VALUE, REPORT = models.TrialValueModel, models.TrialIntermediateValueModel


def select_trials(*chosen: sa.ColumnElement[bool], since: int = 0) -> sa.CompoundSelect[Any]:
    """Returns the statement that reads trials with all that belongs to them.

    Args:
        chosen: conditions on a trial.
        since: none of them has a lower id; said of each table, it lets the database skip a long study's rows.
    """
    number, none = sa.cast(TRIAL.number, sa.Float), sa.cast(sa.null(), sa.Text)
    times = (sa.cast(TRIAL._datetime_start_utc, sa.Text), sa.cast(TRIAL._datetime_complete_utc, sa.Text))
    everything = [
        sa.select(
            TRIAL.trial_id, sa.literal("trial").label("part"), TRIAL.trial_id.label("row_id"),
            sa.cast(TRIAL.state, sa.Text).label("name"), number.label("number"), sa.literal("").label("text"),
            *times,
        ).where(*chosen, TRIAL.trial_id >= since)
    ]  # fmt: skip
    for part, row_id, name, value, text in (
        ("param", PARAM.param_id, PARAM.param_name, PARAM.param_value, PARAM.distribution_json),
        ("user", USER.trial_user_attribute_id, USER.key, sa.null(), USER.value_json),
        ("system", SYSTEM.trial_system_attribute_id, SYSTEM.key, sa.null(), SYSTEM.value_json),
        ("value", VALUE.trial_value_id, VALUE.objective, VALUE.value, VALUE.value_type),
        ("report", REPORT.trial_intermediate_value_id, REPORT.step, REPORT.intermediate_value,
         REPORT.intermediate_value_type),
    ):  # fmt: skip
        columns = (sa.cast(name, sa.Text), sa.cast(value, sa.Float), sa.cast(text, sa.Text))
        everything.append(
            sa.select(TRIAL.trial_id, sa.literal(part), row_id, *columns, none, none)
            .join(row_id.class_, row_id.class_.trial_id == TRIAL.trial_id)
            .where(*chosen, TRIAL.trial_id >= since, row_id.class_.trial_id >= since)
        )
    return sa.union_all(*everything)


def freeze(rows: Iterable[Any]) -> list[FrozenTrial]:
    """Returns the trials that the rows of `select_trials` make, in the order of their ids."""
    births: list[tuple[Any, ...]] = []
    parts: dict[tuple[int, str], list[Part]] = defaultdict(list)
    for trial_id, part, row_id, name, number, text, started, ended in rows:
        if part == "trial":
            births.append((trial_id, number, name, started, ended))
        else:
            parts[trial_id, part].append((row_id, name, number, text))
    return list(_readable(births, parts))


def _readable(births: list[tuple[Any, ...]], parts: dict[tuple[int, str], list[Part]]) -> Iterator[FrozenTrial]:
    for trial_id, number, state, started, ended in sorted(births):
        try:
            yield frozen_trial(
                trial_id, int(number), TrialState[state], read_time(started), read_time(ended),
                params=parts[trial_id, "param"], user=parts[trial_id, "user"], system=parts[trial_id, "system"],
                values=parts[trial_id, "value"], reports=parts[trial_id, "report"],
            )  # fmt: skip
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            continue  # `records.count_trials` still counts it, so `hpo status` says that it is there


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
    """Returns a trial made of rows."""
    in_order = sorted(params)  # of their being proposed
    distributions = {name: parse_distribution(text) for _, name, _, text in in_order}
    kinds, report_kinds = VALUE.TrialValueType, REPORT.TrialIntermediateValueType
    objectives = {int(name): VALUE.stored_repr_to_value(value, kinds[kind]) for _, name, value, kind in values}
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=[objectives[k] for k in sorted(objectives)] or None,
        datetime_start=_local(started),
        datetime_complete=_local(ended),
        params={name: distributions[name].to_external_repr(value) for _, name, value, _ in in_order},
        distributions=distributions,
        user_attrs=read_attributes((name, text) for _, name, _, text in user),
        system_attrs=read_attributes((name, text) for _, name, _, text in system),
        intermediate_values={
            int(step): REPORT.stored_repr_to_intermediate_value(value, report_kinds[kind])
            for _, step, value, kind in sorted(reports, key=lambda row: int(row[1]))
        },
        trial_id=trial_id,
    )


def read_attributes(rows: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Returns attributes by their names, from their JSON; without those that are none."""
    found = {}
    for name, text in rows:
        try:
            found[name] = json.loads(text)
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
    """Returns the distribution that a stored parameter was drawn from; the same object for the same text."""
    return json_to_distribution(text)


def _local(moment: datetime | None) -> datetime | None:
    """Returns a stored time as Optuna shows it, in this machine's zone and without saying so."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
