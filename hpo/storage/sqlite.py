"""SQLite as a storage, for the workers of one machine.

It runs in WAL mode, and writers begin every transaction with BEGIN IMMEDIATE: Optuna's SELECT … FOR UPDATE does nothing
there, so without it two workers could act on the same row. Nothing here opens the database's file but SQLite itself:
whoever closes it drops the locks that SQLite holds for the whole process, and its readers then see what was.

Reading leaves nothing behind, and needs no right to write. A file that is removed or replaced while it is written to is
found out at the next statement, and what it held is saved.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from hpo.errors import NoStorage, StorageError
from hpo.storage.locks import TIMEOUT_SECONDS, FileLock
from hpo.storage.retry import RetryingStorage
from hpo.storage.watched_file import BUSY_SECONDS, WatchedFile, files_beside, open_file
from hpo.text.secrets import show_url

OLDEST = (3, 35)  # the first with RETURNING
DRIVERS = ("sqlite", "sqlite+pysqlite")
READING: dict[str, Any] = {"reads_only": True}
WRITING: dict[str, Any] = {}
LOST_LOCK = (
    f"the start lock was taken away each time that it was held, after {TIMEOUT_SECONDS:g} s: this process is paused "
    "again and again, or its disk is very slow"
)
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
}
MOUNTS = Path("/proc/self/mountinfo")


def check_url(url: sa.URL, given: str, *, create: bool, write: bool) -> str:
    """Makes sure that a URL names a database's file here, or with `create` a place for one; returns it as given.

    Raises:
        NoStorage: where `create` is false and there is none.
        StorageError: where it names no file, no folder, or one that other machines see too, where `write` is asked for
            and cannot be done, or SQLite is too old.
    """
    shown = show_url(given)
    if sqlite3.sqlite_version_info < OLDEST:
        raise StorageError(f"SQLite must be 3.35 or later, but this Python has {sqlite3.sqlite_version}")
    if url.database in (None, "", ":memory:"):
        raise StorageError(f"storage {shown} names no file, so workers cannot share it; sqlite:///hpo.db does")
    if url.query:
        raise StorageError(f"storage {shown}: a database of SQLite is opened as hpo needs it; leave out what follows ?")
    file = Path(str(url.database))
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise StorageError(f"storage {shown} is no regular file")
    if not file.parent.is_dir():
        raise StorageError(f"storage {shown}: there is no folder {file.parent}")
    kind = file_system(file.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"storage {shown} lies on a network file system ({kind}), where SQLite's locks do not hold; "
            "use a local disk, or postgresql://USER@HOST/DATABASE for several machines"
        )
    if not file.exists() and not create:
        raise NoStorage(
            f"storage {shown} does not exist; hpo optimize creates it, --storage or HPO_STORAGE names another"
        )
    if write:
        for needed in _needed_to_write(file.resolve()):
            if not os.access(needed, os.W_OK):
                raise StorageError(f"storage {shown} cannot be written: {needed} is read-only for this user")
    return given


def _needed_to_write(file: Path) -> Iterator[Path]:
    """Yields what must be writable: the folder, in which SQLite makes files beside the database's own, and those."""
    yield file.parent
    yield from (path for path in (file, *files_beside(file)) if path.exists())


def file_system(folder: Path) -> str:
    """Returns the kind of file system that a folder lies on, as Linux calls it; empty where that can't be told."""
    if not MOUNTS.exists():
        return ""
    kinds: dict[Path, str] = {}
    for line in os.fsdecode(MOUNTS.read_bytes()).rstrip("\n").split("\n"):  # man 5 proc_pid_mountinfo
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        kinds[Path(place)] = after.split(" ")[0]  # a later mount hides an earlier one
    whole = folder.resolve()
    return next((kinds[place] for place in (whole, *whole.parents) if place in kinds), "")


def start_lock(engine: sa.Engine, name: str) -> FileLock:
    """Returns the lock of the whole database, whatever its name: SQLite has one writer at a time anyway."""
    database = Path(str(engine.url.database)).resolve()  # the same for every link to the file
    return FileLock(Path(f"{database}.lock"), like=database)


def engine_settings(url: sa.URL, *, write: bool) -> dict[str, Any]:
    """Returns how SQLAlchemy is to open the database."""
    file = Path(str(url.database)).absolute()
    if write:
        return {"creator": WatchedFile(file)}
    # Each reading opens the file anew, because how it can be opened changes when somebody begins to write.
    return {"creator": partial(_open_for_reading, file), "poolclass": sa.NullPool}


def _open_for_reading(file: Path) -> sqlite3.Connection:
    """Opens a database so that nothing is left behind.

    SQLite reads a database in WAL mode by way of two files beside it, a log and the log's index. Whoever may write them
    removes them again. Who may not reads those of a writer that is at work; where nobody is, the file alone holds
    everything, but for a log or a journal that a crash has left, which is read in a copy.
    """
    whole = file.resolve()  # SQLite's files lie beside the file itself, not beside a link to it
    log, index, journal = files_beside(whole)
    if all(os.access(path, os.W_OK) for path in _needed_to_write(whole)):
        return open_file(file, "rw")
    if journal.exists() or (log.exists() and not index.exists()):
        return _open_copy(whole, log, journal)
    return open_file(file, "ro" if log.exists() else "ro&immutable=1")


def _open_copy(file: Path, *beside: Path) -> sqlite3.Connection:
    """Opens a copy of a database and of what a crash left beside it, which is gone with the connection."""
    with tempfile.TemporaryDirectory(prefix="hpo-") as folder:
        for one in (file, *(path for path in beside if path.exists())):
            shutil.copyfile(one, Path(folder) / one.name)
        connection = open_file(Path(folder) / file.name, "rw")
        connection.execute("select count(*) from sqlite_master")  # opens all that it needs, which the kernel then keeps
    return connection


def check_server(engine: sa.Engine, *, write: bool) -> None:
    """Does nothing: there is none."""


def connect(url: str, *, write: bool, create_tables: bool) -> RDBStorage:
    """Opens the database; to read takes no write lock."""
    settings = engine_settings(sa.make_url(url), write=write)
    storage = RetryingStorage(
        url, reading=READING, writing=WRITING, engine_kwargs=settings, skip_table_creation=not create_tables
    )
    if write:
        _write_immediately(storage)
        sa.event.listen(storage.engine, "checkout", settings["creator"].check)
    return storage


def _write_immediately(storage: RDBStorage) -> None:
    # After construction: RDBStorage opens a second connection within its first transaction and would wait for itself.
    @sa.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":  # SQLite falls back without a word where the file system cannot do it
            raise StorageError(
                f"storage {show_url(storage.url)} cannot use SQLite's WAL mode (it is {mode}); put it on a local disk"
            )
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")

    storage.engine.dispose()

    @sa.event.listens_for(storage.engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        reads_only = connection.get_execution_options().keys() >= READING.keys()
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
