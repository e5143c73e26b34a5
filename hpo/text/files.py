"""Writes files whole: beside their place first, then moved there, so that after an error what was there still is."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def write_whole(file: Path, data: bytes | str) -> None:
    """Writes a file, or after an error leaves it as it was.

    A file that is there keeps its mode, and a link is replaced rather than what it leads to.

    Raises:
        OSError: that names the file.
    """
    write_together({file: data})


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Writes files that belong together: the first is moved to its place when all are written.

    Raises:
        OSError: that names the file.
    """
    beside: dict[Path, Path] = {}
    try:
        for file, data in files.items():
            beside[file] = _name_beside(file)
            with _about(file):
                _write(beside[file], data, _mode(file))
        for file, written in beside.items():
            with _about(file):
                os.replace(written, file)
    finally:
        for left in beside.values():
            left.unlink(missing_ok=True)


def check_writable(file: Path) -> None:
    """Makes sure that a file could be written, before the work is done that it shall hold.

    Raises:
        OSError: that names the file.
    """
    beside = _name_beside(file)
    with _about(file):
        try:
            _write(beside, b"", _mode(file))
        finally:
            beside.unlink(missing_ok=True)


def _name_beside(file: Path) -> Path:
    return file.with_name(f".hpo-{uuid.uuid4().hex}.tmp")  # not its name and more: that could be too long


def _mode(file: Path) -> int | None:
    """Returns the mode of the file that is to be replaced; None where there is none, or a link.

    Raises:
        OSError: where it is something else, or may not be written.
    """
    try:
        found = file.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if not os.access(file, os.W_OK):  # the folder's permission would do, but somebody wants it kept
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(found.st_mode) & 0o777


def _write(file: Path, data: bytes | str, mode: int | None) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with open(descriptor, "wb") as stream:
        if mode is not None:
            os.fchmod(descriptor, mode)
        stream.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


@contextmanager
def _about(file: Path) -> Iterator[None]:
    """Context manager in which errors name this file, for a full disk names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
