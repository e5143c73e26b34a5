"""Opens a storage of studies as workers need it, and reads it by SQL where Optuna would load every trial.

The one file that touches private names of Optuna: its tables, and the id of a trial. `optuna>=5.0,<5.1` is pinned for
it, and tests/test_storage.py names what it relies on.

SQLite runs in WAL mode, and writers begin every transaction with BEGIN IMMEDIATE: Optuna's SELECT … FOR UPDATE does
nothing there, so without it two workers could act on the same row.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import sqlalchemy.orm
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from .errors import NoStorage, StorageError, UnknownName

HEARTBEAT_SECONDS = 30
GRACE_SECONDS = 300
BUSY_SECONDS = 60

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the storage has it; times in UTC."""

    number: int
    state: TrialState
    value: float | None
    started: datetime | None
    finished: datetime | None
    params: dict[str, Any]
    attributes: dict[str, Any]


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


def study_names(storage: RDBStorage) -> list[str]:
    """Returns the names of the studies in a storage, in order of their creation."""
    with storage.engine.connect() as connection:
        rows = connection.execute(sa.select(models.StudyModel.study_name).order_by(models.StudyModel.study_id))
        return [name for (name,) in rows]


def study_id(storage: RDBStorage, name: str) -> int:
    """Returns the id of a study.

    Raises:
        UnknownName: where the storage has no such study.
    """
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        raise UnknownName("study", name, study_names(storage), where=f"storage {show_url(storage.url)}: ") from None


def study_attributes(storage: RDBStorage, name: str) -> dict[str, Any]:
    """Returns a study's user attributes."""
    return storage.get_study_user_attrs(study_id(storage, name))


def set_study_attribute(storage: RDBStorage, name: str, key: str, value: Any) -> None:
    """Sets one of a study's user attributes."""
    storage.set_study_user_attr(study_id(storage, name), key, value)


def trial_id(trial: optuna.Trial) -> int:
    """Returns the id by which a storage knows a trial; Optuna has no public name for it."""
    return trial._trial_id


def count_trials(storage: RDBStorage, name: str) -> dict[TrialState, int]:
    """Returns how many trials of a study are in each state."""
    table = models.TrialModel
    query = (
        sa.select(table.state, sa.func.count()).where(table.study_id == study_id(storage, name)).group_by(table.state)
    )
    with storage.engine.connect() as connection:
        counted = {state: count for state, count in connection.execute(query)}
    return {state: counted.get(state, 0) for state in TrialState}


def read_trials(
    storage: RDBStorage, name: str, *, states: Collection[TrialState] = tuple(TrialState), best: int | None = None
) -> list[StoredTrial]:
    """Reads the trials of a study in order of their numbers, or the best few in order of their values.

    Args:
        states: only trials in these states.
        best: only so many, the lowest values first, the earlier trial first among equals; trials without a value are
            left out.
    """
    trial, value = models.TrialModel, models.TrialValueModel
    query = (
        sa.select(
            trial.trial_id,
            trial.number,
            trial.state,
            value.value,
            trial._datetime_start_utc,
            trial._datetime_complete_utc,
        )
        .outerjoin(value, value.trial_id == trial.trial_id)
        .where(trial.study_id == study_id(storage, name), trial.state.in_(states))
    )
    if best is None:
        query = query.order_by(trial.number)
    else:
        query = query.where(value.value.is_not(None)).order_by(value.value, trial.number).limit(best)
    with storage.engine.connect() as connection:
        rows = connection.execute(query).all()
        found = [row.trial_id for row in rows]
        params = _read_params(connection, found)
        attributes = _read_attributes(connection, found)
    return [
        StoredTrial(number, state, error, _utc(started), _utc(finished), params.get(key, {}), attributes.get(key, {}))
        for key, number, state, error, started, finished in rows
    ]


def read_attribute(
    storage: RDBStorage, name: str, key: str, *, states: Collection[TrialState], having: str | None = None
) -> dict[int, Any]:
    """Reads one user attribute of a study's trials: trial number -> value.

    Args:
        states: only of trials in these states.
        having: only of trials that have this attribute too.
    """
    trial, attribute = models.TrialModel, models.TrialUserAttributeModel
    query = (
        sa.select(trial.number, attribute.value_json)
        .join(attribute, attribute.trial_id == trial.trial_id)
        .where(trial.study_id == study_id(storage, name), trial.state.in_(states), attribute.key == key)
    )
    if having is not None:
        other = sa.orm.aliased(attribute)
        query = query.where(sa.exists().where(other.trial_id == trial.trial_id, other.key == having))
    with storage.engine.connect() as connection:
        return {number: json.loads(value) for number, value in connection.execute(query)}


def finish_times(storage: RDBStorage, name: str, since: datetime) -> tuple[int, datetime | None]:
    """Returns how many trials finished since a moment, and when the first of those started."""
    trial = models.TrialModel
    query = sa.select(sa.func.count(), sa.func.min(trial._datetime_start_utc)).where(
        trial.study_id == study_id(storage, name),
        trial.state.in_((TrialState.COMPLETE, TrialState.PRUNED)),
        trial._datetime_complete_utc >= since.astimezone(UTC).replace(tzinfo=None),
    )
    with storage.engine.connect() as connection:
        count, first = connection.execute(query).one()
    return count, _utc(first)


def _read_params(connection: sa.Connection, trial_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    table = models.TrialParamModel
    params: dict[int, dict[str, Any]] = {}
    query = sa.select(table.trial_id, table.param_name, table.param_value, table.distribution_json).order_by(
        table.param_id
    )
    for key, name, value, distribution in _rows_of(connection, query, table.trial_id, trial_ids):
        params.setdefault(key, {})[name] = _distribution(distribution).to_external_repr(value)
    return params


def _read_attributes(connection: sa.Connection, trial_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    table = models.TrialUserAttributeModel
    attributes: dict[int, dict[str, Any]] = {}
    query = sa.select(table.trial_id, table.key, table.value_json)
    for key, name, value in _rows_of(connection, query, table.trial_id, trial_ids):
        attributes.setdefault(key, {})[name] = json.loads(value)
    return attributes


def _rows_of(connection: sa.Connection, query: sa.Select[Any], column: Any, trial_ids: Sequence[int]) -> Iterator[Any]:
    for start in range(0, len(trial_ids), 10_000):  # SQLite takes up to 32 766 values in one statement
        yield from connection.execute(query.where(column.in_(trial_ids[start : start + 10_000])))


@lru_cache(maxsize=256)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


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
