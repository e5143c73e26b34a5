"""PostgreSQL (14 or later) as a storage, for the workers of many machines.

Its start lock is a session's advisory lock: the server frees it when the session ends, and ends a session that idles
for too long, as that of a holder does that is paused or was cut off without a word.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from .address import show_url
from .errors import StorageError
from .locks import TIMEOUT_SECONDS, LockLost, Stopped
from .outages import OutageProofStorage

OLDEST = (14,)  # the first with idle_session_timeout
DRIVERS = ("postgresql", "postgres", "postgresql+psycopg")
WAIT_SECONDS = 1.0  # between two looks at `stop` while the server makes us wait
LOCK_NOT_AVAILABLE = "55P03"
SET_TIMEOUTS = (
    "set_config('idle_session_timeout', cast(:idle as text), false), "
    "set_config('lock_timeout', cast(:wait as text), false)"
)
OUR_LOCKS = 7301  # the first half of our advisory locks' keys, so that other programs' differ
CONNECTION: dict[str, Any] = {
    "connect_timeout": 10,
    # Who was cut off without a word finds it out in half a minute rather than two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
    # Heartbeats are compared in the server's time, which must not depend on the machine that asks.
    "options": f"-c timezone=utc -c idle_in_transaction_session_timeout={TIMEOUT_SECONDS * 1000:.0f}",
}
# One for the start lock and one to work under it; the heartbeat finds one free. 64 workers must fit the server's 300.
# No pool_pre_ping: outages.py repeats what meets a dead connection, and to ask before each of a trial's twenty
# transactions took 3 of 61 ms (medians of 60 trials beside each other, on the loopback device).
ENGINE: dict[str, Any] = {"connect_args": CONNECTION, "pool_size": 2, "max_overflow": 1}
# Each statement a transaction by itself: saves the ways of BEGIN, and of COMMIT or ROLLBACK, to the server and back.
READING: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
WRITING = READING


def check_url(url: sa.URL, *, create: bool) -> str:
    """Returns the URL with the driver that is used.

    Raises:
        StorageError: where it names no database, or the driver is not installed.
    """
    if not url.database:
        shown = show_url(url.render_as_string(hide_password=False))
        raise StorageError(f"storage {shown} names no database; one looks like postgresql://USER@HOST/DATABASE")
    if "@" in str(url.host):
        shown = show_url(url.render_as_string(hide_password=False))
        raise StorageError(f"storage {shown} has several '@'; in a user or a password it is written %40 (/ %2F, : %3A)")
    if importlib.util.find_spec("psycopg") is None:
        raise StorageError("PostgreSQL needs its driver: pip install 'psycopg[binary]'")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def start_lock(engine: sa.Engine, name: str) -> AdvisoryLock:
    """Returns the lock of that name in the database."""
    return AdvisoryLock(engine, name)


def connect(url: str, *, write: bool, create_tables: bool) -> RDBStorage:
    """Opens the database.

    Raises:
        StorageError: where the server is too old.
    """
    storage = OutageProofStorage(
        url, reading=READING, writing=WRITING, engine_kwargs=ENGINE, skip_table_creation=not create_tables
    )
    version = storage.engine.dialect.server_version_info or (0,)
    if version < OLDEST:
        raise StorageError(f"PostgreSQL must be {OLDEST[0]} or later, but this server is {version[0]}.{version[-1]}")
    return storage


class AdvisoryLock:
    """PostgreSQL's session advisory lock, held by a connection that does nothing else meanwhile.

    A connection of its own for each holding would be simpler, but to open one took 6 of a trial's 66 ms (medians of 60
    trials with and without the lock, on the loopback device).
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._key = {"ours": OUR_LOCKS, "key": zlib.crc32(name.encode()) - 2**31}
        self._connection: sa.Connection | None = None

    @contextmanager
    def hold(self, stop: Callable[[], bool] = bool) -> Iterator[None]:  # noqa: D102
        with self._engine.connect() as pooled:
            connection = pooled.execution_options(isolation_level="AUTOCOMMIT")
            try:
                self._acquire(connection, stop)
                self._connection = connection
                yield
                self._release(connection)
            except BaseException:
                connection.invalidate()  # the session ends, and the lock with it, whatever state it is in
                raise
            finally:
                self._connection = None

    def verify(self) -> None:  # noqa: D102
        if self._connection is None:
            raise LockLost("the start lock is not held")
        try:
            self._connection.execute(sa.text("select 1"))  # the session lives, so the lock was never free
        except sa.exc.DBAPIError as error:
            raise LockLost(f"the start lock was lost with its connection: {error.orig}") from error

    def _acquire(self, connection: sa.Connection, stop: Callable[[], bool]) -> None:
        lock = sa.text(f"select {SET_TIMEOUTS}, pg_advisory_lock(:ours, :key)")
        timeouts = {"idle": f"{TIMEOUT_SECONDS * 1000:.0f}", "wait": f"{WAIT_SECONDS * 1000:.0f}"}
        while not stop():
            try:
                connection.execute(lock, {**timeouts, **self._key})
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
            else:
                return
        raise Stopped

    def _release(self, connection: sa.Connection) -> None:
        # All: where the lock is granted at the very moment of lock_timeout, PostgreSQL 15 raises the error and keeps
        # the lock, which is then taken twice.
        unlock = sa.text(f"select pg_advisory_unlock_all(), {SET_TIMEOUTS}")
        try:
            connection.execute(unlock, {"idle": "0", "wait": "0"})
        except sa.exc.SQLAlchemyError:  # the session has ended, so the lock is free; what was done has been verified
            connection.invalidate()
