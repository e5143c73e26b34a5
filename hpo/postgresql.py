"""PostgreSQL (14 or later) as a storage, for the workers of many machines.

Its start lock is a session's advisory lock: the server frees it when the session ends, and ends a session that idles
for too long, as that of a holder does that is paused or was cut off without a word.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from .errors import StorageError
from .locks import TIMEOUT_SECONDS, LockLost, Stopped
from .outages import OutageProofStorage

DRIVERS = ("postgresql", "postgres", "postgresql+psycopg")
WAIT_SECONDS = 1.0  # between two looks at `stop` while the server makes us wait
LOCK_NOT_AVAILABLE = "55P03"
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
# A worker has two threads, so it never needs more: 64 workers must fit the server's connections.
ENGINE: dict[str, Any] = {"connect_args": CONNECTION, "pool_pre_ping": True, "pool_size": 1, "max_overflow": 2}


def check_url(url: sa.URL, *, create: bool) -> str:
    """Returns the URL with the driver that is used.

    Raises:
        StorageError: where it names no database, or the driver is not installed.
    """
    if not url.database:
        shown = url.render_as_string(hide_password=True)
        raise StorageError(f"storage {shown} names no database; one looks like postgresql://USER@HOST/DATABASE")
    if importlib.util.find_spec("psycopg") is None:
        raise StorageError("PostgreSQL needs a driver: pip install 'hpo-studies[postgresql]'")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def start_lock(url: str, name: str) -> AdvisoryLock:
    """Returns the lock of that name in the database."""
    return AdvisoryLock(_lock_engine(url), name)


def connect(url: str, *, write: bool, create_tables: bool) -> RDBStorage:
    """Opens the database."""
    return OutageProofStorage(url, engine_kwargs=ENGINE, skip_table_creation=not create_tables)


@lru_cache
def _lock_engine(url: str) -> sa.Engine:
    idle, wait = (f"{seconds * 1000:.0f}" for seconds in (TIMEOUT_SECONDS, WAIT_SECONDS))
    settings = {**CONNECTION, "options": f"-c idle_session_timeout={idle} -c lock_timeout={wait}"}
    return sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", connect_args=settings)


class AdvisoryLock:
    """PostgreSQL's session advisory lock, on a connection opened for the occasion.

    Those who wait hold one connection more each, and nobody holds one while a trial runs.
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._key = zlib.crc32(name.encode()) - 2**31
        self._connection: sa.Connection | None = None

    @contextmanager
    def hold(self, stop: Callable[[], bool] = bool) -> Iterator[None]:  # noqa: D102
        connection = self._engine.connect()
        try:
            self._acquire(connection, stop)
            self._connection = connection
            yield
        finally:
            self._connection = None
            connection.invalidate()  # the session ends, and the lock with it, whatever state it is in
            connection.close()

    def verify(self) -> None:  # noqa: D102
        if self._connection is None:
            raise LockLost("the start lock is not held")
        try:
            self._connection.execute(sa.text("select 1"))  # the session lives, so the lock was never free
        except sa.exc.DBAPIError as error:
            raise LockLost(f"the start lock was lost with its connection: {error.orig}") from error

    def _acquire(self, connection: sa.Connection, stop: Callable[[], bool]) -> None:
        lock = sa.text("select pg_advisory_lock(:ours, :key)")
        while not stop():
            try:
                connection.execute(lock, {"ours": OUR_LOCKS, "key": self._key})
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
            else:
                return
        raise Stopped
