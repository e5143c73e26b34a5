"""What the search beyond the reports found: keeps it, and fills the tables and draws the figures that tell it.

    hpo ablate … --json > ablation.json                                   # docs/beyond.md names all commands
    python -m benchmarks.beyond --keep sqlite:///beyond.db ablation.json
    python -m benchmarks.beyond                                           # tables and figures again, from what is kept

Times are of one core: a worker trains on one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import plotly.graph_objects as go
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.contrasts import measured
from hpo.analysis.results import read_entries
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
SEARCHES = {"beyond": "the search", "beyond_longer": "longer training, around its best"}
CHAMPION = "champion"
DECISIONS = ("recognition", "posterior", "head")
PARTS = {"whole_without": "without", "base_with": "alone", "path": "path"}  # of the document, and of the ablation
HOUR = 3600.0


def kept(storage: RDBStorage, ablation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what is kept of the studies in a storage, those of them that are there."""
    there = own_studies(storage)
    searches = {name: [*map(_brief, read_trials(storage, name))] for name in SEARCHES if name in there}
    return {
        "searches": searches,
        "champion": _champion(storage) if CHAMPION in there else [],
        "ablation": ablation,
    }


def _brief(trial: StoredTrial) -> dict[str, Any]:
    seconds = (trial.finished - trial.started).total_seconds() if trial.finished and trial.started else None
    return {
        **{"state": trial.state.name, "value": trial.value, "params": trial.params, "seconds": seconds},
        **{name: trial.attributes.get(name) for name in ("std", "parameters")},
    }


def _champion(storage: RDBStorage) -> list[dict[str, Any]]:
    metric, examples = read_card(storage, CHAMPION).metric, files_of_trials(storage, CHAMPION, EXAMPLES_FILE)
    rows = []
    for entry, trial in read_entries(storage, CHAMPION):
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
    parts = {"search": markdown_table(_search_rows(found["searches"])), "champion": "not measured yet"}
    if found["champion"]:
        parts["champion"] = markdown_table(_champion_rows(found["champion"]))
    for name, of in PARTS.items():
        parts[name] = markdown_table(_step_rows(found["ablation"][of])) if found["ablation"] else "not measured yet"
    return parts


def _search_rows(searches: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    rows = [["", "trials", "to the end", "core-hours", "best, on validation pairs"]]
    for name, title in SEARCHES.items():
        if not (trials := searches.get(name)):
            continue
        complete = [one for one in trials if one["state"] == TrialState.COMPLETE.name]
        best = min(complete, key=lambda one: one["value"])
        hours = sum(one["seconds"] or 0.0 for one in trials) / HOUR
        finished = sum(one["state"] in (TrialState.COMPLETE.name, TrialState.PRUNED.name) for one in trials)
        value = mean_and_deviation(best["value"], best["std"], "%")
        rows.append([title, str(finished), str(len(complete)), f"{hours:.1f}", f"{value} %"])
    return rows


def _champion_rows(champion: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [
        ["", *(f"by {name} (%)" for name in DECISIONS), "95 % of the first", "on new digits", "parameters", "a round"]
    ]
    for one in champion:
        errors, rounds = one["errors"], len(one["errors"]["recognition"])
        both = ["" if ends is None else interval(ends[0], ends[1], "%") for ends in (one["mean"], one["new"])]
        decided = [mean_and_deviation(mean(errors[name]), stdev(errors[name]), "%") for name in DECISIONS]
        rows.append(
            [one["label"], *decided, *both, f"{one['parameters']:,}".replace(",", " "), lasted(one["seconds"] / rounds)]
        )
    return rows


def _step_rows(steps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["ingredient", "from the base to the whole", "error (%)", "change (points)", "95 %", "p"]]
    for one in steps:
        ingredient = one["ingredient"]
        names = ", ".join(name.replace("_", " ") for name in ingredient["names"])
        sides = [", ".join(map(str, side.values())) or "none" for side in (ingredient["base"], ingredient["whole"])]
        difference = "" if one["difference"] is None else change(one["difference"], "%")
        ends = interval(one["difference_low"], one["difference_high"], "%", "+")
        error = mean_and_deviation(one["mean"], one["std"], "%")
        rows.append([names, " → ".join(sides), error, difference, ends, p_value(one["p_value"])])
    return rows


def figures_of(found: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Returns the document's figures by name: how the search went, what errors cost, and the way to the champion."""
    figures = {"beyond_search": _tuning_curve(found["searches"]), "beyond_costs": _costs(found)}
    if found["ablation"]:
        figures["beyond_path"] = _path(found["ablation"])
    return figures


def _tuning_curve(searches: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    figure = go.Figure(layout=LAYOUT)
    spent = 0.0
    for (name, title), colour in zip(SEARCHES.items(), COLOURS, strict=False):
        hours, values, best = [], [], []
        for one in searches.get(name, ()):
            spent += (one["seconds"] or 0.0) / HOUR
            if one["state"] == TrialState.COMPLETE.name:
                hours.append(spent)
                values.append(one["value"])
                best.append(min(values))
        figure.add_scatter(x=hours, y=values, mode="markers", name=title, marker={"color": colour, "size": 6})
        line = {"color": colour, "shape": "hv"}
        figure.add_scatter(x=hours, y=best, mode="lines", name="best so far", line=line)
    figure.update_xaxes(title="core-hours", rangemode="tozero")
    figure.update_yaxes(title="error on validation pairs (%)")
    return figure


def _costs(found: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure(layout=LAYOUT)
    for (name, title), colour in zip(SEARCHES.items(), COLOURS, strict=False):
        trials = [one for one in found["searches"].get(name, ()) if one["state"] == TrialState.COMPLETE.name]
        x, y = [[one[axis] for one in trials] for axis in ("parameters", "value")]
        figure.add_scatter(x=x, y=y, mode="markers", name=title, marker={"color": colour, "size": 6})
    x = [one["parameters"] for one in found["champion"]]
    y = [mean(one["errors"]["recognition"]) for one in found["champion"]]
    labels = [one["label"] for one in found["champion"]]
    marker = {"color": COLOURS[2], "size": 10, "symbol": "diamond"}
    figure.add_scatter(x=x, y=y, mode="markers+text", text=labels, name="confirmed", marker=marker)
    figure.update_traces(textposition="top center")
    figure.update_xaxes(title="parameters", type="log", dtick=1, exponentformat="power")
    figure.update_yaxes(title="error (%)")
    return figure


def _path(ablation: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure(layout=LAYOUT)
    names = ["the base", *("+ " + ", ".join(one["ingredient"]["names"]) for one in ablation["path"])]
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
    parser.add_argument("--keep", nargs="+", metavar="URL", help="a storage, and what hpo ablate --json printed")
    if asked := parser.parse_args().keep:
        ablation = json.loads(Path(asked[1]).read_text(encoding="utf-8")) if len(asked) > 1 else None
        KEPT.write_text(json.dumps(kept(open_storage(asked[0]), ablation)) + "\n", encoding="utf-8")
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), parts_of(found)), encoding="utf-8")
    if missing := write_pngs(
        {DOCUMENT.parent / "figures" / f"{name}.png": one for name, one in figures_of(found).items()}
    ):
        raise SystemExit(missing)


if __name__ == "__main__":
    main()
