from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from hpo.storage import locks, postgresql, sqlite
from hpo.storage.locks import FileLock, Lock, LockLost, Stopped, hold_lock
from tests.postgres import TemporaryPostgres

MakeLock = Callable[[], Lock]


@pytest.fixture(params=["file", "advisory"])
def make_lock(request: pytest.FixtureRequest, tmp_path: Path, postgres: TemporaryPostgres) -> MakeLock:
    """Makes locks that exclude each other, as two processes would have them."""
    if request.param == "file":
        return lambda: FileLock(tmp_path / "a.lock")
    return lambda: postgresql.start_lock(sa.create_engine(postgres.url()), f"study {tmp_path}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (locks, postgresql):
        monkeypatch.setattr(module, "TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(postgresql, "WAIT_SECONDS", 0.2)


def test_one_holds_a_lock_at_a_time(make_lock: MakeLock) -> None:
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        lock = make_lock()
        for _ in range(10):
            with lock.hold():
                inside.append(1)
                most = max(most, len(inside))
                time.sleep(0.001)
                inside.pop()
                lock.verify()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_is_free_again_after_an_error(make_lock: MakeLock) -> None:
    lock = make_lock()
    with pytest.raises(ArithmeticError), lock.hold():
        raise ArithmeticError
    with lock.hold():
        lock.verify()


@pytest.mark.usefixtures("impatient")
def test_a_holder_that_takes_too_long_loses_the_lock_and_finds_it_out(make_lock: MakeLock) -> None:
    slow, quick = make_lock(), make_lock()
    with slow.hold():
        slow.verify()
        began = time.monotonic()
        with quick.hold():
            assert 0.5 < time.monotonic() - began < 5
            quick.verify()
            with pytest.raises(LockLost):
                slow.verify()
    with slow.hold():
        slow.verify()


@pytest.mark.usefixtures("impatient")
def test_many_holders_one_after_the_other_lose_nothing(make_lock: MakeLock) -> None:
    """Who waits long tells a new holder from the old one."""
    lost = []

    def work() -> None:
        lock = make_lock()
        for _ in range(3):
            with lock.hold():
                time.sleep(0.2)
                try:
                    lock.verify()
                except LockLost as error:
                    lost.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]  # 2.4 s in all, so somebody waits over a second
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []


def test_a_lock_that_was_granted_as_the_wait_timed_out_is_released_all_the_same(postgres: TemporaryPostgres) -> None:
    """PostgreSQL then raises the error and keeps the lock; here the second taking is made by hand."""
    engine = sa.create_engine(postgres.url(), pool_size=1, max_overflow=0)
    lock, other = (postgresql.start_lock(e, "d") for e in (engine, sa.create_engine(postgres.url())))
    with lock.hold():
        lock._acquire(lock._connection, bool)  # type: ignore[arg-type]
    with other.hold(_after_seconds(5)):
        pass


def test_who_waits_can_be_stopped(make_lock: MakeLock) -> None:
    with make_lock().hold():
        began = time.monotonic()
        with pytest.raises(Stopped), make_lock().hold(lambda: time.monotonic() - began > 0.5):
            pass
        assert time.monotonic() - began < 5


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path: Path, postgres: TemporaryPostgres) -> None:
    for expression, lock in (
        (f"locks.FileLock(Path({str(tmp_path / 'a.lock')!r}))", FileLock(tmp_path / "a.lock")),
        (
            f"postgresql.start_lock(sa.create_engine({postgres.url()!r}), 'b')",
            postgresql.start_lock(sa.create_engine(postgres.url()), "b"),
        ),
    ):
        script = (
            "import os, signal; from pathlib import Path; import sqlalchemy as sa\n"
            "from hpo.storage import locks, postgresql\n"
            f"with {expression}.hold(): os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
        with lock.hold(_after_seconds(5)):
            pass


def _after_seconds(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_locks_of_two_studies_do_not_exclude_each_other(postgres: TemporaryPostgres) -> None:
    one, other = (postgresql.start_lock(sa.create_engine(postgres.url()), f"study {name}") for name in "ab")
    with one.hold(), other.hold():
        pass


def test_a_lock_that_was_held_leaves_its_connection_as_it_was(postgres: TemporaryPostgres) -> None:
    engine = sa.create_engine(postgres.url(), pool_size=1, max_overflow=0)
    lock = postgresql.start_lock(engine, "c")
    with lock.hold():
        pass
    with pytest.raises(ArithmeticError), lock.hold():
        raise ArithmeticError
    with lock.hold():
        pass
    with engine.connect() as connection:
        assert connection.execute(sa.text("show idle_session_timeout")).scalar() == "0"
        assert connection.execute(sa.text("show lock_timeout")).scalar() == "0"
        held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        assert connection.execute(sa.text(held)).scalar() == 0


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("link", "is a link"),
        ("hard link", "is another file too"),
        ("pipe", "is no regular file"),
        ("folder", "directory"),
    ],
)
def test_what_another_has_put_in_a_lock_files_place_is_not_written_to(
    tmp_path: Path, kind: str, complaint: str
) -> None:
    victim, place = tmp_path / "victim", tmp_path / "a.lock"
    victim.write_text("precious")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(victim)
    else:
        place.hardlink_to(victim)
    for lock in (FileLock(place).hold(), hold_lock(place)):
        with pytest.raises(OSError, match=complaint) as raised, lock:
            pass
        assert raised.value.filename == str(place)
    assert victim.read_text() == "precious"


def test_a_link_that_takes_the_name_of_a_held_lock_takes_the_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    with lock.hold():
        (tmp_path / "a.lock").rename(tmp_path / "b.lock")
        (tmp_path / "a.lock").symlink_to("b.lock")
        with pytest.raises(LockLost):
            lock.verify()


def test_who_may_write_a_database_may_write_its_lock_file(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    lock = sqlite.start_lock(sa.create_engine(f"sqlite:///{database}"), "schema")
    with lock.hold():  # before the database is there
        pass
    database.touch()
    for mode in (0o664, 0o666, 0o600):
        database.chmod(mode)
        with lock.hold():
            pass
        assert (tmp_path / "a.db.lock").stat().st_mode & 0o777 == mode
    database.chmod(0o444)  # for a while; whoever owns it must be able to work again
    with lock.hold():
        pass
    assert (tmp_path / "a.db.lock").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works on databases of others")
def test_a_lock_file_that_root_creates_is_of_the_databases_owner(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    database.touch()
    os.chown(database, 65534, 65533)
    database.chmod(0o660)
    with sqlite.start_lock(sa.create_engine(f"sqlite:///{database}"), "schema").hold():
        pass
    created = (tmp_path / "a.db.lock").stat()
    assert (created.st_uid, created.st_gid, created.st_mode & 0o777) == (65534, 65533, 0o660)
