"""Opens a storage of studies, SQLite or PostgreSQL, with the settings that workers need.

Beside `claims.py`, `frozen_trials.py`, `fast_rdb.py`, `retry.py` and `queries.py` the one file that touches a private
name of Optuna, the id of a trial; `optuna>=5.0,<5.1` is pinned for them, and a test names what they rely on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from hpo.errors import NoStorage, StorageError, WorkError, explain_os_error
from hpo.storage import postgresql, sqlite
from hpo.storage.locks import Lock
from hpo.storage.retry import retried
from hpo.text.secrets import remember_secrets, show_url, without_secrets

optuna.logging.set_verbosity(optuna.logging.WARNING)

FAILURES = (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What a storage raises when its database fails it: full, locked for too long, damaged, away for too long."""


def open_storage(url: str, *, create: bool = False, write: bool = False, patient: bool = False) -> RDBStorage:
    """Opens a storage for reading, or for working in it.

    Args:
        create: whether to create what is missing, SQLite's file and the schema, and to open it for writing.
        write: whether to open it for writing where it is there.
        patient: whether to wait for a database that is away, as a worker does that starts during an outage.

    Raises:
        NoStorage: where `create` is false and there is none.
        StorageError: where the URL names no database that this program can use.
    """
    remember_secrets(url)
    backend, address = _find_backend(url)
    shown = show_url(url)
    opening, write = retried(_open) if patient else _open, write or create
    try:
        checked = backend.check_url(address, url, create=create, write=write)
        return opening(backend, checked, shown, create=create, write=write)
    except OSError as error:
        raise StorageError(f"storage {shown} cannot be opened: {explain_os_error(error)}") from error
    except FAILURES as error:
        raise StorageError(f"storage {shown} cannot be opened: {explain_failure(error)}") from error
    except RuntimeError as error:  # Optuna's, about a schema of another version
        raise StorageError(f"storage {shown}: {explain_failure(error)}") from error


@contextmanager
def reading(storage: RDBStorage) -> Iterator[sa.Connection]:
    """Gives a connection to read with: on SQLite without waiting for writers, on PostgreSQL without a transaction."""
    backend, _ = _find_backend(storage.url)
    with storage.engine.connect() as connection:
        yield connection.execution_options(**backend.READING)


@contextmanager
def experimental() -> Iterator[None]:
    """Silences Optuna's warnings that what is used within is experimental.

    The version is pinned, and tests hold it to its word.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def explain_failure(error: Exception) -> str:
    """Returns the first line of what the database itself said."""
    cause = error.__cause__ or error
    return without_secrets(str(getattr(cause, "orig", None) or cause).partition("\n")[0])


def start_lock(storage: RDBStorage, study: str) -> Lock:
    """Returns the lock whose holder alone may start trials of a study, or create it."""
    backend, _ = _find_backend(storage.url)
    lock: Lock = backend.start_lock(storage.engine, f"study {study}")
    return lock


def lost_lock(storage: RDBStorage, study: str) -> WorkError:
    """Returns the error about a start lock that is lost whenever it is taken."""
    backend, _ = _find_backend(storage.url)
    return WorkError(f"study {study!r} in {show_url(storage.url)}: {backend.LOST_LOCK}")


def _find_backend(url: str) -> tuple[ModuleType, sa.URL]:
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StorageError(f"storage {show_url(url)!r} is no database URL; one looks like sqlite:///hpo.db") from None
    for backend in (sqlite, postgresql):
        if address.drivername in backend.DRIVERS:
            return backend, address
    raise StorageError(
        f"storage {show_url(url)}: only sqlite:///FILE and postgresql://USER@HOST/DATABASE can be opened, "
        f"but this is {address.drivername}"
    )


def _open(backend: ModuleType, url: str, shown: str, *, create: bool, write: bool) -> RDBStorage:
    engine = sa.create_engine(url, **backend.engine_settings(sa.make_url(url), write=write))
    try:
        backend.check_server(engine, write=write)
        complete = _check_ours(engine, shown)
        if not complete and not create:
            raise NoStorage(f"storage {shown} holds no studies; hpo optimize creates one")
        storage: RDBStorage
        if complete:
            storage = backend.connect(url, write=write, create_tables=False)
            return storage
        with backend.start_lock(engine, "schema").hold():  # two that create it at the same moment would break it
            _check_ours(engine, shown)
            storage = backend.connect(url, write=True, create_tables=True)
            return storage
    finally:
        engine.dispose()


def _check_ours(engine: sa.Engine, shown: str) -> bool:
    """Says whether a database has Optuna's whole schema; where it has none, or an unfinished one, it can get it.

    RDBStorage completes an unfinished schema wherever it finds one, so it may not see one that is being created.

    Raises:
        StorageError: where it is the database of another program.
    """
    tables = set(sa.inspect(engine).get_table_names())
    optunas = {*models.BaseModel.metadata.tables, "alembic_version"}
    if not (optunas <= tables or tables <= optunas):
        foreign = ", ".join(sorted(tables - optunas)[:3])
        raise StorageError(f"storage {shown} is the database of another program (it has {foreign}); name another")
    if not optunas <= tables:
        return False
    with engine.connect() as connection:  # the stamp comes last
        stamps = connection.execute(sa.text("select version_num from alembic_version")).all()
    if len(stamps) > 1:
        raise StorageError(f"storage {shown} is damaged: alembic_version says {len(stamps)} versions of its schema")
    return bool(stamps)
