"""Who is alive on this host: every worker holds a file lock, which the kernel frees when it dies.

A claim on a trial names its worker's file. Where the file is visible and free, the worker is dead at once, however it
died; a claim from another host, whose file is not here, has to wait for the grace period of its heartbeat.
"""

from __future__ import annotations

import fcntl
import os
import platform
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Worker:
    """A worker process, as its claims name it.

    Attributes:
        file: the file whose lock it holds while it lives.
    """

    host: str
    pid: int
    device: str
    file: str

    def as_json(self) -> dict[str, Any]:
        """Returns the claim's form in the storage."""
        return asdict(self)


class Presence:
    """Holds this process's lock file from construction to `leave`, or to the end of the process."""

    def __init__(self, device: str) -> None:
        folder = Path(tempfile.gettempdir()) / "hpo-workers"
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o1777)  # like /tmp itself: workers of other users stand beside ours
        path = folder / f"{os.getpid()}-{uuid.uuid4().hex}.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self.worker = Worker(platform.node(), os.getpid(), device, str(path))

    def leave(self) -> None:
        """Gives up the lock and removes the file."""
        Path(self.worker.file).unlink(missing_ok=True)
        os.close(self._descriptor)


def is_dead(worker: Worker) -> bool:
    """Says whether a worker is known to be dead; false where it lives, and where this host cannot know."""
    try:
        descriptor = os.open(worker.file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    Path(worker.file).unlink(missing_ok=True)
    return True
