"""The one kind of terminal that tables and progress are drawn in: no text of theirs can act on it.

A string is one line: what a terminal acts on is shown as in `\\x1b`, an end of line within it as `\\n`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.segment import Segment
from rich.text import Text

from hpo.text.escaping import printable, printable_lines
from hpo.text.secrets import without_secrets


class Console(rich.console.Console):
    """rich's console, without its markup, highlighting and emoji."""

    def __init__(self, **settings: Any) -> None:
        # rich believes whatever stands there: 0, or digits of another script.
        sized = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "LINES") or re.fullmatch("[1-9][0-9]{0,4}", value)
        }
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, "_environ": sized, **settings})

    @property
    def file(self) -> IO[str]:
        """The terminal itself, behind all streams that are put before it: while something is redrawn, also rich's."""
        file = super().file
        while (behind := getattr(file, "rich_proxied_file", None)) is not None:
            file = behind
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print(self, *objects: Any, **settings: Any) -> None:
        """Prints; while something is redrawn, also what others print, which rich hands on as a `Text`."""
        super().print(*map(self._without_secrets, objects), **settings)

    def _without_secrets(self, printed: Any) -> Any:
        if not self.stderr or not isinstance(printed, Text):
            return printed
        shown = without_secrets(printed.plain)
        return printed if shown == printed.plain else Text(shown)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Returns a string as rich draws it; every string passes through here, that of a table's cell too."""
        return super().render_str(printable(text), **settings)

    def render(self, *arguments: Any, **settings: Any) -> Iterable[Segment]:
        """Yields what is drawn; also of texts that were never strings, as a progress bar's."""
        for segment in super().render(*arguments, **settings):
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))
