"""PostgreSQL (14 or later) as a storage, for the workers of many machines.

Its start lock is a session's advisory lock: the server frees it when the session ends, and ends a session that idles
for too long, as that of a holder does that is paused or was cut off without a word.
"""

from __future__ import annotations

import importlib.util
import urllib.parse
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from hpo.errors import StorageError
from hpo.storage.locks import TIMEOUT_SECONDS, LockLost, Stopped
from hpo.storage.retry import RECONNECT, RetryingStorage
from hpo.text.secrets import show_url

OLDEST = (14,)  # the first with idle_session_timeout
DRIVERS = ("postgresql", "postgres", "postgresql+psycopg")
WAIT_SECONDS = 1.0  # between two looks at `stop` while the server makes us wait
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"  # by an administrator's statement_timeout
SET_TIMEOUTS = (
    "set_config('idle_session_timeout', cast(:idle as text), false), "
    "set_config('lock_timeout', cast(:wait as text), false), set_config('hpo.lock', cast(:mark as text), false)"
)
OUR_LOCKS = 7301  # the first half of our advisory locks' keys, so that other programs' differ
CONNECTION: dict[str, Any] = {  # unless the URL says otherwise
    "connect_timeout": 10,
    # Who was cut off without a word finds it out in half a minute rather than two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
PSYCOPGS_OWN = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
ENCODING = "utf8"  # also where the server has none, and would answer in bytes
# What is written and read as text must not depend on a role's or a database's settings; heartbeats are compared in the
# server's time. A plan that was made while a study had few trials is slow when it has hundreds, and would be kept until
# the server has counted them, a minute later. By a statement, not by `options`: the URL may have some, and poolers
# refuse them.
SESSION = f"""
    select set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO', false),
        set_config('extra_float_digits', '1', false), set_config('plan_cache_mode', 'force_custom_plan', false),
        set_config('idle_in_transaction_session_timeout', (1000 * extract(epoch from least(
            nullif(current_setting('idle_in_transaction_session_timeout')::interval, interval '0'),
            interval '{TIMEOUT_SECONDS} s')))::int::text, false)
"""
POOLER = (
    "a pooler in transaction mode lies between, where the start lock does not hold; connect to PostgreSQL itself, "
    "or let the pooler keep sessions (PgBouncer: pool_mode = session)"
)
UNPREPARED = ("26000", "42P05")  # a session has not the statements that were prepared in it, or has others
LOST_LOCK = f"the start lock is lost each time that it is taken: perhaps {POOLER}"
# One for the start lock and one to work under it; the heartbeat finds one free. 64 workers must fit the server's 300.
# No pool_pre_ping: retry.py repeats what meets a dead connection, and to ask before each of a trial's twenty
# transactions took 3 of 61 ms (medians of 60 trials beside each other, on the loopback device).
POOL: dict[str, Any] = {"pool_size": 2, "max_overflow": 1}
# Each statement a transaction by itself: saves the round trips of BEGIN, and of COMMIT or ROLLBACK.
READING: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
WRITING = READING


def check_url(url: sa.URL, given: str, *, create: bool, write: bool) -> str:
    """Returns the URL with the driver that is used.

    Raises:
        StorageError: where it names no database, asks for an encoding that cannot hold every text, or the driver is not
            installed.
    """
    if not url.database:
        raise StorageError(
            f"storage {show_url(given)} names no database; one looks like postgresql://USER@HOST/DATABASE"
        )
    if "\0" in urllib.parse.unquote(url.render_as_string(hide_password=False)):  # it would end there, for libpq
        raise StorageError("a storage's URL holds %00, which no part of one can")
    for key in sorted(url.query.keys() & PSYCOPGS_OWN):
        raise StorageError(f"{key} in a storage's URL is psycopg's own, and no setting of PostgreSQL; leave it out")
    encoding = str(url.query.get("client_encoding", ENCODING))
    if encoding.lower().replace("-", "") not in (ENCODING, "auto"):
        raise StorageError(f"client_encoding in a storage's URL must be {ENCODING}, but is {encoding!r}; leave it out")
    if "@" in str(url.host):
        shown = show_url(given)
        raise StorageError(f"storage {shown} has several '@'; in a user or a password it is written %40 (/ %2F, : %3A)")
    if importlib.util.find_spec("psycopg") is None:
        raise StorageError("PostgreSQL needs its driver: pip install 'psycopg[binary]'")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def start_lock(engine: sa.Engine, name: str) -> AdvisoryLock:
    """Returns the lock of that name in the database."""
    return AdvisoryLock(engine, name)


def engine_settings(url: sa.URL, *, write: bool) -> dict[str, Any]:
    """Returns how SQLAlchemy is to open the database."""
    return {"creator": partial(_connect, url), **POOL}


def _connect(url: sa.URL) -> Any:
    """Opens a connection, by the URL's own settings before ours, and prepares its session."""
    import psycopg

    arguments, settings = url.get_dialect()().create_connect_args(url)
    connection = psycopg.connect(*arguments, **{**CONNECTION, **settings, "client_encoding": ENCODING})
    try:
        connection.autocommit = True  # one round trip instead of three
        connection.execute(SESSION)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


def check_server(engine: sa.Engine, *, write: bool) -> None:
    """Makes sure, before anything else is asked of it, that a server can be worked with.

    Raises:
        StorageError: where it is too old, shows this user no schema, or with `write` where the database is read-only,
            or a pooler between does not keep sessions.
    """
    shown = show_url(engine.url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        version = engine.dialect.server_version_info or (0,)
        if version < OLDEST:
            raise StorageError(
                f"PostgreSQL must be {OLDEST[0]} or later, but this server is {version[0]}.{version[-1]}"
            )
        if connection.execute(sa.text("select current_schema()")).scalar() is None:
            raise StorageError(f"storage {shown}: this user may use no schema of its search_path")
    if write:
        _refuse_standby(engine)
        _refuse_pooler(engine)
        engine.dispose()  # an administrator may end sessions that idle for a moment


def connect(url: str, *, write: bool, create_tables: bool) -> RDBStorage:
    """Opens the database."""
    settings = engine_settings(sa.make_url(url), write=write)
    storage = RetryingStorage(
        url, reading=READING, writing=WRITING, engine_kwargs=settings, skip_table_creation=not create_tables
    )
    sa.event.listen(storage.engine, "handle_error", _drop_useless_connection)
    return storage


def _drop_useless_connection(context: sa.engine.ExceptionContext) -> None:
    """Lets go of a connection that will fail again and again.

    After a fail-over the old server may only be read; after a restore, statements that were prepared before are of
    tables that are gone. And where the server has said nothing, as over a link that is cut, an answer may still be on
    its way, before which there can be no rollback.
    """
    state = getattr(context.original_exception, "sqlstate", None)
    if state in UNPREPARED and context.engine is not None:
        shown = show_url(context.engine.url.render_as_string(hide_password=False))
        raise StorageError(f"storage {shown}: {POOLER}") from context.original_exception
    nothing_said = state is None and isinstance(context.sqlalchemy_exception, sa.exc.OperationalError)
    if state in RECONNECT or nothing_said:
        context.is_disconnect = True


def _refuse_standby(engine: sa.Engine) -> None:
    """Makes sure that the database can be written.

    Raises:
        StorageError: where it is read-only.
    """
    with engine.connect() as connection:
        if connection.execute(sa.text("show transaction_read_only")).scalar() == "on":
            shown = show_url(engine.url.render_as_string(hide_password=False))
            raise StorageError(f"storage {shown} is read-only, as a standby is; it can be read, but not worked on")


def _refuse_pooler(engine: sa.Engine) -> None:
    """Makes sure that a connection stays with its session of the server.

    A pooler in transaction mode gives a session to whoever asks next: the one that was used last, so two connections
    that ask in turn have the same; or the one that was not used for longest, so a connection has another each time.

    Raises:
        StorageError: where it does not.
    """
    at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
    with at_once.connect() as one, at_once.connect() as other:
        mine = {_process_of(one) for _ in range(3)}
        is_shared = _process_of(other) in mine
    if is_shared or len(mine) > 1:
        shown = show_url(engine.url.render_as_string(hide_password=False))
        raise StorageError(f"storage {shown}: {POOLER}")


def _process_of(connection: sa.Connection) -> Any:
    """Returns which of the server's processes answers a connection's next statement."""
    return connection.execute(sa.text("select pg_backend_pid()")).scalar()


class AdvisoryLock:
    """PostgreSQL's session advisory lock, held by a connection that does nothing else meanwhile.

    A connection of its own for each holding would be simpler, but to open one took 6 of a trial's 66 ms (medians of 60
    trials with and without the lock, on the loopback device).
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._key = {"ours": OUR_LOCKS, "key": zlib.crc32(name.encode()) - 2**31}
        self._connection: sa.Connection | None = None
        self._mark = ""
        self._timeouts = {"idle": "0", "wait": "0"}  # the session's own

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
        # The mark is ours where this session was the last to take a lock: behind a pooler another client may have.
        held = sa.text(
            "select coalesce(current_setting('hpo.lock', true), '') = :mark and exists (select from pg_locks where "
            "locktype = 'advisory' and pid = pg_backend_pid() and classid = :ours and granted)"
        )
        try:
            still = self._connection.execute(held, {"mark": self._mark, "ours": OUR_LOCKS}).scalar()
        except sa.exc.DBAPIError as error:
            raise LockLost(f"the start lock was lost with its connection: {error.orig}") from error
        if not still:
            raise LockLost("the start lock is another session's")

    def _acquire(self, connection: sa.Connection, stop: Callable[[], bool]) -> None:
        lock = sa.text(
            f"select current_setting('idle_session_timeout'), current_setting('lock_timeout'), {SET_TIMEOUTS}, "
            "pg_advisory_lock(:ours, :key)"
        )
        self._mark = uuid.uuid4().hex
        timeouts = {"idle": f"{TIMEOUT_SECONDS * 1000:.0f}", "wait": f"{WAIT_SECONDS * 1000:.0f}", "mark": self._mark}
        while not stop():
            try:
                row = connection.execute(lock, {**timeouts, **self._key}).one()
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) not in (LOCK_NOT_AVAILABLE, QUERY_CANCELED):
                    raise
            else:
                self._timeouts = {"idle": row[0], "wait": row[1]}
                return
        raise Stopped

    def _release(self, connection: sa.Connection) -> None:
        # All: where the lock is granted at the very moment of lock_timeout, PostgreSQL 15 raises the error and keeps
        # the lock, which is then taken twice.
        unlock = sa.text(f"select pg_advisory_unlock_all(), {SET_TIMEOUTS}")
        try:
            connection.execute(unlock, {**self._timeouts, "mark": ""})
        except sa.exc.SQLAlchemyError:  # the session has ended, so the lock is free; what was done has been verified
            connection.invalidate()
