"""A report as one HTML page that needs nothing else, and as Markdown.

The page holds plotly.js once and asks the network for nothing; a content security policy makes sure of that. It is read
on a phone and a desktop, in light and dark, and can be printed.
"""

from __future__ import annotations

import os
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from hpo.report.figures import draw_pngs, with_texts_escaped
from hpo.report.report import Report
from hpo.text.escaping import escape_markdown, one_line
from hpo.text.files import check_writable, write_together
from hpo.text.markdown import markdown_line, markdown_table, split_code
from hpo.text.names import safe_file_name

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("hpo.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: (
        one_line(value) if type(value) is str else value
    ),  # what is marked as HTML is of another type
)


def as_html(report: Report) -> str:
    """Returns a report as a page."""
    return PAGE.get_template("report.html").render(
        report=report,
        policy=POLICY,
        plotly=get_plotlyjs(),
        split_code=split_code,
        as_json=lambda figure: with_texts_escaped(figure).to_json(),
    )


def as_markdown(report: Report, pictures: dict[str, str]) -> str:
    """Returns a report as Markdown.

    Args:
        pictures: the path of each section's picture, by the section's name, for those that are drawn.
    """
    lines = [f"# {escape_markdown(report.title)}", *map(markdown_line, report.headline)]
    for section in report.sections:
        lines += [f"## {escape_markdown(section.title)}", *map(markdown_line, section.text)]
        if section.table:
            lines.append(markdown_table(section.table))
        if section.name in pictures:
            lines.append(f"![{escape_markdown(section.title)}]({pictures[section.name]})")
    return "\n\n".join(lines) + "\n"


def write_report(report: Report, folder: Path) -> tuple[list[Path], str]:
    """Writes STUDY.html and STUDY.md into a folder, and the latter's pictures where there is a Chromium.

    STUDY is the study's name as a file can have it. All are written, or none.

    Returns:
        the files, and why there are no pictures, if there are none.

    Raises:
        OSError: that names the file that cannot be written.
    """
    name = safe_file_name(report.study)
    page, text = folder / f"{name}.html", folder / f"{name}.md"
    figures = {one.name: _on_paper(one.figure, one.title) for one in report.sections if one.figure is not None}
    pictures = {section: f"figures/{name}-{section}.png" for section in figures}
    beside = folder / "figures"
    for file in (page, text, *(folder / picture for picture in pictures.values() if os.path.lexists(beside))):
        check_writable(file)
    drawn, missing = draw_pngs({folder / pictures[section]: figure for section, figure in figures.items()})
    markdown = as_markdown(report, {} if missing else pictures)
    if drawn:
        beside.mkdir(exist_ok=True)
    write_together({page: as_html(report), text: markdown, **drawn})
    return [page, text, *drawn], missing


def _on_paper(figure: go.Figure, title: str) -> go.Figure:
    """Returns a figure for a white page, with its title."""
    printed = go.Figure(figure)
    printed.update_layout(template="plotly_white", title=title, paper_bgcolor="white", width=900)
    printed.update_layout(margin={"t": 90}, height=(figure.layout.height or 400) + 60)
    return printed
