"""Files: text read as editors save it, and files written whole.

UTF-8 is read, or one clause says what it is instead. What is written is written beside its place first and then moved
there, so that after an error what was there still is.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MARKS = (  # longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

MOST_BYTES = 10**6


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


class NotUtf8(ValueError):
    """Raised where a file holds another encoding; its text says which, and nothing of what is in the file."""


def read_text(file: Path) -> str:
    r"""Returns what a text file holds, without a byte order mark, its lines ended by `\n`.

    Raises:
        OSError: where it cannot be read.
        NotUtf8: where it is not UTF-8.
    """
    with file.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES // 10**6} MB", str(file))
    nulls = data.count(b"\0")
    found = next((name for mark, name in MARKS if data.startswith(mark)), "UTF-16" if 3 * nulls > len(data) else "")
    if nulls and not found:
        raise NotUtf8("it holds the byte 0, as no text does")
    if not found:
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            found = f"Latin-1 (line {line})"
    raise NotUtf8(f"it is not UTF-8 but looks like {found}; save it as UTF-8")


def is_utf8(text: str) -> bool:
    """Says whether an argument or a variable was UTF-8: Python has what was not as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
