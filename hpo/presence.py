"""Who is alive on this host: every worker holds a file lock, which the kernel frees when it dies.

A claim on a trial names its worker's file. Where the file is visible and free, the worker is dead at once, however it
died; a claim from another host, whose file is not here, has to wait for the grace period of its heartbeat.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import uuid
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal


@dataclass(frozen=True)
class Worker:
    """A worker process, as its claims name it.

    Attributes:
        file: the file whose lock it holds while it lives.
        parent: the same of the process that looks after it; empty where there is none.
        claim: tells this claim from all others, also from those of the same worker.
    """

    host: str
    pid: int
    device: str
    file: str
    parent: str = ""
    claim: str = ""

    def as_json(self) -> dict[str, Any]:
        """Returns the claim's form in the storage; `records.CLAIM` tells it by its first keys."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Any) -> Worker | None:
        """Reads what a storage holds for a claim; None where it is none. Keys that are not known are passed over."""
        known = {field.name: field for field in fields(cls)}
        given = {key: value for key, value in kept.items() if key in known} if isinstance(kept, dict) else {}
        for key, value in given.items():
            if type(value) is not (int if key == "pid" else str) or "\0" in str(value):
                return None
        missing = [name for name, field in known.items() if name not in given and field.default is MISSING]
        return None if missing else cls(**given)


class Presence:
    """Holds a lock file for as long as it is entered.

    On leaving by an error the file stays, free: whoever reads a claim on it then knows that its worker is gone.
    """

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / "hpo-workers"
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o1777)  # like /tmp itself: workers of other users stand beside ours
        self.file = folder / f"{os.getpid()}-{uuid.uuid4().hex}.lock"
        self._descriptor = -1

    def __enter__(self) -> Presence:
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.file.unlink(missing_ok=True)
        os.close(self._descriptor)


def probe(file: str) -> Literal["alive", "gone", "unknown"]:
    """Says how the holder of a lock file is; unknown where the file is not on this host."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "alive"
    finally:
        os.close(descriptor)
    return "gone"
