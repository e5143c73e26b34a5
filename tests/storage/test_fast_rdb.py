"""What our storage writes and reads is what Optuna's own makes of the same calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.storage.backends import open_storage
from hpo.storage.fast_rdb import FastRDBStorage
from hpo.storage.studies import read_definition
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import ask, batch_writes, trial_id_of
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.budget import start_trial
from hpo.workers.evaluate import Stop, run_trial
from hpo.workers.liveness import LivenessLock
from hpo.workers.objective import make_objective
from tests.conftest import claim, create
from tests.postgres import TemporaryPostgres


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[RDBStorage, RDBStorage]:
    """Ours and Optuna's, each on an empty database of its own."""
    if request.param == "sqlite":
        urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("ours", "optunas")]
    else:
        server: TemporaryPostgres = request.getfixturevalue("postgres")
        urls = [server.create_database(f"{name}_{tmp_path.name}".replace("-", "_").lower()) for name in ("o", "p")]
    ours = open_storage(urls[0], create=True)
    assert isinstance(ours, FastRDBStorage)
    url = sa.make_url(urls[1])
    return ours, RDBStorage(
        str(url) if url.drivername == "sqlite" else url.set(drivername="postgresql+psycopg").render_as_string(False)
    )


def play(opened: RDBStorage) -> list[int]:
    """Makes the same trials, of every state and kind of value; returns their ids."""
    study = optuna.create_study(study_name="s", storage=opened)
    key = opened.get_study_id_from_name("s")
    ids = [opened.create_new_trial(key) for _ in range(6)]
    rate, choice = FloatDistribution(0.1, 10, log=True), CategoricalDistribution(["relu", None, True, 3])
    for trial_id in ids:
        trial = optuna.Trial(study, trial_id)
        trial._suggest("rate", rate)
        trial._suggest("choice", choice)
        trial.set_user_attr("errors", [1.5, trial_id % 1, None, {"ü": "'"}])
        trial.set_user_attr("twice", 1)
        trial.set_user_attr("twice", 2)
        opened.set_trial_system_attr(trial_id, "private", "x" * 2045)
        for step, value in enumerate((50.125, math.inf, -math.inf, math.nan, 1e-300)):
            trial.report(value, step=step)
        opened.record_heartbeat(trial_id)
        opened.record_heartbeat(trial_id)
    opened.set_trial_intermediate_value(ids[0], 0, 7.0)
    study.enqueue_trial({"rate": 1.0}, user_attrs={"why": "asked for"})
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    opened.set_trial_user_attr(waiting._trial_id, "while it waits", 1)
    for trial_id, state, values in zip(
        ids,
        (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE),
        ([1 / 3], None, None, [math.inf], [-math.inf]),
        strict=False,
    ):
        assert opened.set_trial_state_values(trial_id, state, values)
    return ids


def rows(opened: RDBStorage) -> dict[str, list[tuple[Any, ...]]]:
    """Returns what is in every table of trials, times and proposed values apart, for those are drawn."""
    apart = {"datetime_start", "datetime_complete", "heartbeat", "param_value", "distribution_json"}
    found = {}
    with opened.engine.connect() as connection:
        for table in models.BaseModel.metadata.sorted_tables:
            if table.name.startswith("trial"):
                columns = [column for column in table.columns if column.name not in apart and not column.primary_key]
                found[table.name] = sorted(map(tuple, connection.execute(sa.select(*columns))), key=str)
    return found


def test_it_writes_what_optuna_writes(both: tuple[RDBStorage, RDBStorage]) -> None:
    ours, optunas = both
    assert play(ours) == play(optunas)
    assert rows(ours) == rows(optunas)


def test_it_reads_what_optuna_reads(both: tuple[RDBStorage, RDBStorage]) -> None:
    _, optunas = both
    ids = play(optunas)
    ours = open_storage(optunas.engine.url.render_as_string(False))
    key = ours.get_study_id_from_name("s")
    everything: list[Callable[[RDBStorage], Any]] = [
        lambda it: [it.get_trial(trial_id) for trial_id in ids],
        lambda it: it.get_all_trials(key),
        lambda it: it.get_all_trials(key, states=(TrialState.COMPLETE,)),
        lambda it: it._get_trials(key, None, {ids[0], ids[5]}, ids[2]),
        lambda it: it.get_best_trial(key),
    ]
    for read in everything:
        # As text, for nan is not equal to itself; what is in no order is put into one.
        assert repr(in_order(read(ours))) == repr(in_order(read(optunas)))
    for opened in (ours, optunas):
        with pytest.raises(KeyError):
            opened.get_trial(99)
        with pytest.raises(KeyError):
            opened.get_all_trials(99)


def in_order(trials: Any) -> Any:
    for trial in trials if isinstance(trials, list) else [trials]:
        for kept in ("intermediate_values", "user_attrs", "system_attrs"):
            setattr(trial, kept, dict(sorted(getattr(trial, kept).items())))
    return trials


def test_a_finished_trial_takes_nothing_more(both: tuple[RDBStorage, RDBStorage]) -> None:
    for opened in both:
        (finished, *_) = play(opened)
        before = rows(opened)
        for name, arguments in (
            ("set_trial_user_attr", ("late", 1)),
            ("set_trial_system_attr", ("late", 1)),
            ("set_trial_intermediate_value", (9, 1.0)),
            ("set_trial_state_values", (TrialState.FAIL,)),
            ("set_trial_state_values", (TrialState.COMPLETE, [0.0])),
        ):
            write = getattr(opened, name)
            with pytest.raises(UpdateFinishedTrialError):
                write(finished, *arguments)
            with pytest.raises(KeyError):
                write(99, *arguments)
        assert rows(opened) == before


def test_what_is_written_together_is_written_at_the_end(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="s", storage=fresh_storage)
    trial = study.ask()
    with batch_writes(trial):
        trial.set_user_attr("a", 1)
        trial.set_user_attr("b", 2)
        trial.set_user_attr("a", 3)
        assert study.trials[0].user_attrs == {}
    assert study.trials[0].user_attrs == {"a": 3, "b": 2}


def test_after_an_error_nothing_that_was_collected_is_written(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="s", storage=fresh_storage)
    trial = study.ask()

    def write_and_break() -> None:
        with batch_writes(trial):
            trial.set_user_attr("a", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_break()
    assert study.trials[0].user_attrs == {}


def test_a_trial_is_born_with_its_claim(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="s", storage=fresh_storage)
    trial = ask(fresh_storage, study, {"slot": 4, "worker": {"pid": 1}})
    assert trial.user_attrs == {"slot": 4, "worker": {"pid": 1}} == study.trials[0].user_attrs
    assert study.ask().user_attrs == {}


def test_a_trial_that_was_enqueued_is_claimed_when_it_is_started(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="s", storage=fresh_storage)
    study.enqueue_trial({"rate": 0.5})
    trial = ask(fresh_storage, study, claim(slot=4))
    assert (trial.number, trial.user_attrs, study.trials[0].user_attrs) == (0, claim(slot=4), claim(slot=4))
    assert heartbeats(fresh_storage) == [trial_id_of(trial)]


def test_a_heartbeat_of_a_deleted_trial_is_none(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="s", storage=fresh_storage)
    gone = trial_id_of(ask(fresh_storage, study, claim(slot=0)))
    optuna.delete_study(study_name="s", storage=fresh_storage)
    fresh_storage.record_heartbeat(gone)
    assert heartbeats(fresh_storage) == []
    ask(fresh_storage, optuna.create_study(study_name="t", storage=fresh_storage), claim(slot=0))


def heartbeats(opened: RDBStorage) -> list[int]:
    with opened.engine.connect() as connection:
        return list(connection.execute(sa.select(models.TrialHeartbeatModel.trial_id)).scalars())


def test_a_trial_takes_few_ways_to_the_server(postgres: TemporaryPostgres, small_study: StudyDefinition) -> None:
    opened = create(open_storage(postgres.create_database("ways"), create=True), "small", small_study, 9)
    study, definition = optuna.load_study(study_name="small", storage=opened), read_definition(opened, "small")
    ways: list[str] = []

    @sa.event.listens_for(opened.engine, "before_cursor_execute")
    def _count(connection: sa.Connection, cursor: Any, statement: str, *rest: Any) -> None:
        ways.append(statement)

    for name in ("begin", "commit"):

        @sa.event.listens_for(opened.engine, name)
        def _count_too(connection: sa.Connection, name: str = name) -> None:
            if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
                ways.append(name)

    objective = make_objective(definition, "cpu", Sources(Path()))
    with LivenessLock() as presence:
        worker = Worker("h", 1, "cpu", str(presence.file))
        for _ in range(3):
            ways.clear()
            trial = start_trial(opened, study, definition, worker, target=9, run_began_at=0)
            assert isinstance(trial, optuna.Trial)
            run_trial(opened, trial, objective, Stop(), 60.0)
    needed = len(ways)
    (last,) = study.trials[-1:]
    for_reports = 2 * len(last.intermediate_values) - 1  # to write one, and to ask the pruner
    assert needed - for_reports <= 26, [way[:80] for way in ways]
