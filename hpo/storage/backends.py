"""Opens a storage of studies, SQLite or PostgreSQL, with the settings that workers need.

Beside `claims.py`, `frozen_trials.py`, `fast_rdb.py`, `retry.py` and `queries.py` the one file that touches a private
name of Optuna, the id of a trial; `optuna>=5.0,<5.1` is pinned for them, and a test names what they rely on.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpo.errors import NoStorage, StorageError, WorkError, explain_os_error
from hpo.storage import postgresql, sqlite
from hpo.storage.frozen_trials import read_attributes
from hpo.storage.locks import Lock
from hpo.storage.retry import OutageProofStorage, persistent
from hpo.text.address import remember_secrets, without_secrets
from hpo.text.address import show_url as show_url  # for whoever speaks of a storage

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
    opening, write = persistent(_open) if patient else _open, write or create
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


STUDY_ATTRIBUTES: dict[str, type] = {  # of a study that is wholly created
    "definition": dict,
    "definition_sha256": str,
    "dataset_sha256": str,
    "versions": dict,
    "identity": str,
}


def are_ours(attributes: Mapping[str, Any]) -> bool:
    """Says whether a study's attributes are those of one that this program has made."""
    return all(isinstance(attributes.get(key), kind) for key, kind in STUDY_ATTRIBUTES.items())


def create_study(
    storage: RDBStorage,
    name: str,
    attributes: dict[str, Any],
    target: int,
    *,
    most: int | None = None,
    lower: bool = False,
) -> None:
    """Creates a study that minimises, with its attributes, or joins it; its target is the largest that was asked.

    A study without trials that lacks attributes, and has no others, is one whose creator died half-way, or an empty
    one; it is completed. Nothing is written to any other that is not ours.

    Args:
        most: the largest target that can be reached.
        lower: whether `target` counts though a larger one was asked before.

    Raises:
        StorageError: where there is a study of that name that this program has not made.
    """
    with start_lock(storage, name).hold():
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
        known = study.user_attrs
        if study.directions != [StudyDirection.MINIMIZE] or not (are_ours(known) or _is_empty(study, attributes)):
            raise not_ours(storage, name)
        if not are_ours(known):
            for key, value in {**attributes, "identity": uuid.uuid4().hex}.items():
                study.set_user_attr(key, value)
            with experimental():
                study.set_metric_names(["test error (%)"])
        largest = target if lower else max(target, stored_target(known))
        study.set_user_attr("target", largest if most is None else min(largest, most))


def stored_target(attributes: Mapping[str, Any]) -> int:
    """Returns the number of trials that was asked of a study, by its attributes; 0 where none was."""
    target = attributes.get("target")
    return target if isinstance(target, int) and not isinstance(target, bool) and target > 0 else 0


def _is_empty(study: optuna.Study, attributes: Mapping[str, Any]) -> bool:
    """Says whether a study has no trials, and no attributes but some that it is about to be given."""
    ours = {**attributes, "versions": study.user_attrs.get("versions")}  # the creator that died may have had others
    return study.user_attrs.items() <= ours.items() and not study.get_trials(deepcopy=False)


def not_ours(storage: RDBStorage, name: str) -> StorageError:
    """Returns the error about a study that another program made."""
    return StorageError(
        f"study {name!r} in {show_url(storage.url)} was not made by hpo; --name NAME starts one beside it"
    )


def trial_id(trial: optuna.Trial) -> int:
    """Returns the id by which a storage knows a trial; Optuna has no public name for it."""
    return trial._trial_id


def enqueued_params(trial: optuna.Trial | FrozenTrial) -> dict[str, Any] | None:
    """Returns the parameters that a trial had before it was started: those that somebody has enqueued it with.

    None where they are none, for an attribute of a trial can hold anything.
    """
    fixed = trial.system_attrs.get("fixed_params", {}) if isinstance(trial, FrozenTrial) else trial._fixed_params
    return {**trial.params, **fixed} if isinstance(fixed, dict) else None


def artifact_ids(storage: RDBStorage, study: optuna.Study) -> dict[str, str]:
    """Returns a study's artifacts, file name -> id; of one that was deleted in the dashboard an empty entry is left."""
    attributes = storage.get_study_system_attrs(study._study_id)
    texts = ((key, value) for key, value in attributes.items() if key.startswith(ARTIFACTS_ATTR_PREFIX))
    entries = (entry for entry in read_attributes(texts).values() if isinstance(entry, dict))
    return {entry["filename"]: entry["artifact_id"] for entry in entries if {"filename", "artifact_id"} <= entry.keys()}


def ask(storage: RDBStorage, study: optuna.Study, claim: dict[str, Any]) -> optuna.Trial:
    """Starts a trial that carries its claim from the first, and a heartbeat; an enqueued one, if there is any.

    Not repeated while the database is away: whether the trial was started before the answer got lost the caller finds
    out.
    """
    with _ours(storage).claiming(claim):
        return study.ask()


@contextmanager
def speaking_for(storage: RDBStorage, trial_id: int, claim: str | None) -> Iterator[None]:
    """Within, a trial of another worker is written to only while it carries that worker's claim."""
    with _ours(storage).speaking_for(trial_id, claim):
        yield


def lost_lock(storage: RDBStorage, study: str) -> WorkError:
    """Returns the error about a start lock that is lost whenever it is taken."""
    backend, _ = _find_backend(storage.url)
    return WorkError(f"study {study!r} in {show_url(storage.url)}: {backend.LOST_LOCK}")


def show_only(storage: RDBStorage, study: optuna.Study, is_shown: Callable[[FrozenTrial], bool]) -> None:
    """Hides a study's other trials from Optuna's samplers and pruners, for as long as the storage is open."""
    _ours(storage).show_only(study._study_id, is_shown)


@contextmanager
def together(trial: optuna.Trial) -> Iterator[None]:
    """Within, what is written to a trial is collected, and written at the end, or after an error not at all."""
    cache: Any = trial.storage  # Optuna's, before the storage itself
    with _ours(cache._backend).together(trial_id(trial)):
        yield


def _ours(storage: RDBStorage) -> OutageProofStorage:
    if not isinstance(storage, OutageProofStorage):
        raise TypeError(f"a storage that open_storage returned was expected, not {type(storage).__name__}")
    return storage


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
