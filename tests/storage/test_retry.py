from __future__ import annotations

import signal
import sqlite3
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from psycopg import waiting

from hpo.errors import StorageError
from hpo.storage import queries as records
from hpo.storage import retry as outages
from hpo.storage import trials
from hpo.storage.backends import FAILURES, open_storage
from hpo.storage.fast_rdb import FastRDBStorage
from hpo.storage.queries import count_trials, read_trials, study_names
from hpo.storage.retry import REPEATED, RetryingStorage, is_outage, retried
from hpo.storage.trials import trial_id_of
from hpo.study.definition import StudyDefinition
from tests.conftest import claim, create
from tests.postgres import TemporaryPostgres


@pytest.fixture
def server() -> Iterator[TemporaryPostgres]:
    """A server of its own, to be stopped and started."""
    started = TemporaryPostgres()
    yield started
    started.remove()


@pytest.fixture
def away(server: TemporaryPostgres, small_study: StudyDefinition) -> RDBStorage:
    opened = open_storage(server.url(), create=True)
    return create(opened, "small", small_study, 10)


def test_every_repeated_operation_is_optunas() -> None:
    for name in REPEATED:
        assert callable(getattr(RDBStorage if name != "_write_rows" else FastRDBStorage, name)), name


def test_an_operation_outlasts_a_restart(
    away: RDBStorage, server: TemporaryPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_needed_params", lambda connection, study: {"rate"})
    study = optuna.load_study(study_name="small", storage=away)
    trial = trials.ask(away, study, claim(0))
    server.restart(signal.SIGQUIT)
    trial.suggest_float("rate", 0.0, 1.0)
    server.restart(signal.SIGQUIT)
    trial.report(1.0, step=1)
    trial.set_user_attr("errors", [2.0])
    trial.set_user_attr("std", None)
    server.restart(signal.SIGQUIT)
    assert count_trials(away, "small")[TrialState.RUNNING] == 1
    server.restart(signal.SIGQUIT)
    away.record_heartbeat(trial_id_of(trial))
    server.restart(signal.SIGQUIT)
    away.set_trial_state_values(trial_id_of(trial), TrialState.COMPLETE, [2.0])
    (kept,) = read_trials(away, "small")
    assert (kept.state, kept.value) == (TrialState.COMPLETE, 2.0)


def test_an_operation_waits_for_a_database_that_is_away(away: RDBStorage, server: TemporaryPostgres) -> None:
    server.stop(signal.SIGQUIT)
    with ThreadPoolExecutor(1) as pool:
        names = pool.submit(study_names, away)
        time.sleep(1.0)
        assert not names.done()
        server.start()
        assert names.result(timeout=10) == ["small"]


def test_a_worker_that_starts_during_an_outage_waits_and_a_command_does_not(
    away: RDBStorage, server: TemporaryPostgres
) -> None:
    server.stop(signal.SIGQUIT)
    with pytest.raises(StorageError, match=r"(?i)connection refused"):
        open_storage(server.url(), create=True)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(open_storage, server.url(), create=True, patient=True)
        time.sleep(1.0)
        assert not opened.done()
        server.start()
        assert study_names(opened.result(timeout=10)) == ["small"]


def test_a_database_that_stays_away_is_an_error_in_the_end(
    away: RDBStorage, server: TemporaryPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "OUTAGE_SECONDS", 1.0)
    server.stop(signal.SIGQUIT)
    with pytest.raises(FAILURES):
        study_names(away)


def test_a_process_that_was_paused_in_an_operation_still_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "OUTAGE_SECONDS", 0.5)
    tries = []

    @retried
    def ask() -> str:
        tries.append(1)
        if len(tries) == 1:
            time.sleep(0.6)  # longer than an outage may last
            raise StorageInternalError from sa.exc.PendingRollbackError("the connection broke")
        return "answered"

    assert ask() == "answered"


def test_a_result_whose_answer_got_lost_is_not_told_twice(away: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trials.ask(away, optuna.load_study(study_name="small", storage=away), claim(0))
    really = FastRDBStorage.set_trial_state_values

    def land_and_break(self: FastRDBStorage, *told: object) -> bool:
        monkeypatch.setattr(FastRDBStorage, "set_trial_state_values", really)
        really(self, *told)  # type: ignore[arg-type]
        raise StorageInternalError from sa.exc.PendingRollbackError("the connection broke")

    monkeypatch.setattr(FastRDBStorage, "set_trial_state_values", land_and_break)
    assert isinstance(away, RetryingStorage)
    assert away.set_trial_state_values(trial_id_of(trial), TrialState.COMPLETE, [2.0])


def test_a_trial_that_was_given_up_refuses_its_result(away: RDBStorage) -> None:
    trial = trials.ask(away, optuna.load_study(study_name="small", storage=away), claim(0))
    away.set_trial_state_values(trial_id_of(trial), TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        away.set_trial_state_values(trial_id_of(trial), TrialState.COMPLETE, [2.0])


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_wrong_statement_is_no_outage(kind: str, tmp_path: Path, postgres: TemporaryPostgres) -> None:
    engine = sa.create_engine("sqlite://" if kind == "sqlite" else postgres.url())
    tries = []

    @retried
    def ask() -> None:
        tries.append(1)
        with engine.connect() as connection:
            connection.execute(sa.text("select nothing from (select 1) as something"))

    with pytest.raises(sa.exc.SQLAlchemyError) as raised:
        ask()
    assert not is_outage(raised.value)
    assert len(tries) == 1
    engine.dispose()


@pytest.mark.slow
def test_an_operation_outlasts_a_writer_of_sqlite_that_is_paused(
    tmp_path: Path, small_study: StudyDefinition, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("watched_file", "sqlite"):
        monkeypatch.setattr(f"hpo.storage.{place}.BUSY_SECONDS", 0.2)
    opened = create(open_storage(f"sqlite:///{tmp_path}/studies.db", create=True), "small", small_study, 10)
    study = optuna.load_study(study_name="small", storage=opened)
    other = sqlite3.connect(f"{tmp_path}/studies.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sa.exc.OperationalError, match="locked") as raised, opened.engine.begin():
        pass
    assert is_outage(raised.value)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(study.ask)
        time.sleep(1.0)
        assert not asked.done()
        other.execute("COMMIT")
        assert asked.result(timeout=10).number == 0


def test_operations_within_operations_give_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.storage.retry.OUTAGE_SECONDS", 1.0)
    monkeypatch.setattr("hpo.storage.retry.LONGEST_PAUSE_SECONDS", 0.1)
    attempts = 0

    @retried
    @retried
    @retried
    def operation() -> None:
        nonlocal attempts
        attempts += 1
        raise sa.exc.PendingRollbackError("away")

    for _ in range(2):  # the second outage has a clock of its own
        began, attempts = time.monotonic(), 0
        with pytest.raises(sa.exc.PendingRollbackError):
            operation()
        assert 1.0 <= time.monotonic() - began < 1.5
        assert attempts > 5


def test_a_connection_that_breaks_while_a_statement_is_under_way_is_let_go_without_a_word(
    postgres: TemporaryPostgres,
    small_study: StudyDefinition,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where a link is cut: to roll back then fails too, which SQLAlchemy's pool would log with its traceback."""
    opened = create(
        open_storage(postgres.create_database(uuid.uuid4().hex, template="template"), create=True),
        "small",
        small_study,
        10,
    )
    whole, broken = waiting.wait, list[Any]()

    def wait(generator: Any, *arguments: Any, **settings: Any) -> Any:
        if not broken:
            try:
                broken.append(next(generator))  # the statement is sent, and its answer not read
            except StopIteration as end:  # nothing is sent
                return end.value
            raise psycopg.OperationalError("polling the socket failed")
        return whole(generator, *arguments, **settings)

    with opened.engine.connect():  # one is in the pool
        pass
    monkeypatch.setattr(waiting, "wait", wait)
    study = optuna.load_study(study_name="small", storage=opened)
    assert broken
    trial = trials.ask(opened, study, claim(0))
    broken.clear()
    trial.report(1.0, step=1)
    assert broken
    assert not caplog.records
    assert opened.get_trial(trial_id_of(trial)).intermediate_values == {1: 1.0}
