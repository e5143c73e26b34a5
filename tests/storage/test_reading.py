"""Reading where one may not write: it works, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from hpo.storage.backends import open_storage
from hpo.study.definition import StudyDefinition
from hpo.workers.status import read_status
from tests.conftest import create, work
from tests.postgres import TemporaryPostgres
from tests.program import TINY, hpo, hpo_in_one_process, hpo_without_rights

READING = (
    ["status"],
    ["best", "--study", "small"],
    ["report", "--study", "small", "-o", "{out}"],
)


@pytest.fixture
def studies(tmp_path: Path, small_study: StudyDefinition) -> Iterator[Path]:
    """A folder with a finished study in `hpo.db`, which nobody works on."""
    folder = tmp_path / "studies"
    folder.mkdir()
    opened = create(open_storage(f"sqlite:///{folder}/hpo.db", create=True), "small", small_study, 2)
    work(opened, tmp_path, target=2)
    opened.engine.dispose()
    (folder / "hpo.db.lock").unlink()
    yield folder
    folder.chmod(0o755)


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def read_everything(folder: Path, out: Path) -> None:
    before = files(folder)
    commands = [[part.format(out=out) for part in command] for command in READING]
    for command in commands:
        done = hpo_without_rights(*command, folder=folder, BROWSER_PATH="/nowhere")  # Chromium takes seconds to start
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if not line.startswith("no pictures")] == []
        assert files(folder) == before


@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o755), (0o644, 0o555)])
def test_a_finished_study_is_read_where_file_or_folder_cannot_be_written(
    file: int, folder: int, studies: Path, tmp_path: Path
) -> None:
    (studies / "hpo.db").chmod(file)
    studies.chmod(folder)
    read_everything(studies, tmp_path / "out")


def test_a_study_is_read_in_a_folder_that_cannot_be_written_while_somebody_writes_to_it(
    studies: Path, tmp_path: Path, small_study: StudyDefinition
) -> None:
    opened = create(open_storage(f"sqlite:///{studies}/hpo.db", write=True), "later", small_study, 7)
    assert (studies / "hpo.db-wal").exists()
    studies.chmod(0o555)
    (studies / "hpo.db").chmod(0o444)
    done = hpo_without_rights("status", folder=studies)
    assert (done.returncode, done.stderr) == (0, "")
    assert "later" in done.stdout
    opened.engine.dispose()


@pytest.mark.parametrize("left", [["hpo.db", "hpo.db-wal"], ["hpo.db", "hpo.db-shm", "hpo.db-wal"]])
def test_a_study_that_was_left_in_the_middle_is_read_in_a_folder_that_cannot_be_written(
    left: list[str], studies: Path, tmp_path: Path, small_study: StudyDefinition
) -> None:
    """As after a crash of the machine: what was written last is in the log beside the file."""
    opened = create(open_storage(f"sqlite:///{studies}/hpo.db", write=True), "later", small_study, 7)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in left:
        shutil.copy(studies / name, crashed / name)
        (crashed / name).chmod(0o444)
    opened.engine.dispose()
    crashed.chmod(0o555)
    done = hpo_without_rights("status", folder=crashed)
    crashed.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    assert "later" in done.stdout
    assert files(crashed) == left


def test_a_transaction_that_a_crash_has_cut_off_is_not_read_in_a_folder_that_cannot_be_written(
    studies: Path, tmp_path: Path
) -> None:
    """As of a program that writes without WAL: what a journal beside the file takes back was never committed."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(sqlite3.connect(studies / "hpo.db", isolation_level=None)) as connection:
        for statement in ("pragma journal_mode = delete", "pragma cache_size = 1", "begin"):
            connection.execute(statement)
        connection.execute("update studies set study_name = 'never'")
        connection.execute(
            "update trial_user_attributes set value_json = value_json || ' '"
        )  # too much to be held back
        for name in ("hpo.db", "hpo.db-journal"):
            shutil.copy(studies / name, crashed / name)
            (crashed / name).chmod(0o444)
    assert b"never" in (crashed / "hpo.db").read_bytes()
    crashed.chmod(0o555)
    done = hpo_without_rights("status", folder=crashed)
    crashed.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    assert "small" in done.stdout


def test_a_database_is_read_by_a_link_from_elsewhere(
    studies: Path, tmp_path: Path, small_study: StudyDefinition
) -> None:
    opened = create(open_storage(f"sqlite:///{studies}/hpo.db", write=True), "later", small_study, 7)
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "hpo.db").symlink_to(studies / "hpo.db")
    (studies / "hpo.db").chmod(0o444)
    folder.chmod(0o555)
    done = hpo_without_rights("status", folder=folder)
    folder.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    assert "later" in done.stdout
    opened.engine.dispose()


def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hpo.db")
    done = hpo("status", folder=tmp_path)
    assert (done.returncode, done.stderr) == (2, "hpo: storage sqlite:///hpo.db is no regular file\n")


def test_a_file_system_that_is_read_only_is_read(studies: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("to mount one takes root")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    bound = subprocess.run(["mount", "--bind", studies, mounted], check=False, capture_output=True)
    if bound.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", mounted], check=True)
        read_everything(mounted, tmp_path / "out")
        refused = hpo("optimize", "--study", "quickstart", "--trials", "1", folder=mounted)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
        assert "cannot be written" in refused.stderr
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_reading_leaves_no_file_and_changes_none(studies: Path, tmp_path: Path) -> None:
    before = (studies / "hpo.db").read_bytes()
    read_everything(studies, tmp_path / "out")
    assert (studies / "hpo.db").read_bytes() == before


@pytest.mark.slow
def test_what_is_written_after_reading_is_not_held_up(studies: Path, tmp_path: Path) -> None:
    (studies / "hpo.db").chmod(0o444)
    read_everything(studies, tmp_path / "out")
    (studies / "hpo.db").chmod(0o644)
    (studies / "tiny.toml").write_text(TINY)
    done = hpo_without_rights("optimize", "--study", "tiny.toml", "--trials", "1", folder=studies, alone=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["hpo.db", "hpo.db-wal", "hpo.db-shm", ""])
def test_what_cannot_be_written_is_named(name: str, studies: Path) -> None:
    needed = studies / name
    needed.touch()
    needed.chmod(stat.S_IMODE(needed.stat().st_mode) & ~0o222)
    before = files(studies)
    done = hpo_without_rights("optimize", "--study", "quickstart", "--trials", "1", folder=studies)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"cannot be written: {needed} is read-only for this user")
    assert files(studies) == before


def test_a_database_of_plain_optuna_is_read_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    import optuna

    folder = tmp_path / "theirs"
    folder.mkdir()
    made = optuna.storages.RDBStorage(f"sqlite:///{folder}/hpo.db")
    optuna.create_study(study_name="theirs", storage=made)
    made.engine.dispose()
    folder.chmod(0o555)
    done = hpo_without_rights("status", folder=folder)
    folder.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not made by hpo" in done.stdout


def test_a_role_that_may_only_read_reads_everything(
    postgres: TemporaryPostgres, tmp_path: Path, small_study: StudyDefinition
) -> None:
    name = f"read_{os.getpid()}"
    url = postgres.create_database(name, template="template")
    opened = create(open_storage(url, create=True), "small", small_study, 2)
    work(opened, tmp_path, target=2)
    opened.engine.dispose()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"create role {name} login")
        connection.execute(f"grant select on all tables in schema public to {name}")
    reader = url.replace("postgres@", f"{name}@")
    for command in READING:
        arguments = [part.format(out=tmp_path / "out") for part in command]
        done = hpo_in_one_process(*arguments, "--storage", reader, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), command
    refused = hpo("optimize", "--study", "quickstart", "--trials", "1", "--storage", reader, folder=tmp_path)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "permission denied" in line
    assert read_status(open_storage(url), "small").finished == 2


def test_a_reader_sees_what_is_written_while_it_is_open(tmp_path: Path, small_study: StudyDefinition) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    writing = create(open_storage(url, create=True), "small", small_study, 2)
    reading = open_storage(url)
    assert read_status(reading, "small").finished == 0
    work(writing, tmp_path, target=2)
    writing.engine.dispose()
    assert read_status(reading, "small").finished == 2
