"""A SQLite database's file while it is written to: that it was removed, replaced or cut short is found out.

The kernel keeps a file that was removed for as long as it is open: everything would go on, and be lost at the end.
"""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import stat
import tempfile
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hpo.errors import StorageGone

pass

BUSY_SECONDS = 60


class WatchedFile:
    """A database's file, opened for writing, that may be removed or replaced meanwhile.

    The kernel keeps a file that was removed for as long as it is open: everything would go on, and be lost at the end.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened: os.stat_result | None = None
        self._opened_at = time.time()
        self._size = 0

    def __call__(self) -> sqlite3.Connection:
        """Opens it; where there is none it is made, but only the first time."""
        if self._opened is not None and not self._is_there():
            raise self._gone(None)
        connection = open_file(self._file, "rwc" if self._opened is None else "rw")
        self._opened = self._opened or self._file.stat()
        return connection

    def check(self, connection: sqlite3.Connection, record: Any, *rest: Any) -> None:
        """Makes sure, before a connection is used, that the file and its log are still those that were opened.

        Raises:
            StorageGone: where they are not.
        """
        if not self._is_there():
            raise self._gone(connection)
        size = self._file.stat().st_size
        if size < self._size:  # SQLite makes a file smaller only where it is told to
            raise StorageGone(
                f"storage sqlite:///{self._file}: its file was overwritten meanwhile, or cut short; "
                f"{self._rescue(connection)}"
            )
        self._size = size
        # SQLite makes the log at a connection's first statement, and keeps it while one is open.
        log = _found(files_beside(self._file.resolve())[0])
        known = record.info.get("log")
        if known not in (None, log):
            raise StorageGone(
                f"storage sqlite:///{self._file}: its log, {self._file.name}-wal, was removed or replaced meanwhile; "
                f"{self._rescue(connection)}"
            )
        record.info["log"] = log

    def _is_there(self) -> bool:
        return self._opened is not None and _found(self._file) == (self._opened.st_dev, self._opened.st_ino)

    def _gone(self, connection: sqlite3.Connection | None) -> StorageGone:
        what = "replaced by another" if self._file.exists() else "removed"
        return StorageGone(f"storage sqlite:///{self._file}: its file was {what} meanwhile; {self._rescue(connection)}")

    def _rescue(self, connection: sqlite3.Connection | None) -> str:
        """Saves what is still held in a file beside, and says where that is."""
        for folder in (self._file.parent, Path(tempfile.gettempdir())):
            try:
                return f"what it held is saved in {self._save(connection, folder)}"
            except OSError:  # as where the folder is gone too
                continue
            except sqlite3.Error as error:
                return f"what it held could not be saved: {error}"
        return "what it held is lost, unless another process saves it"

    def _save(self, connection: sqlite3.Connection | None, folder: Path) -> Path:
        """Returns the file in a folder that has what is still held.

        Every process that had the database open finds out that it went away; the first that can saves it for all.
        """
        inode = self._opened.st_ino if self._opened else 0
        for number in itertools.count(1):
            place = folder / f"{self._file.name}.rescued-{inode}{f'-{number}' if number > 1 else ''}"
            if self._was_saved(place):
                return place
            if os.path.lexists(place):  # a file system gives the number of a file that is gone to another
                continue
            if connection is None:
                break
            with tempfile.TemporaryDirectory(prefix=".hpo-", dir=folder) as beside:
                whole = Path(beside) / "whole"
                with closing(sqlite3.connect(whole)) as target:
                    connection.backup(target)
                    is_sound = target.execute("pragma quick_check").fetchone() == ("ok",)
                    if not is_sound or not target.execute("select 1 from sqlite_master limit 1").fetchone():
                        raise sqlite3.DatabaseError("database disk image is malformed")
                whole.chmod(0o600)
                with suppress(FileExistsError):
                    os.link(whole, place)
                    return place
            if self._was_saved(place):  # by another process in this very moment
                return place
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

    def _was_saved(self, place: Path) -> bool:
        """Says whether a file is this user's and was made since the database was opened."""
        try:
            found = place.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_mtime >= self._opened_at


def _found(file: Path) -> tuple[int, int] | None:
    """Returns what tells a file from all others of this machine; None where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def files_beside(file: Path) -> tuple[Path, Path, Path]:
    """Returns the files that SQLite keeps beside a database that is open.

    They are its log, the log's index, and the journal of one that is not in WAL mode.
    """
    return Path(f"{file}-wal"), Path(f"{file}-shm"), Path(f"{file}-journal")


def open_file(file: Path, mode: str) -> sqlite3.Connection:
    """Opens a database's file in a mode of SQLite's: `ro`, `rw`, or `rwc`, which makes it."""
    address = f"file:{quote(os.fsencode(file))}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")  # one bad text must not hide all others
    return connection
