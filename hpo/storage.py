"""Opens a storage of studies with the settings that workers need.

Beside `records.py` the one file that touches a private name of Optuna, the id of a trial; `optuna>=5.0,<5.1` is pinned
for them, and a test names what they rely on.

SQLite runs in WAL mode, and writers begin every transaction with BEGIN IMMEDIATE: Optuna's SELECT … FOR UPDATE does
nothing there, so without it two workers could act on the same row. Nothing here opens the database's file but SQLite
itself: whoever closes it drops the locks that SQLite holds for the whole process, and its readers then see what was.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import sqlalchemy.orm
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from .errors import NoStorage, StorageError
from .locks import hold_lock

HEARTBEAT_SECONDS = 30
GRACE_SECONDS = 300
BUSY_SECONDS = 60

optuna.logging.set_verbosity(optuna.logging.WARNING)


FAILURES = (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What a storage raises when its database fails it: full, locked for too long, damaged."""


def open_storage(url: str, *, create: bool = False) -> RDBStorage:
    """Opens a storage for reading, or for working in it.

    Args:
        create: whether to create the database where it is missing. Only then can it be written: reading takes no write
            lock.

    Raises:
        NoStorage: where `create` is false and there is none.
        StorageError: where the URL names no database that this program can use.
    """
    path = _find_file(url)
    try:
        if not path.exists() and not create:
            raise NoStorage(
                f"storage {url} does not exist; hpo optimize creates it, --storage or HPO_STORAGE names another"
            )
        if not create:
            return _open_to_read(url)
        with hold_lock(lock_file(url)):  # two that create the schema at the same moment would break it
            _check_ours(url)
            storage = _connect(url, skip_table_creation=False)
        _write_immediately(storage)
        return storage
    except OSError as error:
        raise StorageError(f"storage {url} cannot be opened: {error.filename or path}: {error.strerror}") from error
    except FAILURES as error:
        raise StorageError(f"storage {url} cannot be opened: {explain_failure(error)}") from error
    except RuntimeError as error:  # Optuna's, about a schema of another version
        raise StorageError(f"storage {url}: {explain_failure(error)}") from error


@contextmanager
def experimental() -> Iterator[None]:
    """Silences Optuna's warnings that what is used within is experimental.

    The version is pinned, and tests hold it to its word.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def show_url(url: str) -> str:
    """Returns a storage's URL without its password."""
    try:
        return sa.engine.make_url(url).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return re.sub(r":[^:@/]*@", ":***@", url)


def explain_failure(error: Exception) -> str:
    """Returns the first line of what the database itself said."""
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).partition("\n")[0]


def lock_file(url: str) -> Path:
    """Returns the file beside a SQLite database whose lock makes one process start a trial at a time."""
    return Path(f"{sa.engine.make_url(url).database}.lock")


def create_study(storage: RDBStorage, name: str, attributes: dict[str, Any], target: int) -> None:
    """Creates a study that minimises, with its attributes, or joins it; its target is the largest that was asked.

    A study without trials that lacks attributes is one whose creator died half-way; it is completed.

    Raises:
        StorageError: where a study of that name has trials but was not made by this program.
    """
    with hold_lock(lock_file(storage.url)):
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
        if not attributes.keys() <= study.user_attrs.keys():
            if study.get_trials(deepcopy=False):
                raise not_ours(storage, name)
            for key, value in attributes.items():
                study.set_user_attr(key, value)
            with experimental():
                study.set_metric_names(["test error (%)"])
        study.set_user_attr("target", max(target, study.user_attrs.get("target", 0)))


def not_ours(storage: RDBStorage, name: str) -> StorageError:
    """Returns the error about a study that another program made."""
    return StorageError(
        f"study {name!r} in {show_url(storage.url)} was not made by hpo; --name NAME starts one beside it"
    )


def trial_id(trial: optuna.Trial) -> int:
    """Returns the id by which a storage knows a trial; Optuna has no public name for it."""
    return trial._trial_id


def _find_file(url: str) -> Path:
    try:
        address = sa.engine.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StorageError(f"storage {show_url(url)!r} is no database URL; one looks like sqlite:///hpo.db") from None
    if address.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StorageError(
            f"storage {show_url(url)}: only sqlite:///FILE can be opened yet, but this is {address.drivername}"
        )
    if address.database in (None, "", ":memory:"):
        raise StorageError(f"storage {url!r} names no file, so workers cannot share it; sqlite:///hpo.db does")
    path = Path(address.database)
    if not path.parent.is_dir():
        raise StorageError(f"storage {url}: there is no folder {path.parent}")
    return path


def _open_to_read(url: str) -> RDBStorage:
    # RDBStorage completes an unfinished schema wherever it finds one, so it may not see one that is being created.
    if not _check_ours(url):
        raise NoStorage(f"storage {url} holds no studies; hpo optimize creates one")
    return _connect(url, skip_table_creation=True)


def _check_ours(url: str) -> bool:
    """Says whether a database has Optuna's whole schema; where it has none, or an unfinished one, it can get it.

    Raises:
        StorageError: where it is the database of another program.
    """
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    try:
        tables = set(sa.inspect(engine).get_table_names())
        optunas = {*models.BaseModel.metadata.tables, "alembic_version"}
        if not (optunas <= tables or tables <= optunas):
            foreign = ", ".join(sorted(tables - optunas)[:3])
            raise StorageError(
                f"storage {url} is the database of another program (it has {foreign}); name another file"
            )
        if not optunas <= tables:
            return False
        with engine.connect() as connection:  # the stamp comes last
            return connection.execute(sa.text("select version_num from alembic_version")).first() is not None
    finally:
        engine.dispose()


def _connect(url: str, *, skip_table_creation: bool) -> RDBStorage:
    with experimental():
        return RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            skip_table_creation=skip_table_creation,
        )


def _write_immediately(storage: RDBStorage) -> None:
    # After construction: RDBStorage opens a second connection within its first transaction and would wait for itself.
    @sa.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":  # SQLite falls back without a word where the file system cannot do it
            raise StorageError(
                f"storage {storage.url} cannot use SQLite's WAL mode (it is {mode}); put it on a local disk"
            )
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")

    storage.engine.dispose()

    @sa.event.listens_for(storage.engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
