from __future__ import annotations

import inspect
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo import storage
from hpo.errors import StorageError, UnknownName


def test_optuna_has_the_private_names_that_this_program_relies_on() -> None:
    """Its pin is `optuna>=5.0,<5.1`: a wider one needs this test to pass."""
    assert optuna.__version__.startswith("5.0.")
    columns: dict[Any, set[str]] = {
        models.StudyModel: {"study_id", "study_name"},
        models.TrialModel: {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
        models.TrialValueModel: {"trial_id", "value"},
        models.TrialParamModel: {"trial_id", "param_name", "param_value", "distribution_json"},
        models.TrialUserAttributeModel: {"trial_id", "key", "value_json"},
    }
    for model, names in columns.items():
        assert names <= set(model.__table__.columns.keys())
    assert hasattr(models.TrialModel, "_datetime_start_utc")
    assert hasattr(models.TrialModel, "_datetime_complete_utc")
    assert "trial_id" in inspect.signature(RDBStorage.set_trial_state_values).parameters
    study = optuna.create_study()
    assert study.ask()._trial_id == 0


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("no url", "is no database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/hpo.db", "there is no folder /no/such/folder"),
        ("mysql://host/db", "only sqlite"),
        ("sqlite:////proc/hpo.db", "cannot be written"),
        ("sqlite:////tmp", "Is a directory"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str, complaint: str) -> None:
    with pytest.raises(StorageError, match=complaint) as raised:
        storage.open_storage(url, create=True)
    assert "\n" not in str(raised.value)


def test_passwords_are_never_shown() -> None:
    assert storage.show_url("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        storage.open_storage(f"sqlite:///{tmp_path}/absent.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, not a database")
    for create in (True, False):
        with pytest.raises(StorageError, match="is not a SQLite database"):
            storage.open_storage(f"sqlite:///{file}", create=create)
    assert file.read_text() == "these are my notes, not a database"


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("create table songs (title text)")
    connection.close()
    content = file.read_bytes()
    for create in (True, False):
        with pytest.raises(StorageError, match=r"the database of another program \(it has songs\)"):
            storage.open_storage(f"sqlite:///{file}", create=create)
    assert file.read_bytes() == content


def test_an_empty_database_holds_no_studies(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(StorageError, match="holds no studies"):
        storage.open_storage(f"sqlite:///{tmp_path}/empty.db")


def test_writers_use_wal_and_begin_immediately(fresh_storage: RDBStorage) -> None:
    with fresh_storage.engine.connect() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("pragma busy_timeout").scalar() == 60_000
        raw = sqlite3.connect(str(fresh_storage.engine.url.database), timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            raw.execute("begin immediate")
        raw.close()


def test_a_study_is_created_with_its_attributes_once(fresh_storage: RDBStorage) -> None:
    storage.create_study(fresh_storage, "a", {"definition": {"x": 1}})
    storage.create_study(fresh_storage, "a", {"definition": {"x": 2}})
    assert storage.study_names(fresh_storage) == ["a"]
    assert storage.study_attributes(fresh_storage, "a") == {"definition": {"x": 1}}


def test_a_half_created_study_is_completed_but_a_foreign_one_is_not_touched(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="half", storage=fresh_storage)
    storage.create_study(fresh_storage, "half", {"definition": {"x": 1}})
    assert study.user_attrs == {"definition": {"x": 1}}
    foreign = optuna.create_study(study_name="foreign", storage=fresh_storage)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StorageError, match=r"'foreign' in .* was not made by hpo"):
        storage.create_study(fresh_storage, "foreign", {"definition": {"x": 1}})
    assert foreign.user_attrs == {}


def test_an_unknown_study_is_named_with_the_nearest(fresh_storage: RDBStorage) -> None:
    storage.create_study(fresh_storage, "cnn", {"definition": {}})
    with pytest.raises(UnknownName, match="no study named 'cn'; did you mean 'cnn'"):
        storage.study_attributes(fresh_storage, "cn")


@pytest.fixture
def five_trials(fresh_storage: RDBStorage) -> RDBStorage:
    """Values 3, 1, 1; a pruned and a running trial; parameters of every kind."""
    storage.create_study(fresh_storage, "five", {"definition": {}})
    study = optuna.load_study(study_name="five", storage=fresh_storage)
    for number, value in enumerate([3.0, 1.0, 1.0, None, None]):
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            trial = study.ask()
        trial.suggest_categorical("flag", [True, False])
        trial.suggest_float("rate", 1e-3, 1.0, log=True)
        trial.set_user_attr("slot", number)
        if number == 1:
            trial.set_user_attr("error", "none")
        if number < 4:
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            fresh_storage.set_trial_state_values(storage.trial_id(trial), state, None if value is None else [value])
    return fresh_storage


def test_sql_reads_what_optuna_reads(five_trials: RDBStorage) -> None:
    ours = storage.read_trials(five_trials, "five")
    theirs = optuna.load_study(study_name="five", storage=five_trials).trials
    assert [t.number for t in ours] == [t.number for t in theirs] == [0, 1, 2, 3, 4]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.state, mine.value, mine.params, mine.attributes) == (
            other.state,
            other.value,
            other.params,
            other.user_attrs,
        )
        assert other.datetime_start is not None
        assert mine.started == other.datetime_start.astimezone(UTC)


def test_the_best_come_first_and_earlier_ones_before_their_equals(five_trials: RDBStorage) -> None:
    best = storage.read_trials(five_trials, "five", states=(TrialState.COMPLETE,), best=2)
    assert [trial.number for trial in best] == [1, 2]


def test_trials_are_counted_by_state(five_trials: RDBStorage) -> None:
    counts = storage.count_trials(five_trials, "five")
    assert (counts[TrialState.COMPLETE], counts[TrialState.PRUNED], counts[TrialState.RUNNING]) == (3, 1, 1)
    assert counts[TrialState.FAIL] == 0


def test_one_attribute_is_read_for_chosen_trials(five_trials: RDBStorage) -> None:
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    assert storage.read_attribute(five_trials, "five", "slot", states=done) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert storage.read_attribute(five_trials, "five", "slot", states=done, having="error") == {1: 1}


def test_finish_times_count_only_what_finished_since(five_trials: RDBStorage) -> None:
    now = datetime.now(UTC)
    count, first = storage.finish_times(five_trials, "five", now - timedelta(minutes=1))
    assert count == 4
    assert first is not None
    assert abs(now - first) < timedelta(minutes=1)
    assert storage.finish_times(five_trials, "five", now + timedelta(minutes=1)) == (0, None)
