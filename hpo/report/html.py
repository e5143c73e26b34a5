"""A report as one HTML page that needs nothing else, and as Markdown.

The page holds plotly.js once and asks the network for nothing; a content security policy makes sure of that. It is read
on a phone and a desktop, in light and dark, and can be printed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from hpo.report.figures import draw_pngs, with_texts_escaped
from hpo.report.report import Report
from hpo.report.sections import Section
from hpo.text.escaping import escape_html, escape_markdown
from hpo.text.files import check_writable, write_together
from hpo.text.markdown import markdown_line, markdown_table, split_code
from hpo.text.names import safe_file_name

STYLE = """
:root { --ink: #1b1b1b; --paper: #ffffff; --faint: #666666; --line: #dddddd; --accent: #0060a0; color-scheme: light; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181b; --faint: #a0a0a0; --line: #3a3d42; --accent: #6cb8f0; color-scheme: dark; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 1.2rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; } h1 small { font-weight: normal; color: var(--faint); }
h2 { font-size: 1.1rem; margin: 0 0 .3rem; } p { margin: 0 0 .5rem; } code { font-size: .92em; }
.headline { border-left: 4px solid var(--accent); padding-left: .8rem; margin-bottom: 1.5rem; }
.headline p:first-child { font-size: 1.15rem; font-weight: 600; }
main { columns: 480px 2; column-gap: 2rem; }
section { break-inside: avoid; padding-bottom: 1.6rem; } section.wide { column-span: all; overflow-x: auto; }
section.wide .figure { min-width: 640px; } section > p { color: var(--faint); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .22rem .5rem .22rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; } .short { white-space: nowrap; }
td:not(.short) { overflow-wrap: anywhere; }
@media (max-width: 479px) { table { font-size: .78rem; } th, .many .short { white-space: normal; } }
@media print { body { max-width: none; font-size: 11pt; } main { columns: auto; } }
"""

SCRIPT = """
const places = document.querySelectorAll(".figure");
const brighter = BRIGHTER;
const dark = matchMedia("(prefers-color-scheme: dark)");
const printed = {"--ink": "#1b1b1b", "--line": "#dddddd", "--paper": "#ffffff"};
function draw(printing) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => printing ? printed[name] : style.getPropertyValue(name).trim();
  const [ink, line, paper] = ["--ink", "--line", "--paper"].map(colour);
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line};
  const brighten = dark.matches && !printing ? brighter : {};
  for (const place of places) {
    const figure = place.dataset.figure.replace(/#[0-9a-f]{6}/g, (colour) => brighten[colour] ?? colour);
    const {data, layout} = JSON.parse(figure);
    const narrow = place.clientWidth < 480;
    const drawn = {...layout, font: {...layout.font, color: ink, size: narrow ? 11 : 13},
      annotations: (layout.annotations ?? []).map((text) => ({...text, bgcolor: paper, opacity: 0.85})),
      xaxis: {...layout.xaxis, ...axis, automargin: true}, yaxis: {...layout.yaxis, ...axis}};
    Plotly.react(place, data, drawn, {responsive: true, displayModeBar: false});
  }
}
draw(false);
dark.addEventListener("change", () => draw(false));
addEventListener("beforeprint", () => draw(true));
addEventListener("afterprint", () => draw(false));
"""

BRIGHTER = {  # what a colour of the figures becomes on dark paper
    "#0072b2": "#3fa9f5",
    "#d55e00": "#ff8a3d",
    "#009e73": "#2fd3a2",
    "#56b4e9": "#a9dcf8",
    "#000000": "#ffffff",
    "#888888": "#b5b5b5",
}
SHORT = 15  # characters of a cell that is not broken
MANY = 4  # columns with which a phone has no room for that
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def as_html(report: Report) -> str:
    """Returns a report as a page."""
    title = escape_html(f"{report.study}: {report.title}")
    sections = "\n".join(_section(section) for section in report.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape_html(report.title)} <small>{escape_html(report.study)}</small></h1>
<div class="headline">{_paragraphs(report.headline)}</div>
<main>
{sections}
</main>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT.replace("BRIGHTER", json.dumps(BRIGHTER))}</script>
</body>
</html>
"""


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


def _section(section: Section) -> str:
    parts = [f"<h2>{escape_html(section.title)}</h2>", _paragraphs(section.text)]
    if section.table:
        parts.append(_table(section.table))
    if section.figure is not None:
        figure = escape_html(with_texts_escaped(section.figure).to_json())
        title = escape_html(section.title)
        parts.append(f'<div class="figure" role="img" aria-label="{title}" data-figure="{figure}"></div>')
    wide = ' class="wide"' if section.wide else ""
    return f'<section id="{section.name}"{wide}>{"".join(parts)}</section>'


def _paragraphs(lines: list[str]) -> str:
    return "".join(f"<p>{_inline(line)}</p>" for line in lines)


def _inline(line: str) -> str:
    """Returns a line of text as HTML, what stands between backticks as code."""
    parts = ((escape_html(part), is_code) for part, is_code in split_code(line))
    return "".join(f"<code>{part}</code>" if is_code else part for part, is_code in parts)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    heads = "".join(_cell("th", cell) for cell in head)
    lines = "".join(f"<tr>{''.join(_cell('td', cell) for cell in row)}</tr>" for row in body)
    many = ' class="many"' if len(head) > MANY else ""
    return f"<table{many}>{f'<thead><tr>{heads}</tr></thead>' if any(head) else ''}<tbody>{lines}</tbody></table>"


def _cell(tag: str, text: str) -> str:
    short = ' class="short"' if len(text) <= SHORT else ""
    return f"<{tag}{short}>{escape_html(text)}</{tag}>"


def _on_paper(figure: go.Figure, title: str) -> go.Figure:
    """Returns a figure for a white page, with its title."""
    printed = go.Figure(figure)
    printed.update_layout(template="plotly_white", title=title, paper_bgcolor="white", width=900)
    printed.update_layout(margin={"t": 90}, height=(figure.layout.height or 400) + 60)
    return printed
