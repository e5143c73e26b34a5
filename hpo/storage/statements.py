"""Statements that write to a trial: each looks itself whether the trial still runs and is whose it should be."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.storage.frozen_trials import PARAM, REPORT, SYSTEM, TRIAL, USER, VALUE

UNFINISHED = TRIAL.state.in_((TrialState.RUNNING, TrialState.WAITING))
NAMED_BY = {
    PARAM: "param_name",
    USER: "key",
    SYSTEM: "key",
    VALUE: "objective",
    REPORT: "step",
}  # a row's column that tells it from its trial's others


@cache  # to make such a statement takes a millisecond, and a trial writes dozens of times
def insert_rows(insert: Any, table: Any, names: tuple[str, ...], count: int, is_claimed: bool) -> Any:
    """Returns the statement that writes so many rows of an unfinished trial; those of the same name are replaced.

    Its parameters are "trial", the trial's "claim" if it has one, and "row_I_NAME" for row I's column.
    """
    # Not by VALUES: SQLAlchemy would compile such a statement anew every time, which takes 3 ms.
    types = {name: table.__table__.c[name].type for name in names}
    ours = is_trial(sa.bindparam("trial"), sa.bindparam("claim") if is_claimed else None)

    def row(i: int) -> sa.Select[Any]:
        given = (sa.cast(sa.bindparam(f"row_{i}_{name}", type_=kind), kind) for name, kind in types.items())
        return sa.select(TRIAL.trial_id, *given).where(*ours, UNFINISHED)

    rows = insert(table).from_select(["trial_id", *names], sa.union_all(*map(row, range(count))))
    return or_replace(rows, table, names).returning(table.trial_id)


def is_trial(trial: Any, claim: Any) -> list[sa.ColumnElement[bool]]:
    """Returns the conditions that it is a trial of this id, and, unless it is None, that it carries this claim."""
    this = [TRIAL.trial_id == trial]
    if claim is not None:
        claimed = sa.select(USER.trial_id).where(USER.trial_id == trial, USER.key == "worker", USER.value_json == claim)
        this.append(claimed.exists())
    return this


def or_replace(insert: Any, table: Any, row: Iterable[str]) -> Any:
    """Returns an insert that replaces the row of the same name; `row` names its columns."""
    named = {"trial_id", NAMED_BY[table]}
    replaced = {name: insert.excluded[name] for name in row if name not in named}
    return insert.on_conflict_do_update(index_elements=sorted(named), set_=replaced)


def utc_now() -> datetime:
    """Returns the time as Optuna stores it, in UTC and without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)
