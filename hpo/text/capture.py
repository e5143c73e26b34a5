"""Takes what somebody's code prints, so that it neither spoils a table nor is lost."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hpo.text.escaping import printable_lines

LAST_BYTES = 4_000  # of what is printed, that are kept


class Printed:
    """What was printed within `capture`, once it is left: its end."""

    def __init__(self) -> None:
        self.text = ""


@contextmanager
def capture() -> Iterator[Printed]:
    """Context manager in which stdout and stderr go to a file, those of libraries and of child processes too."""
    printed, saved = Printed(), {number: os.dup(number) for number in (1, 2)}
    with tempfile.TemporaryFile() as file:
        _flush()
        try:
            for number in saved:
                os.dup2(file.fileno(), number)
            yield printed
        finally:
            _flush()
            for number, stream in saved.items():
                os.dup2(stream, number)
                os.close(stream)
            file.seek(max(0, file.tell() - LAST_BYTES) if file.seek(0, os.SEEK_END) else 0)
            printed.text = printable_lines(file.read().decode(errors="replace"))


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Context manager in which what is printed goes to stderr, so that it does not spoil JSON on stdout."""
    _flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        _flush()
        os.dup2(saved, 1)
        os.close(saved)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
