"""SQLite as a storage, for the workers of one machine.

It runs in WAL mode, and writers begin every transaction with BEGIN IMMEDIATE: Optuna's SELECT … FOR UPDATE does nothing
there, so without it two workers could act on the same row. Nothing here opens the database's file but SQLite itself:
whoever closes it drops the locks that SQLite holds for the whole process, and its readers then see what was.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from .errors import NoStorage, StorageError
from .locks import FileLock
from .outages import OutageProofStorage

OLDEST = (3, 35)  # the first with RETURNING
DRIVERS = ("sqlite", "sqlite+pysqlite")
BUSY_SECONDS = 60
ENGINE: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
READING: dict[str, Any] = {"reads_only": True}
WRITING: dict[str, Any] = {}
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
}
MOUNTS = Path("/proc/self/mountinfo")


def check_url(url: sa.URL, *, create: bool) -> str:
    """Makes sure that a URL names a database's file here, or with `create` a place for one.

    Raises:
        NoStorage: where `create` is false and there is none.
        StorageError: where it names no file, no folder, or one that other machines see too, or SQLite is too old.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise StorageError(f"SQLite must be 3.35 or later, but this Python has {sqlite3.sqlite_version}")
    if url.database in (None, "", ":memory:"):
        raise StorageError(f"storage {url} names no file, so workers cannot share it; sqlite:///hpo.db does")
    file = Path(str(url.database))
    if not file.parent.is_dir():
        raise StorageError(f"storage {url}: there is no folder {file.parent}")
    kind = file_system(file.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"storage {url} lies on a network file system ({kind}), where SQLite's locks do not hold; "
            "use a local disk, or postgresql://USER@HOST/DATABASE for several machines"
        )
    if not file.exists() and not create:
        raise NoStorage(
            f"storage {url} does not exist; hpo optimize creates it, --storage or HPO_STORAGE names another"
        )
    return str(url)


def file_system(folder: Path) -> str:
    """Returns the kind of file system that a folder lies on, as Linux calls it; empty where that can't be told."""
    if not MOUNTS.exists():
        return ""
    kinds: dict[Path, str] = {}
    for line in MOUNTS.read_text(encoding="utf-8").splitlines():  # man 5 proc_pid_mountinfo
        before, _, after = line.partition(" - ")
        kinds[Path(before.split()[4].replace("\\040", " "))] = after.split()[0]  # a later mount hides an earlier one
    whole = folder.resolve()
    return next((kinds[place] for place in (whole, *whole.parents) if place in kinds), "")


def start_lock(engine: sa.Engine, name: str) -> FileLock:
    """Returns the lock of the whole database, whatever its name: SQLite has one writer at a time anyway."""
    database = Path(str(engine.url.database)).resolve()  # the same for every link to the file
    return FileLock(Path(f"{database}.lock"), like=database)


def connect(url: str, *, write: bool, create_tables: bool) -> RDBStorage:
    """Opens the database; to read takes no write lock."""
    storage = OutageProofStorage(
        url, reading=READING, writing=WRITING, engine_kwargs=ENGINE, skip_table_creation=not create_tables
    )
    if write:
        _write_immediately(storage)
    return storage


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
        reads_only = connection.get_execution_options().keys() >= READING.keys()
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
