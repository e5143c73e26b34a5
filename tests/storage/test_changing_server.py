"""A server that is restored, pooled, limited or read-only for a while."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StorageError, WorkError
from hpo.storage.backends import open_storage
from hpo.storage.claims import read_slots
from hpo.storage.locks import LockLost
from hpo.storage.postgresql import AdvisoryLock
from hpo.storage.queries import count_trials, set_study_attribute
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.launch import run_study
from hpo.workers.plan import Plan
from hpo.workers.status import read_status
from tests.conftest import create, wait_for, work
from tests.postgres import TemporaryPostgres, find_binaries
from tests.program import TINY, free_port, hpo_in_one_process
from tests.storage.test_changing_storage import start


@pytest.fixture
def server() -> Iterator[TemporaryPostgres]:
    """A server of its own, for roles and databases with settings of their own."""
    started = TemporaryPostgres()
    yield started
    started.remove()


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.skipif(not (find_binaries() / "pg_dump").exists(), reason="needs pg_dump")
def test_a_backup_that_is_restored_during_a_run_ends_no_worker(
    server: TemporaryPostgres, tmp_path: Path, small_study: StudyDefinition
) -> None:
    """By the command of docs/deployment.md, again after a deadlock; what was measured since is measured again."""
    opened = create(open_storage(server.create_database("studies"), create=True), "small", small_study, 30)
    place = ["--host", "127.0.0.1", "--port", str(server.port), "--username", "postgres"]
    dump = tmp_path / "studies.dump"
    errors: list[BaseException] = []

    def restore() -> None:
        try:
            wait_for(lambda: read_slots(opened, "small").finished >= 5)
            subprocess.run(
                [find_binaries() / "pg_dump", *place, "--format", "custom", "--file", dump, "studies"], check=True
            )
            wait_for(lambda: read_slots(opened, "small").finished >= 12)
            clean = ["--clean", "--if-exists", "--single-transaction", "--dbname", "studies"]
            command: list[str | Path] = [find_binaries() / "pg_restore", *place, *clean, dump]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            while "deadlock detected" in done.stderr:
                done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 0, done.stderr
        except BaseException as error:
            errors.append(error)

    restoring = threading.Thread(target=restore)
    restoring.start()
    plan = Plan("small", small_study, 30)
    run_study(
        opened, plan, devices=["cpu"] * 3, sources=Sources(tmp_path), show=lambda status: None,
        make_objective="tests.stubs:takes_a_moment",
    )  # fmt: skip
    restoring.join()
    assert errors == []
    slots = read_slots(opened, "small")
    assert (slots.finished, slots.running, slots.trials) == (30, 0, 30)


@contextmanager
def pgbouncer(server: TemporaryPostgres, folder: Path, mode: str, more: str = "") -> Iterator[str]:
    """PgBouncer before a database; gives the URL by which it is reached."""
    port = free_port()
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\nstudies = host=127.0.0.1 port={server.port} dbname=studies\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
        f"listen_port={port}\nauth_type=trust\nauth_file={folder}/users.txt\npool_mode={mode}\nunix_socket_dir=\n"
        f"default_pool_size=20\n{more}\n"
    )
    os.chmod(folder, 0o755)
    pooler = subprocess.Popen(
        ["pgbouncer", *(["-u", "nobody"] if os.getuid() == 0 else []), str(folder / "pgbouncer.ini")],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/studies"

    def answers() -> bool:
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_for(answers)
        yield url
    finally:
        pooler.terminate()
        pooler.wait(20)


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="needs PgBouncer")
def test_a_pooler_in_transaction_mode_is_named_and_one_in_session_mode_is_worked_with(
    server: TemporaryPostgres, tmp_path_factory: pytest.TempPathFactory, small_study: StudyDefinition
) -> None:
    server.create_database("studies")
    folder = Path("/tmp") / f"hpo-pgbouncer-{os.getpid()}"  # where its own user may read
    folder.mkdir()
    try:
        for more in ("", "default_pool_size=1", "server_round_robin=1"):
            with pgbouncer(server, folder, "transaction", more) as url:
                for _ in range(3):  # with more and more sessions at hand
                    with pytest.raises(StorageError, match=r"a pooler in transaction mode .* pool_mode = session"):
                        open_storage(url, create=True)
        with pgbouncer(server, folder, "session") as url:
            opened = create(open_storage(url, create=True), "small", small_study, 3)
            work(opened, folder, target=3)
            assert read_status(opened, "small").finished == 3
            opened.engine.dispose()
    finally:
        shutil.rmtree(folder)


def test_a_lock_that_another_client_of_the_same_session_takes_is_lost(postgres: TemporaryPostgres) -> None:
    """As behind a pooler in transaction mode, whose clients share sessions: there the lock can be taken twice."""
    engine = open_storage(postgres.url("template")).engine
    lock, other = AdvisoryLock(engine, "x"), AdvisoryLock(engine, "x")
    with lock.hold():
        lock.verify()
        assert lock._connection is not None
        other._acquire(lock._connection, bool)
        with pytest.raises(LockLost):
            lock.verify()


def test_a_lock_that_is_lost_each_time_is_one_line(created: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(self: Any) -> None:
        raise LockLost("taken away")

    for kind in ("hpo.storage.locks.FileLock.verify", "hpo.storage.postgresql.AdvisoryLock.verify"):
        monkeypatch.setattr(kind, lose)
    with pytest.raises(WorkError, match="each time that it"):
        start(created, "a")
    assert count_trials(created, "small")[TrialState.RUNNING] == 0


LIMITS = [
    "statement_timeout = '400ms'",
    "lock_timeout = '200ms'",
    "idle_session_timeout = '300ms'",
    "idle_in_transaction_session_timeout = '2s'",
    "datestyle = 'German'",
    "timezone = 'Asia/Tokyo'",
    "extra_float_digits = -3",
    "default_transaction_isolation = 'serializable'",
    "search_path = studies, public",
    "client_encoding = 'latin1'",
    "bytea_output = 'escape'",
    "standard_conforming_strings = off",
]


@pytest.mark.usefixtures("warm_workers")
def test_limits_and_settings_of_an_administrator_are_worked_with(
    server: TemporaryPostgres, tmp_path: Path, small_study: StudyDefinition
) -> None:
    url = server.create_database("studies")
    with server.connect() as connection:
        for limit in LIMITS:
            connection.execute(f"alter role postgres in database studies set {limit}")
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("create schema studies")
    opened = create(open_storage(url, create=True), "small", small_study, 6)
    plan = Plan("small", small_study, 6)
    run_study(
        opened, plan, devices=["cpu"] * 3, sources=Sources(tmp_path), show=lambda status: None,
        make_objective="tests.stubs:takes_a_moment",
    )  # fmt: skip
    status = read_status(opened, "small")
    assert (status.finished, status.failed, status.interrupted) == (6, 0, 0)
    start(opened, "a")
    (running,) = read_status(opened, "small").workers
    assert running["heartbeat_age_seconds"] < 60
    with opened.engine.connect() as connection:
        where = connection.execute(sa.text("select schemaname from pg_tables where tablename = 'trials'")).scalar()
        kept = connection.execute(sa.text("show idle_session_timeout")).scalar()
    assert (where, kept) == ("studies", "300ms")


def test_a_server_that_is_read_only_for_a_while_is_waited_for(
    server: TemporaryPostgres, small_study: StudyDefinition
) -> None:
    """As after a fail-over, until the standby takes over."""
    url = server.create_database("studies")
    opened = create(open_storage(url, create=True), "small", small_study, 10)
    opened.engine.dispose()
    with server.connect() as connection:
        connection.execute("alter database studies set default_transaction_read_only = on")
        with pytest.raises(StorageError, match="read-only"):
            open_storage(url, write=True)
        assert read_status(open_storage(url), "small").finished == 0
        later = threading.Timer(
            1.0, connection.execute, ["alter database studies set default_transaction_read_only = off"]
        )
        later.start()
        set_study_attribute(opened, "small", "target", 11)
        later.join()
    assert read_status(opened, "small").total == 11


def test_settings_in_the_url_hold(server: TemporaryPostgres) -> None:
    url = server.create_database("studies")
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("create schema mine")
    opened = open_storage(
        f"{url}?options=-csearch_path%3Dmine%20-cstatement_timeout%3D90s&connect_timeout=3&application_name=me",
        create=True,
    )
    with opened.engine.connect() as connection:
        shown = [
            connection.execute(sa.text(f"show {name}")).scalar()
            for name in ("search_path", "statement_timeout", "application_name", "timezone")
        ]
        where = connection.execute(sa.text("select schemaname from pg_tables where tablename = 'trials'")).scalar()
    assert (shown, where) == (["mine", "90s", "me", "UTC"], "mine")
    with pytest.raises(StorageError, match="client_encoding in a storage's URL must be utf8, but is 'latin1'"):
        open_storage(f"{url}?client_encoding=latin1")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_any_encoding_is_worked_with_as_far_as_it_can_hold_the_texts(
    encoding: str, server: TemporaryPostgres, small_study: StudyDefinition, tmp_path: Path
) -> None:
    with server.connect() as connection:
        connection.execute(f"create database odd encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0")
    opened = create(open_storage(server.url("odd"), create=True), "caf\u00e9", small_study, 2)
    assert read_status(opened, "caf\u00e9").total == 2
    (tmp_path / "привет.toml").write_text(TINY, encoding="utf-8")
    command = ("optimize", "--study", "привет.toml", "--trials", "1", "--storage", server.url("odd"))
    done = hpo_in_one_process(*command, folder=tmp_path)
    if encoding == "SQL_ASCII":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert "LATIN1" in done.stderr
