"""Locks between processes, kept by the kernel or a server: free again when their holder dies, however it dies.

The start lock, under which trials are started and studies created, is one of these: a file beside a SQLite database
(here), or a session of PostgreSQL (postgresql.py). A holder that lives but is paused must not stop the others: after
`TIMEOUT_SECONDS` its lock is taken away, which it finds out when it verifies.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            if self._try(descriptor):
                return descriptor
            holder = os.pread(descriptor, 64, 0)
            if holder != mark:
                mark, since = holder, time.monotonic()
            elif time.monotonic() - since > TIMEOUT_SECONDS:
                self._take_away(descriptor)
            os.close(descriptor)
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
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _take_away(self, descriptor: int) -> None:
        with hold_lock(Path(f"{self._path}.takeover")):  # or two who waited equally long would remove each other's file
            if self._bears_the_name(descriptor):
                self._path.unlink()


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Holds the lock on a file within, waiting for it as long as it takes; the file is created, and stays.

    Raises:
        OSError: where the file cannot be created.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
