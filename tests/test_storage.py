from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from hpo import records, storage
from hpo.errors import StorageError


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
    assert records.study_names(fresh_storage) == ["a"]
    assert records.study_attributes(fresh_storage, "a") == {"definition": {"x": 1}}


def test_a_half_created_study_is_completed_but_a_foreign_one_is_not_touched(fresh_storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="half", storage=fresh_storage)
    storage.create_study(fresh_storage, "half", {"definition": {"x": 1}})
    assert study.user_attrs == {"definition": {"x": 1}}
    foreign = optuna.create_study(study_name="foreign", storage=fresh_storage)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StorageError, match=r"'foreign' in .* was not made by hpo"):
        storage.create_study(fresh_storage, "foreign", {"definition": {"x": 1}})
    assert foreign.user_attrs == {}
