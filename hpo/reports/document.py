"""What was reproduced, as a document: tables in Markdown, figures as pictures, in the marked places of a text.

The document is written by a person but for the places between `<!-- NAME -->` and `<!-- end -->`, which are filled anew
each time; what stands between them stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from hpo.analysis.statistics import ratio_of_deviations
from hpo.errors import RequestError
from hpo.reports.agreement import FEWEST, Verdict, counted, judge
from hpo.reports.claims_document import claim_rows, judge_tables, summary_of_claims, table_rows
from hpo.reports.published import reports
from hpo.reports.reproduction import Cell, RangeTestResult, Reproduction
from hpo.text.files import NotUtf8, read_text, write_together
from hpo.text.formatting import count, interval, mean_and_deviation
from hpo.text.markdown import markdown_table

CLAIMS = {f"claims_{report.lower()}": report for report in ("A", "B")}  # part of the document -> report


def render(found: Reproduction, folder: Path, suffix: str = "") -> dict[str, str]:
    """Returns the document's parts, by name: a table's rows, a figure's picture, and what sums them up.

    Args:
        folder: the document's, where the pictures are that can be shown.
    """
    parts = {"summary": _summary(found), "metrics": _both_metrics(found.cells)}
    for name, item in reports().items.items():
        if name.split("_")[2] == "figure":
            picture = picture_of(name, suffix)
            there = (folder / picture).exists()
            parts[name] = f"![{item.title}]({picture})" if there else f"not drawn yet: `hpo reproduce {name}`"
        else:
            rows = table_of(name, found)
            parts[name] = markdown_table(rows) if rows else f"not measured yet: `hpo reproduce {name}`"
    parts["range_tests"] = markdown_table(_range_test_rows(found.range_tests))
    tables = judge_tables(found) if found.is_comparable else []
    parts["tables"] = markdown_table(table_rows(tables)) if tables else "nothing to judge by yet"
    for name, report in CLAIMS.items():
        parts[name] = markdown_table(claim_rows(found, report)) if found.is_comparable else "nothing to judge by yet"
    return parts


def table_of(item: str, found: Reproduction) -> list[list[str]]:
    """Returns the rows of an item's table, headings first; none where there is nothing to show yet."""
    if item == "report_b_table_1":
        return _parameter_rows(found.parameters)
    if item == "report_a_figure_2":
        return _range_test_rows(found.range_tests) if found.range_tests else []
    cells = [cell for cell in found.cells if cell.table == item]
    return _cell_rows(cells, judged=found.is_comparable) if cells else []


def _summary(found: Reproduction) -> str:
    if not found.cells:
        return "nothing is measured yet"
    if not found.is_comparable:
        return (
            f"Measured on {found.conditions['dataset']}: the published numbers are of another dataset, so no verdicts."
        )
    verdicts = [verdict for cell in counted(found.cells) if isinstance(verdict := judge(cell), Verdict)]
    if not verdicts:
        return f"Fewer than {FEWEST} rounds a cell: nothing to judge by."
    consistent = sum(verdict.is_consistent for verdict in verdicts)
    far = sum(bool(verdict.far) for verdict in verdicts)
    equivalent = sum(verdict.is_equivalent for verdict in verdicts)
    conditions = found.conditions
    return (
        f"{consistent} of {count(len(verdicts), 'published cell')} consistent with ours, and {far} more but for one "
        f"far round; {equivalent} surely within one point. {summary_of_claims(found)} `hpo reproduce`, "
        f"{count(conditions['rounds'], 'round')} a cell on {conditions['dataset']}, study seed {conditions['seed']}; "
        f"{_provenance(found)}."
    )


def _provenance(found: Reproduction) -> str:
    """Says where, when and with which versions all was measured."""
    measured = [*found.cells, *found.range_tests]
    devices = sorted({one.device for one in measured if one.device})
    days = sorted({one.measured[:10] for one in measured if one.measured})
    versions = {", ".join(f"{key} {value}" for key, value in one.versions.items()): None for one in measured}
    unknown = sum(not one.versions for one in measured)
    texts = [f"on {' and '.join(devices)}"] if devices else []
    texts += [f"measured {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "")] if days else []
    texts += [text for text in versions if text]
    texts += [f"of {unknown} of {len(measured)} cells and range tests neither versions nor date were kept"] * (
        unknown > 0
    )
    return "; ".join(texts)


def _cell_rows(cells: Sequence[Cell], *, judged: bool) -> list[list[str]]:
    """Errors in percent, the difference in percentage points."""
    rates = len({cell.learning_rate for cell in cells}) > 1
    at_chance = judged and any(cell.is_at_chance for cell in cells)
    rows = [["", "published", "measured", *(["difference (95 %)", "verdict"] if judged else [])]]
    for cell in cells:
        published, measured = (cell.published_mean, cell.published_std), (cell.mean, cell.std)
        row = [cell.label, *(mean_and_deviation(*figures, "%") for figures in (published, measured))]
        if judged:
            verdict = judge(cell)
            row += [_difference(verdict) if isinstance(verdict, Verdict) else "", str(verdict)]
        rows.append(row)
    if rates:
        for row, text in zip(rows, ["rate", *(f"{cell.learning_rate:.4g}" for cell in cells)], strict=True):
            row.insert(1, text)
    if at_chance:
        for row, text in zip(
            rows, ["deviation, measured / published (95 %)", *map(_ratio_of_spreads, cells)], strict=True
        ):
            row.append(text)
    return rows


def _difference(verdict: Verdict) -> str:
    low, high = verdict.difference.interval()
    return f"{verdict.difference.value:+.2f} ({interval(max(-100.0, low), min(100.0, high), '%', '+')})"


def _ratio_of_spreads(cell: Cell) -> str:
    if not cell.is_at_chance or cell.std is None or isinstance(judge(cell), str):
        return ""
    ratio = ratio_of_deviations(cell.std, len(cell.errors), cell.published_std, cell.published_rounds)
    return f"{ratio.estimate:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _both_metrics(cells: Sequence[Cell]) -> str:
    """Report A's twelve cells, read by either metric from the same networks."""
    rows = [["", "published by report A", "by recognition", "by the head"]]
    for cell in cells:
        if cell.table in ("report_a_table_1", "report_a_table_2", "report_a_table_3"):
            rows.append(
                [
                    cell.label,
                    mean_and_deviation(cell.published_mean, cell.published_std, "%"),
                    *(_mean_and_deviation(errors) for errors in (cell.errors_recognition, cell.errors_head)),
                ]
            )
    return markdown_table(rows)


def _mean_and_deviation(errors: Sequence[float]) -> str:
    return mean_and_deviation(mean(errors), stdev(errors) if len(errors) > 1 else None, "%")


def _parameter_rows(parameters: Mapping[str, Sequence[int]]) -> list[list[str]]:
    rows = [["", "published without WS", "counted", "published with WS", "counted", "verdict"]]
    for name, published in reports().parameters.items():
        counted = parameters[name]
        same = "equal" if tuple(counted) == published else "differs"
        rows.append([name, f"{published[0]:,}", f"{counted[0]:,}", f"{published[1]:,}", f"{counted[1]:,}", same])
    return rows


def _range_test_rows(tests: Sequence[RangeTestResult]) -> list[list[str]]:
    rows = [["optimizer", "published rate", "measured, mean ± deviation over rounds", "each round's optimum"]]
    for test in tests:
        optima = " ".join("diverged" if rate is None else f"{rate:.2g}" for rate in test.optima)
        deviation = "" if test.std is None else f" ± {test.std:.4f}"
        rows.append([test.optimizer, f"{test.published:g}", f"{test.mean:.4f}{deviation}", optima])
    return rows


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Returns a document whose marked places, `<!-- NAME -->` to `<!-- end -->`, hold these parts; all else stays."""

    def filled(place: re.Match[str]) -> str:
        name = place.group(1)
        return f"<!-- {name} -->\n{parts[name]}\n<!-- end -->"

    return re.sub(rf"<!-- ({'|'.join(parts)}) -->\n.*?<!-- end -->", filled, text, flags=re.DOTALL)


def write_document(folder: Path, suffix: str, found: Reproduction) -> Path:
    """Writes reproduction.md, or fills the one that is there, and reproduction.json; returns the former.

    What stands in them of other tables than were found now, stays.

    Args:
        suffix: of the studies' names, where they are not the shipped ones: the document is another, and says so.
    """
    document = folder / f"reproduction{suffix}.md"
    kept = document.with_suffix(".json")
    if kept.exists():
        found = found.added_to(Reproduction.read(kept))
    try:
        text = read_text(document) if document.exists() else _blank_document(suffix)
    except NotUtf8 as error:
        raise RequestError(f"document {document} cannot be filled: {error}") from error
    write_together({document: fill(text, render(found, folder, suffix)), kept: found.as_json()})
    return document


def picture_of(item: str, suffix: str) -> str:
    """Returns the path of a figure, beside the document."""
    return f"figures{suffix}/{item}.png"


def looked_at(suffix: str) -> str:
    """Returns what a quick look's studies differ in, from the suffix of their names: `digits 2 rounds`."""
    return suffix.strip("-").replace("-", " ")


def _blank_document(suffix: str) -> str:
    title = "Two reports, measured again"
    if suffix:
        title = f"A quick look at the two reports ({looked_at(suffix)}), which is no reproduction"
    lines = [f"# {title}", "", "<!-- summary -->\n<!-- end -->"]
    lines += ["## All cells of a table together", "<!-- tables -->\n<!-- end -->"]
    for name, report in CLAIMS.items():
        lines += [f"## What report {report} claims", f"<!-- {name} -->\n<!-- end -->"]
    for name, item in reports().items.items():
        lines += [f"## {item.title}", f"<!-- {name} -->\n<!-- end -->"]
        if name == "report_a_table_3":
            lines += ["## Both metrics", "<!-- metrics -->\n<!-- end -->"]
        if name == "report_a_figure_2":
            lines.append("<!-- range_tests -->\n<!-- end -->")
    return "\n\n".join(line for line in lines if line) + "\n"
