from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import plotly.graph_objects as go
import pytest
from rich.console import Group
from rich.progress import Progress, TextColumn
from rich.table import Table

from hpo.cli.console import Console
from hpo.errors import UnknownName
from hpo.report.html import PAGE
from hpo.text.escaping import (
    escape_csv,
    escape_figure,
    escape_markdown,
    is_printable,
    one_line,
    printable,
    printable_lines,
)
from hpo.text.markdown import code_span, markdown_line, markdown_table
from hpo.text.output import EscapingStream, say

UNSEEN = [
    *("\x00", "\x07", "\x08", "\x1b", "\x7f", "\x84", "\x9b", "\x9d", "\r", "\n", "\t", "\v"),  # C0, DEL, C1
    *("\u202e", "\u2066", "\u200f", "\u061c"),  # direction
    *("\u200b", "\u200d", "\ufeff", "\u00ad", "\u2028", "\u2029", "\U000e0041", "\u3164", "\u115f"),  # no shape
    *("\udce9", "\ud800", "\ue000", "\uffff"),  # no characters
]


@pytest.mark.parametrize("character", UNSEEN, ids=ascii)
def test_what_a_terminal_acts_on_or_nobody_sees_is_shown(character: str) -> None:
    shown = printable(f"a{character}b")
    assert is_printable(shown)
    assert shown == f"a{character.encode('unicode_escape').decode()}b"
    assert printable_lines(f"a{character}b\n") == (f"a{character}b\n" if character in "\n\t" else f"{shown}\n")
    for escape in (escape_markdown, one_line):
        assert character not in escape(f"a{character}b")
    assert character not in escape_csv(f"a{character}b")


@pytest.mark.parametrize("text", ["cnn", "Größe 10\u202f%", "δ ≤ 1 ± 2 → …", "日本語", "a\\nb", "❤️"])
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert printable(text) == printable_lines(text) == text


EVIL = "a\x1b]0;title\x07b\nc\u202ed"
SHOWN = r"a\x1b]0;title\x07b\nc\u202ed"


def test_no_table_line_or_bar_sends_what_a_name_holds() -> None:
    table = Table(EVIL, title=EVIL)
    table.add_column("x", overflow="fold", min_width=1)
    table.add_row(EVIL, "y")
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system=None, width=200)
    console.print(EVIL)
    console.print(table)
    console.print(Group(EVIL, table))
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task(EVIL)
    text = written.getvalue()
    assert text.count(SHOWN) >= 7
    assert "\x1b]" not in text  # the bar's own codes begin otherwise
    assert "\x07" not in text
    assert "\u202e" not in text


def test_lines_that_are_said_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL, "z")
    say(f"{UnknownName('study', EVIL, [EVIL])}", err=True)
    said = capsys.readouterr()
    assert said.out == f"{SHOWN}\nz\n"
    assert len(said.err.splitlines()) == 1
    assert is_printable(said.err.rstrip("\n"))


def test_a_secret_that_is_not_printable_is_not_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "zero\u200bwidth")
    monkeypatch.setattr(sys, "stderr", EscapingStream(sys.stderr, hides_secrets=True))
    say("it failed: zero\u200bwidth", err=True)
    assert capsys.readouterr().err == "it failed: ***\n"


def test_prints_warnings_and_tracebacks_of_anybody_are_escaped() -> None:
    script = (
        "import logging, sys, warnings; from hpo.text.output import guard_streams\n"
        "guard_streams(); guard_streams()\n"
        "print('out \\x1b[31m'); print('err \\x9b', file=sys.stderr)\n"
        "warnings.warn('warned \\x1b]52')\n"
        "logging.getLogger().error('logged \\x1b]52')\n"
        "raise ValueError('raised \\x1b]52')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    for text in (done.stdout, done.stderr):
        assert b"\x1b" not in text
    assert b"out \\x1b[31m" in done.stdout
    for word in (b"err \\x9b", b"warned \\x1b", b"logged \\x1b", b"raised \\x1b"):
        assert word in done.stderr


def test_a_stream_stays_a_stream() -> None:
    written = io.StringIO()
    stream = EscapingStream(written, hides_secrets=False)
    assert stream.write("a\x1b\n") == 3
    stream.writelines(["b", "\x07"])
    stream.flush()
    assert (written.getvalue(), stream.isatty()) == ("a\\x1b\nb\\x07", False)
    assert not hasattr(EscapingStream(sys.__stdout__ or written, hides_secrets=False), "buffer")  # would lead past it


MARKUP = [
    "a | b",
    "line\nline",
    "<script>alert(1)</script>",
    "`code`",
    "*bold* _bold_ **x** __y__ ~~z~~",
    "# heading",
    "> quoted",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "---",
    "===",
    "[link](https://example.org)",
    "![picture](x.png)",
    "a\\",
    "&lt;b&gt;",
    "$x^2$",
    "    code",
]


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_shows_markup_as_text(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    shown = " ".join(text.split())
    for document, kind in ((escape_markdown(text), "paragraph_open"), (f"# {escape_markdown(text)}", "heading_open")):
        tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(document)
        assert [token.type for token in tokens][:2] == [kind, "inline"]
        assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
        assert "".join(child.content for child in tokens[1].children).strip() == shown
    table = markdown_table([["head", "b"], [text, "b"], ["c", "d"]])
    assert len(table.splitlines()) == 4
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(table)
    cells = [child for token in tokens if token.type == "inline" for child in token.children or ()]
    assert {child.type for child in cells} <= {"text", "text_special"}
    assert sum(token.type == "td_open" for token in tokens) == 4


def test_numbers_and_words_of_tables_stay_readable_in_markdown() -> None:
    for text in (
        "-1.07 (-1.93 to -0.21)",
        "+0.91",
        "cnn_bn+ws+al leaky_relu adam 0.01",
        "4.20 ± 0.3",
        "difference (95 %)",
    ):
        assert escape_markdown(text) == text


def test_code_in_a_line_is_code_and_all_else_is_text() -> None:
    assert markdown_line("see `hpo best --study x`, <b> it") == "see `hpo best --study x`, &lt;b> it"
    assert code_span("a`b``c\n") == "``` a`b``c\\n ```"
    assert markdown_line("`*` *") == "`*` \\*"


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-cmd|x", "@sum", "\t=1", "\r=1", "＝1", "=\x1b"])
def test_a_spreadsheet_computes_no_cell(cell: str) -> None:
    escaped = escape_csv(cell)
    assert escaped.startswith("'")
    assert is_printable(escaped)


@pytest.mark.parametrize("cell", [-1.5, 3, None, True, "-1.5", "1e-4", "cnn", "", "a=b", "x - y"])
def test_numbers_and_plain_cells_of_csv_stay(cell: Any) -> None:
    assert escape_csv(cell) == cell


def test_plotly_shows_texts_and_not_their_markup() -> None:
    figure = go.Figure(layout={"title": "<b>t</b>"})
    figure.add_bar(x=['<a href="https://example.org">x</a>', "a & b"], y=[1, 2.5], name="<i>n</i>", texttemplate="%{y}")
    figure.add_annotation(text="$\\alpha$ \x1b", x=0, y=0)
    escaped = go.Figure(escape_figure(json.loads(figure.to_json())))
    assert escaped.layout.title.text == "&lt;b&gt;t&lt;/b&gt;"
    assert list(escaped.data[0].x) == ['&lt;a href="https://example.org"&gt;x&lt;/a&gt;', "a &amp; b"]
    assert (escaped.data[0].name, escaped.data[0].texttemplate) == ("&lt;i&gt;n&lt;/i&gt;", "%{y}")
    assert list(escaped.data[0].y) == [1, 2.5]
    assert escaped.layout.annotations[0].text == r"&#36;\alpha&#36; \x1b"


def test_a_page_takes_texts_in_attributes_too() -> None:
    text = PAGE.from_string('<p title="{{ text }}">').render(text="\" onload='x' <b>\nc\x1b")
    assert text == r'<p title="&#34; onload=&#39;x&#39; &lt;b&gt; c\x1b">'
