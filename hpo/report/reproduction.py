"""What was reproduced, as a document: tables in Markdown, figures as pictures, in the marked places of a text.

The document is written by a person but for the places between `<!-- NAME -->` and `<!-- end -->`, which are filled anew
each time; what stands between them stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import plotly.graph_objects as go
from optuna.storages import RDBStorage

from hpo.analysis.reproduction import (
    CONSISTENT,
    Cell,
    Item,
    RangeTestResult,
    Reproduction,
    judge,
    reports,
)
from hpo.analysis.results import read_entries
from hpo.analysis.statistics import ratio_of_deviations
from hpo.errors import RequestError
from hpo.limits import FEWEST_ROUNDS
from hpo.report.figures import Bar, bars_figure, gradient_norms_figure, losses_figure, network_figure, range_test_figure
from hpo.storage.queries import study_attributes
from hpo.storage.studies import own_studies
from hpo.study.range_tests import read_range_tests
from hpo.text.files import NotUtf8, read_text, write_together
from hpo.text.formatting import count, interval, mean_and_deviation
from hpo.text.markdown import markdown_table
from hpo.training.lr_curve import from_json

REPORT_B_MODELS = {
    "report_b_figure_6": "Fully connected",
    "report_b_figure_7": "Simple convolutional",
    "report_b_figure_8": "Residual",
}


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
    verdicts = [verdict for verdict in map(judge, found.cells) if verdict]
    if not verdicts:
        return f"Fewer than {FEWEST_ROUNDS} rounds a cell: nothing to judge by."
    consistent = sum(verdict.is_consistent for verdict in verdicts)
    near = sum(abs(verdict.standard_errors) <= CONSISTENT for verdict in verdicts)
    conditions = found.conditions
    versions = "; ".join(", ".join(f"{key} {value}" for key, value in one.items()) for one in conditions["versions"])
    return (
        f"{consistent} of {count(len(verdicts), 'measured cell')} consistent with the published: "
        f"{count(near, 'mean')} at most three standard errors away, and of these {consistent} with a like spread. "
        "`hpo reproduce`, "
        f"{count(conditions['rounds'], 'round')} a cell on {conditions['dataset']}, study seed {conditions['seed']}, "
        f"on {' and '.join(conditions['devices'])}; {versions}."
    )


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
            reach = f"{verdict.difference:+.2f} ({interval(verdict.low, verdict.high, '%', '+')})" if verdict else ""
            row += [reach, str(verdict or "")]
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


def _ratio_of_spreads(cell: Cell) -> str:
    if not cell.is_at_chance or cell.std is None or judge(cell) is None:
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
    for name, item in reports().items.items():
        lines += [f"## {item.title}", f"<!-- {name} -->\n<!-- end -->"]
        if name == "report_a_table_3":
            lines += ["## Both metrics", "<!-- metrics -->\n<!-- end -->"]
        if name == "report_a_figure_2":
            lines.append("<!-- range_tests -->\n<!-- end -->")
    return "\n\n".join(line for line in lines if line) + "\n"


def draw(
    item: str, storage: RDBStorage | None, names: Mapping[str, str], found: Reproduction, networks: Mapping[str, Any]
) -> go.Figure | None:
    """Draws a report's figure from what was measured; None where that is not enough yet.

    Args:
        names: study -> its name in the storage.
        networks: architecture -> what `describe` in network_summary.py says of it.
    """
    wanted = reports().items[item]
    if "figure" not in item:
        return None
    if not wanted.studies:
        return network_figure(wanted.title, networks[wanted.architectures[0]]["layers"])
    if storage is None:
        return None
    known = {study: names[study] for study in wanted.studies if names[study] in own_studies(storage)}
    if item == "report_a_figure_2":
        return draw_range_tests(storage, known["report_a_table_5"]).get("sgd") if known else None
    if item == "report_b_figure_5":
        return _draw_bars(wanted, found)
    trials = {entry.label: trial.attributes for name in known.values() for entry, trial in read_entries(storage, name)}
    if item == "report_a_figure_1":
        return _draw_norms(wanted.title, trials, networks)
    return _draw_losses(wanted.title, REPORT_B_MODELS[item], trials)


Kept = Mapping[str, Mapping[str, Any]]  # label of a listed trial -> its attributes


def _draw_norms(title: str, trials: Kept, networks: Mapping[str, Any]) -> go.Figure | None:
    shown = {"CNN + WS + AL": "cnn", "CNN + BN + WS + AL": "cnn_bn"}
    norms: dict[str, Any] = {
        label: _by_kind(trials[label]["gradient_norms"], networks[architecture]["layers"])
        for label, architecture in shown.items()
        if "gradient_norms" in trials.get(label, {})  # kept where the study's [run] says so
    }
    return gradient_norms_figure(title, norms) if norms else None


def _draw_bars(item: Item, found: Reproduction) -> go.Figure | None:
    bars = [
        Bar(cell.label, cell.published_mean, cell.published_std, cell.mean, cell.std)
        for cell in found.cells
        if cell.table in item.studies
    ]
    return bars_figure(item.title, bars) if bars else None


def _draw_losses(title: str, model: str, trials: Kept) -> go.Figure | None:
    settings = [model + suffix for suffix in ("", " + AL", " + WS", " + WS + AL")]
    losses = {key: trials[key]["losses_by_step"] for key in settings if "losses_by_step" in trials.get(key, {})}
    return losses_figure(title, losses) if losses else None


def draw_range_tests(storage: RDBStorage, study: str) -> dict[str, go.Figure]:
    """Draws the range tests that a study has kept, by optimizer."""
    return {
        stored["optimizer"]: range_test_figure(f"Loss against learning rate, {stored['optimizer']}", from_json(stored))
        for stored in read_range_tests(study_attributes(storage, study))
    }


def _by_kind(norms: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names layers by kind and number; without batch norms, so that networks with and without have the same."""
    counts: Counter[str] = Counter()
    named = {}
    for layer in layers:
        kind = str(layer["kind"]).partition("(")[0]
        if kind in ("Conv2d", "Linear"):
            part = f"{layer['name'].partition('.')[0].removesuffix('s')} {kind}"
            counts[part] += 1
            named[f"{part} {counts[part]}"] = norms[layer["name"]]
    return named
