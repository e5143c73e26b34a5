"""Every error that a user can meet: whose setting, the rule, the value, the way out, in one line.

HpoError
├── RequestError       the request was wrong: exit code 2
│   ├── UnknownName    no study, architecture or key has this name
│   ├── StudyError     a study file breaks a rule, or no longer matches the study in the storage
│   ├── DatasetError   a dataset's files are missing, incomplete or wrong
│   └── StorageError   a storage cannot be opened, or is not ours
│       └── NoStorage  there is none yet
└── WorkError          the work failed: exit code 1
    └── StorageGone    the storage's file was removed or replaced while it was worked on
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable


class HpoError(Exception):
    """Raised when something goes wrong that is not a bug; its text is one line for the person at the terminal."""

    exit_code = 1


class RequestError(HpoError):
    """Raised when a request can't be carried out as it stands; nothing was changed."""

    exit_code = 2


class UnknownName(RequestError):
    """Raised when a name is not among the known ones; suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "", hint: str = "") -> None:
        super().__init__(f"{where}no {kind} named {name!r}; {hint}{suggestion(name, known)}")


class StudyError(RequestError):
    """Raised when a study's definition breaks a rule, or differs from the one stored with the study."""


class DatasetError(RequestError):
    """Raised when a dataset's files are missing, incomplete or wrong."""


class StorageError(RequestError):
    """Raised when a storage cannot be opened, holds something else, or lacks what is asked of it."""


class NoStorage(StorageError):
    """Raised when a storage is to be read that does not exist, or is empty."""


class WorkError(HpoError):
    """Raised when the work itself failed: too many failed trials, or workers that cannot go on."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StorageGone(WorkError):
    """Raised when the file of a storage was removed or replaced while it was worked on."""


def explain_os_error(error: OSError) -> str:
    """Returns what the system says, and of which file; that the working folder is gone, where it is."""
    reason = error.strerror or str(error)
    explained = f"{error.filename}: {reason}" if error.filename is not None else reason
    return f"{explained}; the working folder is gone, so change to another" if is_adrift() else explained


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error is a device's, or a library's, that had no memory left."""
    said = f"{type(error).__name__} {error}".lower()
    return any(word in said for word in ("out of memory", "outofmemory", "memoryerror", "alloc_failed"))


def is_adrift() -> bool:
    """Says whether the working folder was removed since somebody changed to it."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'x'? there are: x, y, z`, without the question where nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}there are: {', '.join(names) or 'none'}"
