"""SQLite as a storage, for the workers of one machine.

It runs in WAL mode, and writers begin every transaction with BEGIN IMMEDIATE: Optuna's SELECT … FOR UPDATE does nothing
there, so without it two workers could act on the same row. Nothing here opens the database's file but SQLite itself:
whoever closes it drops the locks that SQLite holds for the whole process, and its readers then see what was.

Reading leaves nothing behind, and needs no right to write. A file that is removed or replaced while it is written to is
found out at the next statement, and what it held is saved.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from optuna.storages import RDBStorage

from .errors import NoStorage, StorageError, StorageGone
from .locks import TIMEOUT_SECONDS, FileLock
from .outages import OutageProofStorage

OLDEST = (3, 35)  # the first with RETURNING
DRIVERS = ("sqlite", "sqlite+pysqlite")
BUSY_SECONDS = 60
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


def check_url(url: sa.URL, *, create: bool, write: bool) -> str:
    """Makes sure that a URL names a database's file here, or with `create` a place for one.

    Raises:
        NoStorage: where `create` is false and there is none.
        StorageError: where it names no file, no folder, or one that other machines see too, where `write` is asked for
            and cannot be done, or SQLite is too old.
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
    if write:
        for needed in _needed_to_write(file):
            if not os.access(needed, os.W_OK):
                raise StorageError(f"storage {url} cannot be written: {needed} is read-only for this user")
    return str(url)


def _needed_to_write(file: Path) -> Iterator[Path]:
    """Yields what must be writable: the folder, in which SQLite makes files beside the database's own, and those."""
    yield file.parent
    yield from (path for path in (file, *_beside(file)) if path.exists())


def _beside(file: Path) -> tuple[Path, Path]:
    """Returns the files that SQLite keeps beside a database that is open: its log, and the log's index."""
    return Path(f"{file}-wal"), Path(f"{file}-shm")


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
    return FileLock(Path(f"{Path(str(engine.url.database)).resolve()}.lock"))  # the same for every link to the file


def engine_settings(url: sa.URL, *, write: bool) -> dict[str, Any]:
    """Returns how SQLAlchemy is to open the database."""
    if write:
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    # Each reading opens the file anew, because how it can be opened changes when somebody begins to write.
    return {"creator": partial(_open_for_reading, Path(str(url.database))), "poolclass": sa.NullPool}


def _open_for_reading(file: Path) -> sqlite3.Connection:
    """Opens a database so that nothing is left behind.

    SQLite reads a database in WAL mode by way of two files beside it. Whoever may write them also removes them again.
    Who may not reads those of a writer that is at work; where nobody is, the file alone holds everything.
    """
    mode = "rw"
    if not all(os.access(path, os.W_OK) for path in _needed_to_write(file)):
        mode = "ro" if _beside(file)[0].exists() else "ro&immutable=1"
    address = f"file:{quote(str(file))}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.execute("PRAGMA query_only=1")
    return connection


def connect(url: str, *, write: bool, create_tables: bool) -> RDBStorage:
    """Opens the database; to read takes no write lock."""
    storage = OutageProofStorage(
        url,
        reading=READING,
        writing=WRITING,
        engine_kwargs=engine_settings(sa.make_url(url), write=write),
        skip_table_creation=not create_tables,
    )
    if write:
        _write_immediately(storage)
        _watch_file(storage, Path(str(storage.engine.url.database)).absolute())
    return storage


def _watch_file(storage: RDBStorage, file: Path) -> None:
    """Makes sure, before each use of a connection, that the database's file is still the one that was opened.

    The kernel keeps a file that was removed for as long as it is open: everything would go on, and be lost at the end.
    """
    opened = file.stat()

    @sa.event.listens_for(storage.engine, "checkout")
    def _on_checkout(connection: Any, record: Any, proxy: Any) -> None:
        with suppress(FileNotFoundError):
            if os.path.samestat(file.stat(), opened):
                return
        what = "replaced by another" if file.exists() else "removed"
        raise StorageGone(f"storage {storage.url}: its file was {what} meanwhile; {_rescue(connection, file, opened)}")


def _rescue(connection: sqlite3.Connection, file: Path, opened: os.stat_result) -> str:
    """Copies what a database that was removed still holds to a file beside it; says where that is.

    Every process that had it open finds out, and the first copies.
    """
    name = f"{file.name}.rescued-{opened.st_ino}"
    for folder in (file.parent, Path(tempfile.gettempdir())):
        copy = folder / name
        try:
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, opened.st_mode & 0o777))
        except FileExistsError:
            return f"what it held is saved in {copy}"
        except OSError:
            continue
        try:
            with closing(sqlite3.connect(copy)) as target:
                connection.backup(target)
        except sqlite3.Error as error:
            copy.unlink()
            return f"what it held could not be saved: {error}"
        return f"what it held is saved in {copy}"
    return f"what it held could not be saved: neither {file.parent} nor {tempfile.gettempdir()} can be written"


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
