"""What the search beyond the reports found: keeps it, fills the tables of its document, and draws the figures.

    hpo ablate … --json > ablation.json                                   # docs/beyond.md names all commands
    python -m benchmarks.beyond --keep sqlite:///hpo.db --ablation ablation.json
    python -m benchmarks.beyond                                           # tables and figures again, from what is kept

Times are of one core: a worker trains on one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import plotly.graph_objects as go
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from plotly.subplots import make_subplots

from hpo.analysis.contrasts import measured
from hpo.analysis.results import read_entries
from hpo.analysis.statistics import paired_difference
from hpo.report.costs import cost_ticks
from hpo.report.figures import COLOURS, LAYOUT, write_pngs
from hpo.reports.document import fill
from hpo.storage.artifacts import files_of_trials
from hpo.storage.backends import open_storage
from hpo.storage.queries import StoredTrial, read_trials
from hpo.storage.studies import own_studies, read_card
from hpo.study.examples import EXAMPLES_FILE
from hpo.text.formatting import change, interval, lasted, mean_and_deviation, p_value
from hpo.text.markdown import markdown_table

KEPT = Path(__file__).with_suffix(".json")
DOCUMENT = Path(__file__).parent.parent / "docs" / "beyond.md"
SEARCHES = {
    "beyond": "networks and training",
    "beyond_augmented": "augmentation",
    "beyond_sizes": "widths and epochs",
    "beyond_epochs": "more epochs, and 25",
    "beyond_longest": "the most epochs",
}
CHAMPIONS = ("champion", "champion_ensemble")
ONE, FIVE = "Champion", "The mean of five champions"  # their labels
DECISIONS = ("recognition", "posterior", "head")
PARTS = {"whole_without": "without", "base_with": "alone", "path": "path"}  # of the document, and of the ablation
SHOWN_ERRORS = (0.5, 1.1)  # percent, of the tuning curve
HOUR = 3600.0


def kept(storages: Sequence[RDBStorage], ablation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what is kept of the studies, each from the storage that has it, those of them that are there."""
    has = {name: storage for storage in storages for name in own_studies(storage)}
    return {
        "searches": {name: [*map(_brief, read_trials(has[name], name))] for name in SEARCHES if name in has},
        "champions": [row for name in CHAMPIONS if name in has for row in _champions(has[name], name)],
        "ablation": ablation and _with_more(ablation, [(has[name], name) for name in has if "-ablation" in name]),
    }


def _with_more(ablation: Mapping[str, Any], studies: Sequence[tuple[RDBStorage, str]]) -> dict[str, Any]:
    """Returns an ablation, and of each configuration what `hpo ablate` leaves out: its head's errors, and its time."""
    trials = [trial for study in studies for _, trial in read_entries(*study)]
    more = {
        _key(trial.params): {"head": trial.attributes["errors_head"], "seconds": trial.attributes["seconds"]}
        for trial in trials
    }

    def with_more(one: Mapping[str, Any]) -> dict[str, Any]:
        return {**one, **more[_key(one["params"])]}

    return {
        **ablation,
        **{name: with_more(ablation[name]) for name in ("base", "whole")},
        **{name: [with_more(one) for one in ablation[name]] for name in PARTS.values()},
    }


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def added(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is kept once there is more of it: what was not found now, or less of it, stays as it was."""
    champions = {one["label"]: one for one in (*old["champions"], *new["champions"])}
    found = [one["searches"] for one in (new, old)]  # of as many trials the new ones
    searches = {name: max((one.get(name, []) for one in found), key=_finished) for name in SEARCHES}
    return {
        "searches": {name: trials for name, trials in searches.items() if trials},
        "champions": [*champions.values()],
        "ablation": new["ablation"] or old["ablation"],
    }


def _brief(trial: StoredTrial) -> dict[str, Any]:
    seconds = (trial.finished - trial.started).total_seconds() if trial.finished and trial.started else 0.0
    return {
        **{"state": trial.state.name, "value": trial.value, "params": trial.params, "seconds": seconds},
        **{name: trial.attributes.get(name) for name in ("std", "parameters")},
    }


def _champions(storage: RDBStorage, study: str) -> list[dict[str, Any]]:
    metric, examples = read_card(storage, study).metric, files_of_trials(storage, study, EXAMPLES_FILE)
    rows = []
    for entry, trial in read_entries(storage, study):
        found = measured(entry.label, trial.number, trial, metric, examples)
        intervals = {"mean": found.mean, "new": found.on_new}
        rows.append(
            {
                **{"label": entry.label, "params": trial.params},
                **{name: trial.attributes[name] for name in ("seconds", "parameters", "device", "versions")},
                "errors": {name: trial.attributes[f"errors_{name}"] for name in DECISIONS},
                **{name: one and [one.low, one.high] for name, one in intervals.items()},
            }
        )
    return rows


def parts_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Returns the document's parts by name, in Markdown."""
    parts = {"search": markdown_table(_search_rows(found["searches"])), "champions": "not measured yet"}
    if found["champions"]:
        parts["champions"] = markdown_table(_champion_rows(found["champions"]))
    by_label = {one["label"]: one["errors"]["recognition"] for one in found["champions"]}
    parts["five"] = _five(by_label[FIVE], by_label[ONE]) if {ONE, FIVE} <= by_label.keys() else "not measured yet"
    for name, of in PARTS.items():
        shown = found["ablation"] and _step_rows(found["ablation"], of)
        parts[name] = markdown_table(shown) if shown else "not measured yet"
    return parts


def _five(errors: Sequence[float], others: Sequence[float]) -> str:
    """Returns how the mean of five differs from one, over the rounds that both have: the first."""
    both = min(len(errors), len(others))
    errors, others = errors[:both], others[:both]
    by, fewer = paired_difference(errors, others), sum(five < one for five, one in zip(errors, others, strict=True))
    return (
        f"On the {both} rounds that both have, the mean of five differs from the champion by "
        f"{change(by.estimate, '%', by.standard_error)} points (95 %: {by.text('%', '+')}; p {p_value(by.p_value)}); "
        f"it errs less in {fewer} of them."
    )


def _search_rows(searches: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    rows = [["", "trials", "to the end", "core-hours", "best, on validation pairs (%)"]]
    for name, trials in searches.items():
        complete = _complete(trials)
        best = min(complete, key=lambda one: one["value"])
        hours = sum(one["seconds"] for one in trials) / HOUR
        value = mean_and_deviation(best["value"], best["std"], "%")
        rows.append([SEARCHES[name], str(_finished(trials)), str(len(complete)), f"{hours:.1f}", value])
    return rows


def _complete(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in trials if one["state"] == TrialState.COMPLETE.name]


def _finished(trials: Sequence[Mapping[str, Any]]) -> int:
    return sum(one["state"] in (TrialState.COMPLETE.name, TrialState.PRUNED.name) for one in trials)


def _champion_rows(champions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [
        [
            *("", "rounds", "epochs", "by recognition (%)", "its mean, 95 %", "on new digits"),
            *("by posterior (%)", "by the head (%), standard error", "parameters", "a round"),
        ]
    ]
    for one in champions:
        errors = one["errors"]
        rounds, head = len(errors["recognition"]), errors["head"]
        decided = {name: mean_and_deviation(mean(errors[name]), stdev(errors[name]), "%") for name in DECISIONS}
        ends = ["" if ends is None else interval(ends[0], ends[1], "%") for ends in (one["mean"], one["new"])]
        rows.append(
            [
                *(
                    one["label"],
                    str(rounds),
                    str(one["params"]["epochs"]),
                    decided["recognition"],
                    *ends,
                    decided["posterior"],
                ),
                f"{decided['head']}, {stdev(head) / sqrt(rounds):.3f}",
                *(f"{one['parameters']:,}".replace(",", " "), lasted(one["seconds"] / rounds)),
            ]
        )
    return rows


def _step_rows(ablation: Mapping[str, Any], part: str) -> list[list[str]]:
    is_taken_out = part == "without"
    rows = [["taken out" if is_taken_out else "put in", "error (%)", "change (points)", "95 %", "p", "by the head (%)"]]
    start = ablation["whole" if is_taken_out else "base"]
    whence = "nothing: the champion" if is_taken_out else "nothing: report A's best"
    rows.append([whence, *(mean_and_deviation(start["mean"], start["std"], "%"), "", "", ""), _head(start)])
    for one in ablation[part]:
        error, called = mean_and_deviation(one["mean"], one["std"], "%"), _called(one["ingredient"], is_taken_out)
        if any(one["diverged"]):
            before, after = one["diverged"]
            called += f" (diverged in {after} of {len(one['errors'])} rounds, before in {before})"
        if one["difference"] is None:  # there is no round in which both converged
            rows.append([called, error, "", "", "", _head(one)])
            continue
        ends = interval(one["difference_low"], one["difference_high"], "%", "+")
        rows.append([called, error, change(one["difference"], "%"), ends, p_value(one["p_value"]), _head(one)])
    return rows


def _head(one: Mapping[str, Any]) -> str:
    return mean_and_deviation(mean(one["head"]), stdev(one["head"]), "%")


def _called(ingredient: Mapping[str, Any], is_taken_out: bool = False) -> str:
    """Returns an ingredient's name, and where few parameters differ, their values before and after."""
    names = ingredient["names"]
    if len(names) > 2:
        return ", ".join(name.replace("_", " ") for name in names)
    sides = [ingredient[side] for side in ("base", "whole")]
    before, after = sides[::-1] if is_taken_out else sides
    return ", ".join(
        f"{name.replace('_', ' ')} {before.get(name, 'none')} → {after.get(name, 'none')}" for name in names
    )


def figures_of(found: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Returns the document's figures by name: how the search went, what errors cost, and the way to the champion."""
    figures = {"beyond_search": _tuning_curve(found["searches"]), "beyond_costs": _costs(found)}
    if found["ablation"]:
        figures["beyond_path"] = _path(found["ablation"])
    return figures


def _tuning_curve(searches: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    figure, spent = go.Figure(layout=LAYOUT), 0.0
    for (name, trials), colour in zip(searches.items(), COLOURS, strict=False):
        hours, values = [], []
        for one in trials:
            spent += one["seconds"] / HOUR
            if _complete([one]):
                hours.append(spent)
                values.append(one["value"])
        marker, line = {"color": colour, "size": 6, "opacity": 0.6}, {"color": colour, "shape": "hv"}
        figure.add_scatter(x=hours, y=values, mode="markers", name=SEARCHES[name], marker=marker)
        figure.add_scatter(x=hours, y=list(accumulate(values, min)), mode="lines", line=line, showlegend=False)
    figure.update_xaxes(title="core-hours", rangemode="tozero")
    figure.update_yaxes(title="error on validation pairs (%)", range=SHOWN_ERRORS)
    return figure


def _costs(found: Mapping[str, Any]) -> go.Figure:
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    figure.update_layout({**LAYOUT, "legend": {"orientation": "h", "y": -0.15, "yanchor": "top"}, "height": 600})
    titles = {"parameters": "parameters", "seconds": "seconds a round"}
    for column, (cost, title) in enumerate(titles.items(), 1):
        costs = []
        for i, one in enumerate(found["champions"]):
            errors = one["errors"]["recognition"]
            at = one[cost] / (len(errors) if cost == "seconds" else 1)
            costs.append(at)
            figure.add_scatter(
                x=[at], y=[mean(errors)], error_y={"array": [one["mean"][1] - mean(errors)]}, mode="markers",
                name=one["label"], marker={"size": 11, "symbol": i, "color": COLOURS[i % len(COLOURS)]},
                showlegend=column == 1, col=column, row=1,
            )  # fmt: skip
        figure.update_xaxes(title=title, type="log", **cost_ticks(min(costs), max(costs)), col=column)
    figure.update_yaxes(title="test error (%)", rangemode="tozero", col=1)
    return figure


def _path(ablation: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure(layout=LAYOUT)
    names = ["report A's best", *("+ " + _called(one["ingredient"]) for one in ablation["path"])]
    steps = [ablation["base"], *ablation["path"]]
    reach = [one["high"] - one["mean"] if one["high"] is not None else None for one in steps]
    figure.add_scatter(
        x=[one["mean"] for one in steps], y=names, mode="markers", marker={"color": COLOURS[0], "size": 9},
        error_x={"array": reach}, showlegend=False,
    )  # fmt: skip
    figure.update_xaxes(title="test error (%), with 95 % interval", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def main() -> None:
    """Keeps what there is, if asked to, and fills the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs="+", metavar="URL", help="storages of these studies; what they lack is kept")
    parser.add_argument("--ablation", type=Path, metavar="FILE", help="what hpo ablate --json printed")
    asked = parser.parse_args()
    if asked.keep:
        ablation = json.loads(asked.ablation.read_text(encoding="utf-8")) if asked.ablation else None
        new = kept([*map(open_storage, asked.keep)], ablation)
        KEPT.write_text(json.dumps(added(new, json.loads(KEPT.read_text(encoding="utf-8")))) + "\n", encoding="utf-8")
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), parts_of(found)), encoding="utf-8")
    pictures = {DOCUMENT.parent / "figures" / f"{name}.png": one for name, one in figures_of(found).items()}
    if missing := write_pngs(pictures):
        raise SystemExit(missing)


if __name__ == "__main__":
    main()
