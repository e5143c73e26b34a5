"""Text from files as editors save them, and from command lines: UTF-8, or one clause that says what it is instead."""

from __future__ import annotations

import codecs
import errno
from pathlib import Path

MARKS = (  # longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


MOST_BYTES = 10**6


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
