"""A storage that makes one statement where Optuna's RDBStorage makes several, each a round trip to the server.

With Optuna's own a trial of the cnn study takes 263 round trips, here 44 (docs/deployment.md).
Three things bring it down: a row is written by one statement that looks itself whether its trial still runs; trials are
read by one statement, not by one for each table; and PostgreSQL is told to commit each statement by itself, which saves
BEGIN and COMMIT. What is more than one statement, the creation of a trial and its end, is one transaction as ever.

A trial that was started here is written to only while it carries the claim that it was started with: in a database
that was restored from a backup the id may be another trial's. What the same statement looks up costs no further round
trip.

Overrides private methods of RDBStorage, because its cache calls them; `optuna>=5.0,<5.1` is pinned for it, and a test
holds every method to what Optuna's own makes of the same calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite

from hpo.storage.fast_reads import FastReads, Row
from hpo.storage.frozen_trials import (
    PARAM,
    REPORT,
    SYSTEM,
    TRIAL,
    USER,
    VALUE,
    Part,
    frozen_trial,
    parse_distribution,
)
from hpo.storage.statements import NAMED_BY, UNFINISHED, insert_rows, is_trial, or_replace, utc_now
from hpo.storage.trial_attributes import KINDS

Claim = Mapping[str, Any]

BEAT = models.TrialHeartbeatModel
NOW = sa.func.current_timestamp()


class FastRDBStorage(FastReads):
    """RDBStorage with fewer round trips.

    Args:
        reading, writing: a connection's execution options for a statement that is a transaction by itself.
    """

    def __init__(self, url: str, *, reading: Mapping[str, Any], writing: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(url, reading=reading, **settings)
        self._writing = dict(writing)
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self.engine.name]
        self._claim: Claim = {}
        self._claims: dict[int, str] = {}  # of the trials that were started here
        self._collected: dict[int, list[tuple[Any, Row]]] = {}

    @contextmanager
    def claiming(self, claim: Claim) -> Iterator[None]:
        """Context manager in which trials start with these user attributes, `slot` and `worker`, and a heartbeat."""
        self._claim = claim
        try:
            yield
        finally:
            self._claim = {}

    @contextmanager
    def speaking_for(self, trial_id: int, claim: str | None) -> Iterator[None]:
        """Context manager in which another worker's trial is written to only while it carries that worker's claim.

        Args:
            claim: the text of its attribute `worker`; None for a trial without one.
        """
        if claim is not None:
            self._claims[trial_id] = claim
        try:
            yield
        finally:
            self._claims.pop(trial_id, None)

    @contextmanager
    def batch_writes(self, trial_id: int) -> Iterator[None]:
        """Context manager in which writes to a trial are collected, and at the end written, a statement for each table.

        After an error within nothing is written.
        """
        rows = self._collected[trial_id] = []
        try:
            yield
        finally:
            del self._collected[trial_id]
        by_table: dict[Any, list[Row]] = {}
        for table, row in rows:
            by_table.setdefault(table, []).append(row)
        for table, found in by_table.items():
            self._write_rows(trial_id, table, found)

    def record_heartbeat(self, trial_id: int) -> None:
        """Notes that the trial's worker is alive now, by the server's clock; does nothing where there is no trial."""
        self._execute(self._beat(sa.select(TRIAL.trial_id, NOW).where(*self._is_ours(trial_id))))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a user attribute of an unfinished trial."""
        self._write(trial_id, USER, {"key": key, "value_json": json.dumps(value)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a system attribute of an unfinished trial."""
        self._write(trial_id, SYSTEM, {"key": key, "value_json": json.dumps(value)})

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Reports a value of an unfinished trial."""
        value, kind = REPORT.intermediate_value_to_stored_repr(intermediate_value)
        row = {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
        self._write(trial_id, REPORT, row)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if trial_id not in self._claims:  # or it is of a study's own space, whatever others have added to the study
            previous_distribution = previous_distribution or self._find_distribution(trial_id, param_name)
            if previous_distribution is not None:
                check_distribution_compatibility(previous_distribution, distribution)
        text = distribution_to_json(distribution)
        row = {"param_name": param_name, "param_value": param_value_internal, "distribution_json": text}
        self._write(trial_id, PARAM, row)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Ends an unfinished trial, with its values, or starts an enqueued one, with its claim; in one transaction."""
        if state is TrialState.RUNNING and self._claim:
            return self._start_enqueued(trial_id)
        if not state.is_finished():
            return super().set_trial_state_values(trial_id, state, values)
        end = (
            sa.update(TRIAL.__table__)
            .where(*self._is_ours(trial_id), UNFINISHED)
            .values(state=state, datetime_complete=utc_now())
            .returning(TRIAL.trial_id)
        )
        if values is None:
            changed = self._changed(trial_id, self._execute(end))
        else:
            with self.engine.begin() as connection:
                ended = len(connection.execute(end).all())
                for objective, value in enumerate(values if ended else ()):
                    stored, kind = VALUE.value_to_stored_repr(value)
                    row = {"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind}
                    connection.execute(or_replace(self._insert(VALUE).values(row), VALUE, row))
            changed = self._changed(trial_id, ended)
        self._claims.pop(trial_id, None)
        return changed

    def _start_enqueued(self, trial_id: int) -> bool:
        start = (
            sa.update(TRIAL.__table__)
            .where(TRIAL.trial_id == trial_id, TRIAL.state == TrialState.WAITING)
            .values(state=TrialState.RUNNING, datetime_start=utc_now())
            .returning(TRIAL.trial_id)
        )
        with self.engine.begin() as connection:
            if not connection.execute(start).all():
                return False
            # Whoever enqueued it gave it a configuration: what it has of a measurement is none.
            connection.execute(sa.delete(USER).where(USER.trial_id == trial_id, USER.key.in_(KINDS)))
            for table in (VALUE, REPORT):
                connection.execute(sa.delete(table).where(table.trial_id == trial_id))
            self._write_claim(connection, trial_id)
        return True

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is not None:
            return super()._create_new_trial(study_id, template_trial)
        study, now = models.StudyModel, utc_now()
        others = sa.select(sa.func.count()).where(TRIAL.study_id == study_id).scalar_subquery()
        insert = (
            sa.insert(TRIAL)
            .values(study_id=study_id, state=TrialState.RUNNING, _datetime_start_utc=now, number=others)
            .returning(TRIAL.trial_id, TRIAL.number)
        )
        with self.engine.begin() as connection:
            # So that no two trials get one number.
            if not connection.execute(sa.select(study.study_id).filter_by(study_id=study_id).with_for_update()).all():
                raise KeyError(f"there is no study of the id {study_id}")
            trial_id, number = connection.execute(insert).one()
            self._write_claim(connection, trial_id)
        attributes: list[Part] = [(0, key, None, json.dumps(value)) for key, value in self._claim.items()]
        return frozen_trial(trial_id, number, TrialState.RUNNING, now, None, user=attributes)

    def _write_claim(self, connection: sa.Connection, trial_id: int) -> None:
        """Gives a trial the claim of `claiming`, and a heartbeat, in the transaction that starts it."""
        if not self._claim:
            return
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(self._claim[key])} for key in self._claim]
        insert = self._insert(USER).values(rows)  # SQLite gives the id of a trial that was deleted to the next
        connection.execute(or_replace(insert, USER, rows[0]))
        connection.execute(self._beat(sa.select(TRIAL.trial_id, NOW).where(TRIAL.trial_id == trial_id)))
        self._claims[trial_id] = json.dumps(self._claim["worker"])

    def _write(self, trial_id: int, table: Any, row: Row) -> None:
        if trial_id in self._collected:
            self._collected[trial_id].append((table, row))
        else:
            self._write_rows(trial_id, table, [row])

    def _write_rows(self, trial_id: int, table: Any, rows: Sequence[Row]) -> None:
        """Writes rows that belong to an unfinished trial; the last of the same name counts."""
        last = {row[NAMED_BY[table]]: row for row in rows}.values()
        statement = insert_rows(self._insert, table, tuple(rows[0]), len(last), trial_id in self._claims)
        written = {f"row_{i}_{name}": value for i, row in enumerate(last) for name, value in row.items()}
        written |= {"trial": trial_id, "claim": self._claims.get(trial_id)}
        self._changed(trial_id, self._execute(statement, written))

    def _beat(self, there: sa.Select[Any]) -> Any:
        beat = self._insert(BEAT).from_select(["trial_id", "heartbeat"], there)
        return beat.on_conflict_do_update(index_elements=["trial_id"], set_={"heartbeat": NOW}).returning(BEAT.trial_id)

    def _find_distribution(self, trial_id: int, name: str) -> BaseDistribution | None:
        """Returns the distribution that some trial of the same study has for a parameter."""
        study = sa.select(TRIAL.study_id).where(TRIAL.trial_id == trial_id).scalar_subquery()
        query = (
            sa.select(PARAM.distribution_json)
            .join(TRIAL, PARAM.trial_id == TRIAL.trial_id)
            .where(TRIAL.study_id == study, PARAM.param_name == name)
            .limit(1)
        )
        with self.engine.connect() as connection:
            found = connection.execution_options(**self._reading).execute(query).scalar()
        return None if found is None else parse_distribution(found)

    def _execute(self, statement: sa.Executable, written: Row | None = None) -> int:
        """Executes one statement as a transaction by itself; returns the number of rows that it returns."""
        with self.engine.connect() as connection:
            returned = connection.execution_options(**self._writing).execute(statement, written).all()
            connection.commit()
        return len(returned)

    def _is_ours(self, trial_id: int) -> list[sa.ColumnElement[bool]]:
        """Returns the conditions that it is this trial, and that it carries the claim that is known of it."""
        return is_trial(trial_id, self._claims.get(trial_id))

    def _changed(self, trial_id: int, count: int) -> bool:
        """Makes sure that a trial could be written to.

        Raises:
            TrialGone: where there is none.
            optuna.exceptions.UpdateFinishedTrialError: where it is finished, or another worker's by now.
        """
        if not count:
            trial = self.get_trial(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            if trial_id in self._claims:
                raise UpdateFinishedTrialError(f"trial {trial.number} is another worker's by now")
        return bool(count)
