"""Texts from elsewhere, escaped for where they are shown: a terminal, Markdown, HTML, a plotly figure, CSV.

Names, titles, labels and errors come from files, command lines and databases that others write. Each place has one
function; what a terminal acts on, or what nobody sees, is shown in all of them as in `\\x1b`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0")  # letters without a shape
LINE_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]+")
PLAIN = re.compile(r"[ -~\n\t]*")
TEMPLATES = ("hovertemplate", "texttemplate")  # of a figure: patterns, with markup that is meant
FORMULA = "=+-@"  # what a spreadsheet computes, if a cell begins so


def printable(text: str) -> str:
    """Returns a text as one line without characters that a terminal acts on, or that nobody sees: each as `\\x1b`."""
    return text if is_printable(text) else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """Returns a text of several lines, their ends and tabs as they are and all else as `printable` has it."""
    if PLAIN.fullmatch(text):
        return text
    return "".join(c if c in "\n\t" else _shown(c) for c in text)


def is_printable(text: str) -> bool:
    """Says whether a text is one line of visible characters and blanks."""
    return text.isprintable() and INVISIBLE.isdisjoint(text)


def _shown(character: str) -> str:
    if is_printable(character) or unicodedata.category(character) == "Zs":  # blanks of other widths
        return character
    return character.encode("unicode_escape").decode("ascii")


def escape_markdown(text: str) -> str:
    """Returns a text for any place in Markdown but a code span: a heading, a line, a table's cell."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", one_line(text).strip()).replace("<", "&lt;")
    text = re.sub(r"[\\`*\[\]|~$]|:(?=//)|(?<=www)\.", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # within a word it is no markup
    text = re.sub(r"^(?=[#>]|[-+=](?:[-=\s]|$))", r"\\", text)  # headings, quotations, lists, rules
    return re.sub(r"^(\d+)(?=[.)](?:\s|$))", r"\1\\", text)


def escape_figure(described: Any) -> Any:
    """Returns a plotly figure, as JSON has it, whose texts are shown as they are: plotly takes some HTML for markup."""
    if isinstance(described, dict):
        return {key: value if key in TEMPLATES else escape_figure(value) for key, value in described.items()}
    if isinstance(described, list):
        return [escape_figure(value) for value in described]
    if not isinstance(described, str):
        return described
    return html.escape(one_line(described), quote=False).replace("$", "&#36;")  # it knows no &quot;


def escape_csv(value: Any) -> Any:
    """Returns a cell of CSV as one line that no spreadsheet computes; numbers stay as they are."""
    if not isinstance(value, str) or _is_number(value):
        return value
    first = unicodedata.normalize("NFKC", value[:1])
    return f"'{printable(value)}" if first and first in f"{FORMULA}\t\r\n" else printable(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return is_printable(text)


def one_line(text: str) -> str:
    """Returns a text as `printable` has it, every run of line ends and tabs a blank."""
    return printable(LINE_BREAKS.sub(" ", text))
