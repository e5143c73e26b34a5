"""Locks between processes, kept by the kernel or a server: free again when their holder dies, however it dies.

The start lock, under which trials are started and studies created, is one of these: a file beside a SQLite database
(here), or a session of PostgreSQL (postgresql.py). A holder that lives but is paused must not stop the others: after
`TIMEOUT_SECONDS` its lock is taken away, which it finds out when it verifies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.01


class LockLost(Exception):
    """Raised when a lock was taken away from its holder; what was done under it is not to be relied upon."""


class Stopped(Exception):
    """Raised when somebody who waits for a lock was asked to stop."""


class Lock(Protocol):
    """A lock that can be taken away. It is not reentrant, and one object serves one thread."""

    def hold(self, stop: Callable[[], bool] = bool) -> AbstractContextManager[None]:
        """Holds the lock within; `stop` is asked now and then while waiting.

        Raises:
            Stopped: where `stop` said so.
        """

    def verify(self) -> None:
        """Makes sure that the lock was held all the time since it was taken.

        Raises:
            LockLost: where it was taken away meanwhile.
        """


class FileLock:
    """`flock` on a file; who meets the same holder for too long removes the file, and the next one makes a new one.

    The kernel's lock belongs to the file and not to its name: a holder whose file bears the name no more has lost the
    lock. Each holder writes a mark of its own into the file, so that those who wait can tell it from the next.

    Args:
        like: the file that the lock guards; who may write the one, may write the other.
    """

    def __init__(self, path: Path, like: Path | None = None) -> None:
        self._path, self._like = path, like
        self._descriptor = -1

    @contextmanager
    def hold(self, stop: Callable[[], bool] = bool) -> Iterator[None]:  # noqa: D102
        self._descriptor = self._acquire(stop)
        try:
            yield
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def verify(self) -> None:  # noqa: D102
        if not self._bears_the_name(self._descriptor):
            raise LockLost(f"the lock {self._path} was taken away after {TIMEOUT_SECONDS:g} s")

    def _acquire(self, stop: Callable[[], bool]) -> int:
        mark, since = b"", time.monotonic()
        while not stop():
            with ExitStack() as stack:
                descriptor = _open(self._path, self._like)
                stack.callback(os.close, descriptor)
                if self._try(descriptor):
                    stack.pop_all()
                    return descriptor
                holder = os.pread(descriptor, 64, 0)
                if holder != mark:
                    mark, since = holder, time.monotonic()
                elif time.monotonic() - since > TIMEOUT_SECONDS:
                    self._take_away(descriptor)
            time.sleep(POLL_SECONDS)
        raise Stopped

    def _try(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not self._bears_the_name(descriptor):  # it was removed between opening and locking
            return False
        os.pwrite(descriptor, uuid.uuid4().hex.encode(), 0)
        return True

    def _bears_the_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _take_away(self, descriptor: int) -> None:
        # Or two who waited equally long would remove each other's file.
        with hold_lock(Path(f"{self._path}.takeover"), self._like):
            if self._bears_the_name(descriptor):
                self._path.unlink()


@contextmanager
def hold_lock(path: Path, like: Path | None = None) -> Iterator[None]:
    """Holds the lock on a file within, waiting for it as long as it takes; the file is created, and stays.

    Args:
        like: the file that the lock guards; who may write the one, may write the other.

    Raises:
        OSError: where the file cannot be created, or is no plain file.
    """
    descriptor = _open(path, like)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path, like: Path | None) -> int:
    """Opens a lock file, and creates it where it is not there; what another puts in its place is not written to."""
    descriptor, is_new = _open_or_create(path)
    try:
        _check_plain(os.fstat(descriptor), path)
        if like is not None:
            _share(descriptor, like, is_new=is_new)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_or_create(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        with suppress(FileNotFoundError):
            return _open_existing(path, flags), False
        with suppress(FileExistsError):  # somebody else has created it in this very moment
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True


def _open_existing(path: Path, flags: int) -> int:
    # Without O_CREAT, for with it Linux refuses files of other users in a folder like /tmp.
    try:
        return os.open(path, flags)
    except PermissionError as error:
        reason = f"{error.strerror}; all who share a lock file must be able to write it"
        raise PermissionError(error.errno, reason, str(path)) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "is a link, which no lock file may be; remove it", str(path)) from error
        raise


def _check_plain(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file, as a lock file must be; remove it", str(path))
    if found.st_nlink > 1:
        raise OSError(
            errno.EMLINK, "is another file too (a hard link), which no lock file may be; remove it", str(path)
        )


def _share(descriptor: int, like: Path, *, is_new: bool) -> None:
    """Lets those write a lock file of ours who may write the file that it guards."""
    try:
        guarded = like.stat()
    except FileNotFoundError:  # it is about to be created
        return
    found, mode = os.fstat(descriptor), guarded.st_mode & 0o666 | 0o600
    if found.st_uid == os.geteuid() and found.st_mode & 0o777 != mode:
        os.fchmod(descriptor, mode)
    if is_new and os.geteuid() == 0:  # root works on a user's database
        os.fchown(descriptor, guarded.st_uid, guarded.st_gid)
