"""The figures of a study's report: its history, errors against learning rates, importances, effects, all parameters.

They take their ink and paper from the page that shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from statistics import median
from typing import Any

import plotly.graph_objects as go
from optuna.trial import TrialState

from .effects import Effect
from .figures import COLOURS
from .records import StoredTrial
from .space import short_name

LAYOUT: dict[str, Any] = {
    "template": "none",
    "font": {"size": 13},
    "margin": {"l": 60, "r": 15, "t": 10, "b": 50},
    "height": 380,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
}
ERROR_AXIS = {"title": "test error (%)", "type": "log", "tickvals": [0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100]}
GREY = "#888888"
HIGHEST_OF_MEDIAN = 4.0  # of finished trials: a colour scale that went further would show them all alike


def history_figure(trials: Sequence[StoredTrial]) -> go.Figure:
    """Draws trials in their order: each round as a dot, the mean, the best so far; the pruned, as far as they got."""
    figure = go.Figure(layout=LAYOUT)
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED and last_mean(trial) is not None]
    figure.add_scatter(
        x=[trial.number for trial in pruned], y=list(map(last_mean, pruned)), name="pruned, when last measured",
        mode="markers", marker={"symbol": "x-thin-open", "size": 5, "color": GREY}, hovertext=list(map(_about, pruned)),
    )  # fmt: skip
    rounds = [(trial, error) for trial in whole for error in trial.attributes["errors"]]
    figure.add_scatter(
        x=[trial.number for trial, _ in rounds], y=[error for _, error in rounds], name="each round", mode="markers",
        marker={"size": 4, "color": COLOURS[5], "opacity": 0.6}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=[trial.number for trial in whole], y=[trial.value for trial in whole], name="mean", mode="markers",
        marker={"size": 7, "color": COLOURS[0]}, hovertext=list(map(_about, whole)),
    )  # fmt: skip
    best: list[float] = []
    for trial in whole:
        best.append(min([trial.value or 0.0, *best[-1:]]))
    figure.add_scatter(
        x=[trial.number for trial in whole], y=best, name="best so far", mode="lines",
        line={"shape": "hv", "color": COLOURS[1], "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    figure.update_xaxes(title="trial")
    figure.update_yaxes(**ERROR_AXIS)
    return figure


def rates_figure(trials: Sequence[StoredTrial]) -> go.Figure:
    """Draws the error against the learning rate, a colour for each optimizer; what was pruned, as far as it got."""
    figure = go.Figure(layout=LAYOUT)
    names = sorted({trial.params["optimizer"] for trial in trials})
    for name, colour in zip(names, COLOURS, strict=False):
        for state, symbol, opacity in ((TrialState.COMPLETE, "circle", 1.0), (TrialState.PRUNED, "x-thin-open", 0.6)):
            shown = [
                trial
                for trial in trials
                if trial.state is state and trial.params["optimizer"] == name and last_mean(trial) is not None
            ]
            figure.add_scatter(
                x=[trial.params["learning_rate"] for trial in shown], y=[last_mean(trial) for trial in shown],
                name=name, legendgroup=name, showlegend=state is TrialState.COMPLETE, mode="markers", opacity=opacity,
                marker={"symbol": symbol, "size": 7, "color": colour}, hovertext=list(map(_about, shown)),
            )  # fmt: skip
    figure.update_xaxes(title="learning rate", type="log", dtick=1, exponentformat="power")
    figure.update_yaxes(**ERROR_AXIS)
    return figure


def importances_figure(importances: Mapping[str, float]) -> go.Figure:
    """Draws the importances as bars, the largest on top."""
    names = sorted(importances, key=importances.__getitem__)
    figure = go.Figure(layout={**LAYOUT, "height": 110 + 32 * len(names)})
    figure.add_bar(
        x=[importances[name] for name in names], y=[_words(name) for name in names], orientation="h",
        marker={"color": COLOURS[0]}, texttemplate="%{x:.0%}", textposition="auto",
    )  # fmt: skip
    figure.update_xaxes(title="importance", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def effects_figure(effects: Sequence[Effect]) -> go.Figure:
    """Draws each effect with its interval; left of zero is better."""
    shown = list(reversed(effects))
    figure = go.Figure(layout={**LAYOUT, "height": 110 + 36 * len(shown), "showlegend": False})
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash"})
    figure.add_scatter(
        x=[effect.difference.estimate for effect in shown], y=list(map(effect_name, shown)), mode="markers",
        marker={"size": 9, "color": COLOURS[0]},
        error_x={
            "array": [effect.difference.high - effect.difference.estimate for effect in shown], "thickness": 2,
        },
    )  # fmt: skip
    figure.update_xaxes(title="change of the error, percentage points (95 %)")
    figure.update_yaxes(automargin=True)
    return figure


def parallel_figure(trials: Sequence[StoredTrial]) -> go.Figure:
    """Draws every trial that was measured to the end as a line through its parameters; the darker, the better."""
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    shared = [name for name in whole[0].params if all(name in trial.params for trial in whole)]
    values = [trial.value or 0.0 for trial in whole]
    ends = [min(values), min(HIGHEST_OF_MEDIAN * median(values), max(values))]
    dimensions: list[dict[str, Any]] = []
    for name in shared:
        given = [trial.params[name] for trial in whole]
        if name == "learning_rate":
            dimensions.append(_log_dimension(_words(name), given))
            continue
        choices = sorted(set(given), key=str)
        dimensions.append(
            {
                "label": _words(name),
                "values": [choices.index(value) for value in given],
                "tickvals": list(range(len(choices))),
                "ticktext": [_value(choice) for choice in choices],
            }
        )
    figure = go.Figure(layout={**LAYOUT, "margin": {"l": 60, "r": 60, "t": 60, "b": 20}, "height": 420})
    figure.add_parcoords(
        dimensions=[*dimensions, {"label": "error (%)", "values": values, "range": ends}],
        line={"color": values, "colorscale": "Viridis", "cmin": ends[0], "cmax": ends[1]},
        labelangle=-15,
    )  # fmt: skip
    return figure


def last_mean(trial: StoredTrial) -> float | None:
    """Returns the mean error that a trial reached, at the last epoch that was measured; None where none was."""
    if trial.value is not None:
        return trial.value
    curve: Mapping[str, Sequence[float]] = trial.attributes.get("errors_by_epoch") or {}
    if not curve:
        return None
    last = curve[max(curve, key=int)]
    return sum(last) / len(last)


def effect_name(effect: Effect) -> str:
    """Returns `batch norm: cnn → cnn_bn`, or `weight sharing`."""
    if isinstance(effect.after, bool):
        name = _words(effect.parameter)
        return f"{name}, on the head's decision" if effect.parameter == "auxiliary_loss" else name
    name = _words(effect.parameter)
    if effect.parameter == "architecture" and effect.after == f"{effect.before}_bn":
        name = "batch norm"
    return f"{name}: {_value(effect.before)} → {_value(effect.after)}"


def _log_dimension(label: str, given: Sequence[float]) -> dict[str, Any]:
    exponents = [log10(value) for value in given]
    ticks = range(floor(min(exponents)), ceil(max(exponents)) + 1)
    return {"label": label, "values": exponents, "tickvals": list(ticks), "ticktext": [f"{10.0**t:g}" for t in ticks]}


def _about(trial: StoredTrial) -> str:
    return f"trial {trial.number}: {short_name(trial.params)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
