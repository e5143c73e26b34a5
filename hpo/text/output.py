"""What the program prints: through streams that show control characters instead of sending them.

Every print, warning and traceback passes through them, whoever makes it; what goes to stderr loses passwords besides.
A table is drawn by `hpo/cli/console.py`, past these streams.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import click

from hpo.text.escaping import printable, printable_lines
from hpo.text.secrets import without_secrets


class EscapingStream:
    """A text stream before another, which shows control characters instead of sending them.

    Attributes:
        rich_proxied_file: the stream behind it, where rich looks for it: a terminal's control codes are for that.
    """

    def __init__(self, stream: TextIO, *, hides_secrets: bool) -> None:
        self.rich_proxied_file = stream
        self._hides_secrets = hides_secrets

    def write(self, text: str) -> int:
        """Writes a text, escaped."""
        self.rich_proxied_file.write(printable_lines(without_secrets(text) if self._hides_secrets else text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "raw"):  # would lead past the escaping
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


def guard_streams() -> None:
    """Puts an `EscapingStream` before this process's stdout and stderr, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, EscapingStream):
            setattr(sys, name, EscapingStream(stream, hides_secrets=name == "stderr"))


def say(*lines: str, err: bool = False) -> None:
    """Prints lines; an end of line within one is shown as `\\n`."""
    for line in lines:
        # Not left to the stream: of an escaped secret it would not know that it is one.
        click.echo(printable(without_secrets(line) if err else line), err=err)
