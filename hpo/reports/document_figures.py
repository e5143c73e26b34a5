"""The reports' figures, drawn from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from optuna.storages import RDBStorage

from hpo.analysis.results import read_entries
from hpo.report.figures import Bar, bars_figure, gradient_norms_figure, losses_figure, network_figure, range_test_figure
from hpo.reports.curves import by_kind
from hpo.reports.published import Item, reports
from hpo.reports.reproduction import Reproduction
from hpo.storage.queries import study_attributes
from hpo.storage.studies import own_studies
from hpo.study.range_tests import read_range_tests
from hpo.training.lr_curve import from_json

REPORT_B_MODELS = {
    "report_b_figure_6": "Fully connected",
    "report_b_figure_7": "Simple convolutional",
    "report_b_figure_8": "Residual",
}
NORMED = {"CNN": "cnn", "CNN + BN": "cnn_bn"}  # report A's figure 1: row by row without batch norm, and with it
FLAGS = ("", " + AL", " + WS", " + WS + AL")


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
    """Draws all four networks without batch norm on the left, with it on the right."""
    shown = {net + flags: architecture for flags in FLAGS for net, architecture in NORMED.items()}
    norms: dict[str, Any] = {
        label: by_kind(trials[label]["gradient_norms"], networks[architecture]["layers"])
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
    settings = [model + flags for flags in FLAGS]
    losses = {key: trials[key]["losses_by_step"] for key in settings if "losses_by_step" in trials.get(key, {})}
    return losses_figure(title, losses) if losses else None


def draw_range_tests(storage: RDBStorage, study: str) -> dict[str, go.Figure]:
    """Draws the range tests that a study has kept, by optimizer."""
    return {
        stored["optimizer"]: range_test_figure(f"Loss against learning rate, {stored['optimizer']}", from_json(stored))
        for stored in read_range_tests(study_attributes(storage, study))
    }
