"""Opens a storage of studies with the settings that workers need.

Beside `records.py` the one file that touches a private name of Optuna, the id of a trial; `optuna>=5.0,<5.1` is pinned
for them, and a test names what they rely on.

SQLite runs in WAL mode, and writers begin every transaction with BEGIN IMMEDIATE: Optuna's SELECT … FOR UPDATE does
nothing there, so without it two workers could act on the same row.
"""

from __future__ import annotations

import fcntl
import os
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

from .errors import NoStorage, StorageError

HEARTBEAT_SECONDS = 30
GRACE_SECONDS = 300
BUSY_SECONDS = 60

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(url: str, *, create: bool = False) -> RDBStorage:
    """Opens a storage for reading, or for working in it.

    Args:
        create: whether to create the database where it is missing. Only then can it be written: reading takes no write
            lock.

    Raises:
        StorageError: where the URL names no database that this program can use, or none is there and `create` is false.
    """
    address = _parse(url)
    if address.get_backend_name() != "sqlite":
        raise StorageError(
            f"storage {show_url(url)}: only sqlite:///FILE can be opened yet, but this is {address.get_backend_name()}"
        )
    path = Path(address.database or "")
    _check_sqlite(url, path, create)
    if not create:
        return _connect(url, create=False)
    try:
        with hold_lock(lock_file(url)):  # two that create the schema at the same moment would break it
            storage = _connect(url, create=True)
    except OSError as error:
        raise StorageError(f"storage {url} cannot be written: {error.strerror}") from error
    _write_immediately(storage)
    return storage


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
    except sa.exc.ArgumentError:
        return url


def lock_file(url: str) -> Path:
    """Returns the file beside a SQLite database whose lock makes one process start a trial at a time."""
    return Path(f"{sa.engine.make_url(url).database}.lock")


@contextmanager
def hold_lock(path: Path) -> Iterator[int]:
    """Holds the kernel's lock on a file; it is free again when the process dies, however it dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def create_study(storage: RDBStorage, name: str, attributes: dict[str, Any]) -> None:
    """Creates a study that minimises, with its attributes; leaves one that has them as it is.

    A study without trials and attributes is one whose creator died half-way; it is completed.

    Raises:
        StorageError: where a study of that name has trials but was not made by this program.
    """
    with hold_lock(lock_file(storage.url)):
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
        if attributes.keys() <= study.user_attrs.keys():
            return
        if study.get_trials(deepcopy=False):
            raise not_ours(storage, name)
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        with experimental():
            study.set_metric_names(["test error (%)"])


def not_ours(storage: RDBStorage, name: str) -> StorageError:
    """Returns the error about a study that another program made."""
    return StorageError(
        f"study {name!r} in {show_url(storage.url)} was not made by hpo; --name NAME starts one beside it"
    )


def trial_id(trial: optuna.Trial) -> int:
    """Returns the id by which a storage knows a trial; Optuna has no public name for it."""
    return trial._trial_id


def _parse(url: str) -> sa.URL:
    try:
        address = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        raise StorageError(f"storage {url!r} is no database URL; one looks like sqlite:///hpo.db") from None
    if address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:"):
        raise StorageError(f"storage {url!r} names no file, so workers cannot share it; sqlite:///hpo.db does")
    return address


def _check_sqlite(url: str, path: Path, create: bool) -> None:
    if not path.parent.is_dir():
        raise StorageError(f"storage {url}: there is no folder {path.parent}")
    if not path.exists():
        if not create:
            raise NoStorage(
                f"storage {url} does not exist; hpo optimize creates it, --storage or HPO_STORAGE names another"
            )
        return
    try:
        with path.open("rb") as file:
            beginning = file.read(16)
    except OSError as error:
        raise StorageError(f"storage {url} cannot be read: {error.strerror}") from error
    if beginning not in (b"", b"SQLite format 3\0"):
        raise StorageError(f"storage {url}: {path} is not a SQLite database")


def _connect(url: str, *, create: bool) -> RDBStorage:
    try:
        tables = _table_names(url)
        foreign = tables and "studies" not in tables
        if foreign:
            raise StorageError(
                f"storage {url} is the database of another program (it has {', '.join(sorted(tables)[:3])}); "
                "name another file"
            )
        if not tables and not create:
            raise NoStorage(f"storage {url} holds no studies; hpo optimize creates one")
        with experimental():
            storage = RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                skip_table_creation=not create,
            )
    except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"storage {show_url(url)} cannot be opened: {_first_line(error)}") from error
    except RuntimeError as error:  # Optuna's, about a schema of another version
        raise StorageError(f"storage {show_url(url)}: {_first_line(error)}") from error
    return storage


def _table_names(url: str) -> set[str]:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    try:
        return set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def _write_immediately(storage: RDBStorage) -> None:
    # After construction: RDBStorage opens a second connection within its first transaction and would wait for itself.
    @sa.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_SECONDS * 1000}"):
            connection.execute(f"PRAGMA {pragma}")

    storage.engine.dispose()

    @sa.event.listens_for(storage.engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).partition("\n")[0]
