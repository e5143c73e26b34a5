from __future__ import annotations

import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StorageError
from hpo.storage.backends import open_storage
from hpo.storage.queries import count_trials, set_study_attribute, study_attributes, study_names
from hpo.storage.studies import create_study
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.text.secrets import show_url
from hpo.workers.launch import begin
from hpo.workers.plan import Plan, find_study, make_plan
from tests.conftest import CARD
from tests.postgres import TemporaryPostgres
from tests.program import plan_and_begin
from tests.warm import WARM


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("no url", "is no database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/hpo.db", "there is no folder /no/such/folder"),
        ("mysql://host/db", r"only sqlite:///FILE and postgresql://USER@HOST/DATABASE can be opened"),
        ("sqlite+aiosqlite:///x.db", "only sqlite"),
        ("postgresql://me:secret@host:port/db", r"postgresql://me:\*\*\*@host:\*\*\*' is no database URL"),
        ("postgresql://me:secret@host", "names no database"),
        ("postgresql://me:secret@127.0.0.1:1/db", "connection refused"),
        ("sqlite:////proc/hpo.db", r"cannot be opened: unable to open database file"),
        ("sqlite:////tmp", "is no regular file"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str, complaint: str) -> None:
    with pytest.raises(StorageError, match=f"(?i){complaint}") as raised:
        open_storage(url, create=True)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_passwords_are_never_shown() -> None:
    assert show_url("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        open_storage(f"sqlite:///{tmp_path}/absent.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, not a database")
    for create in (True, False):
        with pytest.raises(StorageError, match="cannot be opened: file is not a database"):
            open_storage(f"sqlite:///{file}", create=create)
    assert file.read_text() == "these are my notes, not a database"


@pytest.mark.parametrize("tables", [["songs"], ["studies", "songs"]])
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, tables: list[str]) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        for table in tables:
            connection.execute(f"create table {table} (title text)")
    connection.close()
    content = file.read_bytes()
    for create in (True, False):
        with pytest.raises(StorageError, match=r"the database of another program \(it has songs\)"):
            open_storage(f"sqlite:///{file}", create=create)
    assert file.read_bytes() == content


def test_a_schema_that_is_being_created_is_not_there_yet(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/half.db"
    open_storage(url, create=True).engine.dispose()
    with sqlite3.connect(tmp_path / "half.db") as connection:
        connection.execute("delete from alembic_version")
    connection.close()
    with pytest.raises(StorageError, match="holds no studies"):
        open_storage(url)
    open_storage(url, create=True)
    open_storage(url)


def test_a_storage_stays_current_when_others_open_and_leave_it(created: RDBStorage) -> None:
    """SQLite's locks belong to the process: opened carelessly once more, the first storage would read what was."""
    script = (
        "import sys, optuna; from hpo.storage.backends import open_storage\n"
        "study = optuna.load_study(study_name='small', storage=open_storage(sys.argv[1], create=True))\n"
        "study.add_trial(optuna.trial.create_trial(value=1.0))\n"
    )
    for count in (1, 2):
        open_storage(created.url)
        open_storage(created.url, create=True)
        subprocess.run([sys.executable, "-c", script, created.url], check=True)
        assert count_trials(created, "small")[TrialState.COMPLETE] == count


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_processes_may_meet_at_a_brand_new_database(
    kind: str, tmp_path: Path, postgres: TemporaryPostgres
) -> None:
    """Each plans and begins, as `hpo optimize` does, at a moment of its own."""
    for attempt in range(2):
        url = f"sqlite:///{tmp_path}/{attempt}.db" if kind == "sqlite" else postgres.create_database(uuid.uuid4().hex)
        processes = [WARM.Process(target=plan_and_begin, args=(url,)) for _ in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 6


def test_an_empty_database_holds_no_studies(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(StorageError, match="holds no studies"):
        open_storage(f"sqlite:///{tmp_path}/empty.db")


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_writers_use_wal_and_begin_immediately(fresh_storage: RDBStorage) -> None:
    with fresh_storage.engine.connect() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("pragma busy_timeout").scalar() == 60_000
        raw = sqlite3.connect(str(fresh_storage.engine.url.database), timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            raw.execute("begin immediate")
        raw.close()


def test_a_study_is_created_once_and_keeps_the_largest_target(fresh_storage: RDBStorage) -> None:
    rest = {
        "definition_sha256": "",
        "card": CARD.model_dump(mode="json"),
        "versions": {},
    }
    for mark, target in ((1, 5), (2, 9), (3, 7)):
        create_study(fresh_storage, "a", {"definition": {"mark": mark}, **rest}, target)
    assert study_names(fresh_storage) == ["a"]
    attributes = study_attributes(fresh_storage, "a")
    assert attributes.pop("identity")
    assert attributes == {"definition": {"mark": 1}, "target": 9, **rest}


def test_a_target_is_lowered_where_that_is_asked_for(fresh_storage: RDBStorage, small_study: StudyDefinition) -> None:
    def target(asked: int, **how: Any) -> int:
        begin(fresh_storage.url, Plan("a", small_study, asked, **how), Sources(Path()))
        return int(study_attributes(fresh_storage, "a")["target"])

    assert [target(2000), target(20), target(20, lower=True), target(30), target(30, most=12)] == [
        *(2000, 2000, 20, 30, 12)
    ]


@pytest.mark.parametrize("stored", ["many", -5, 0, True, None, 1.5, [], {"a": 1}])
def test_a_target_that_is_no_number_of_trials_is_none(
    fresh_storage: RDBStorage, small_study: StudyDefinition, stored: Any
) -> None:
    begin(fresh_storage.url, Plan("a", small_study, 3), Sources(Path()))
    set_study_attribute(fresh_storage, "a", "target", stored)
    begin(fresh_storage.url, Plan("a", small_study, 2), Sources(Path()))
    assert study_attributes(fresh_storage, "a")["target"] == 2


@pytest.mark.parametrize("kept", [[], ["definition"]])
def test_a_half_created_study_is_completed(
    fresh_storage: RDBStorage, small_study: StudyDefinition, kept: list[str]
) -> None:
    study = optuna.create_study(study_name="quickstart", storage=fresh_storage)
    plan = make_plan(fresh_storage.url, find_study(fresh_storage.url, "quickstart", trials=3))
    for key in kept:
        study.set_user_attr(key, plan.definition.model_dump(mode="json"))
    begin(fresh_storage.url, plan, Sources(Path()))
    assert study_attributes(fresh_storage, "quickstart")["definition"]["title"] == plan.definition.title


def test_a_foreign_study_is_not_touched(fresh_storage: RDBStorage) -> None:
    foreign = optuna.create_study(study_name="quickstart", storage=fresh_storage)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    plan = make_plan(fresh_storage.url, find_study(fresh_storage.url, "quickstart", trials=3))
    with pytest.raises(StorageError, match=r"'quickstart' in .* was not made by hpo"):
        begin(fresh_storage.url, plan, Sources(Path()))
    assert foreign.user_attrs == {}


def test_a_schema_of_two_versions_is_one_line(fresh_storage: RDBStorage) -> None:
    with fresh_storage.engine.begin() as connection:
        connection.execute(sa.text("insert into alembic_version values ('another')"))
    with pytest.raises(StorageError, match="is damaged: alembic_version says 2 versions of its schema"):
        open_storage(fresh_storage.url)
    with fresh_storage.engine.begin() as connection:
        connection.execute(sa.text("delete from alembic_version where version_num <> 'another'"))
    with pytest.raises(StorageError) as raised:
        open_storage(fresh_storage.url)
    assert "\n" not in str(raised.value)
