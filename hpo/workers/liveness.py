"""Who is alive on this host: every worker holds a file lock, which the kernel frees when it dies.

A claim on a trial names its worker's file, which lies in a folder of its user's alone. Where the file is visible and
free, the worker is dead at once, however it died; a claim from another host or of another user, whose file is not to be
had here, has to wait for the grace period of its heartbeat.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

from hpo.errors import RequestError

KEPT_SECONDS = 7 * 24 * 3600.0  # a free file tells that its worker is gone; after that only the grace period does


class LivenessLock:
    """Holds a lock file for as long as it is entered.

    On leaving by an error the file stays, free: whoever reads a claim on it then knows that its worker is gone.

    Raises:
        RequestError: where this user can have no folder for it.
    """

    def __init__(self) -> None:
        folder = _make_folder()
        _remove_old(folder)
        self.file = folder / f"{os.getpid()}-{uuid.uuid4().hex}.lock"
        self._descriptor = -1

    def __enter__(self) -> LivenessLock:
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.file.unlink(missing_ok=True)
        os.close(self._descriptor)


def probe(file: object) -> Literal["alive", "gone", "unknown"]:
    """Says how the holder of a lock file is, by what a claim calls the file; unknown where it is not of this user here.

    Who may write the database can write any claim, so only a file is believed that `LivenessLock` could have made.
    """
    folder = _folder()
    if not isinstance(file, str) or os.path.dirname(file) != str(folder) or not _is_ours(folder):
        return "unknown"
    descriptor = _open_own(file)
    if descriptor is None:
        return "unknown"
    try:
        return "gone" if _is_free(descriptor) else "alive"
    finally:
        os.close(descriptor)


def _folder() -> Path:
    try:
        return Path(tempfile.gettempdir()) / f"hpo-workers-{os.geteuid()}"
    except FileNotFoundError as error:
        raise RequestError(f"{error.strerror}; TMPDIR names one that can be written") from error


def _make_folder() -> Path:
    folder = _folder()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_ours(folder):
        raise RequestError(
            f"{folder} must be a folder of this user's that nobody else can write to; remove it, or name another "
            "place for temporary files by TMPDIR"
        )
    return folder


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not others_write


def _open_own(file: str) -> int | None:
    """Opens a file of this user's for its lock; None where it is none, or a link, or cannot be opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    return None


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_old(folder: Path) -> None:
    """Removes the files of workers that were killed long ago."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process removes them too
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > KEPT_SECONDS:
                    _remove_if_free(entry.path)


def _remove_if_free(file: str) -> None:
    descriptor = _open_own(file)
    if descriptor is None:
        return
    try:
        if _is_free(descriptor):
            os.unlink(file)
    finally:
        os.close(descriptor)
