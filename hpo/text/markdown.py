"""Markdown: tables, lines of text with code in them, and code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hpo.text.escaping import escape_markdown, printable


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table, its first row the heads."""
    escaped = [[escape_markdown(cell) for cell in row] for row in rows]
    head, *body = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def markdown_line(line: str) -> str:
    """Returns a line of text in Markdown, what stands between backticks as code."""
    return "".join(code_span(part) if is_code else _keeping_ends(part) for part, is_code in split_code(line))


def code_span(text: str) -> str:
    """Returns a text as code, whatever backticks it has."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def split_code(line: str) -> Iterator[tuple[str, bool]]:
    """Yields the parts of a line, and whether each stands between backticks."""
    for i, part in enumerate(re.split(r"`(.+?)`", line)):
        if part:
            yield part, bool(i % 2)


def _keeping_ends(text: str) -> str:
    """Escapes a part of a line, the blanks at its ends left: they part it from code."""
    middle = text.strip()
    before, after = text.partition(middle)[::2] if middle else (text, "")
    return before + escape_markdown(middle) + after
