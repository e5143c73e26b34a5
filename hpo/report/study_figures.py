"""The figures of a study's report: its history, errors against learning rates, importances, effects, all parameters.

They take their ink and paper from the page that shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, floor, log10
from typing import Any

import plotly.graph_objects as go
from optuna.trial import TrialState

from hpo.analysis.effects import Effect
from hpo.report.figures import COLOURS
from hpo.storage.queries import StoredTrial
from hpo.study.card import MetricCard
from hpo.study.definition import StudyDefinition
from hpo.text.formatting import spread, text_of
from hpo.text.short_names import short_name

LAYOUT: dict[str, Any] = {
    "template": "none",
    "font": {"size": 13},
    "margin": {"l": 60, "r": 15, "t": 10, "b": 50},
    "height": 380,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
}
MOST = 1000  # trials in a figure, the best: a page is to open on a phone
GREY = "#888888"
SHARES = (  # of the trials, the best first: up to which, its name, its line, its opacity
    (0.1, "the best tenth", {"color": COLOURS[1], "width": 2}, 1.0),
    (0.5, "the better half", {"color": COLOURS[0], "width": 1}, 0.75),
    (1.0, "the others", {"color": GREY, "width": 1}, 0.5),
)
MOST_TICKS = 8  # on an axis of numbers; else its ends


def history_figure(trials: Sequence[StoredTrial], metric: MetricCard) -> go.Figure:
    """Draws trials in their order: each round as a dot, the mean, the best so far; the pruned, as far as they got."""
    figure = _errors_figure(trials, [trial.number for trial in trials], metric)
    whole = _whole(trials, metric)
    best = list(accumulate((_shown(trial.value, metric) for trial in whole), max if metric.maximize else min))
    figure.add_scatter(
        x=[trial.number for trial in whole], y=best, name="best so far", mode="lines",
        line={"shape": "hv", "color": COLOURS[1], "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    figure.update_xaxes(title="trial")
    return figure


def listed_figure(trials: Sequence[StoredTrial], labels: Sequence[str], metric: MetricCard) -> go.Figure:
    """Draws listed trials by their labels: each round as a dot, and the mean."""
    figure = _errors_figure(trials, labels, metric)
    figure.update_xaxes(tickangle=-30, type="category")
    return figure


def _errors_figure(
    trials: Sequence[StoredTrial], places: Sequence[int] | Sequence[str], metric: MetricCard
) -> go.Figure:
    figure, place = go.Figure(layout=LAYOUT), {trial.number: at for trial, at in zip(trials, places, strict=True)}
    whole = _whole(trials, metric)
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED and last_mean(trial) is not None]
    if pruned:
        figure.add_scatter(
            x=[place[trial.number] for trial in pruned], y=list(map(last_mean, pruned)), mode="markers",
            name="pruned, when last measured", marker={"symbol": "x-thin-open", "size": 5, "color": GREY},
            hovertext=list(map(_about, pruned)),
        )  # fmt: skip
    rounds = [(trial, error) for trial in whole for error in trial.attributes["errors"]]
    figure.add_scatter(
        x=[place[trial.number] for trial, _ in rounds], y=[_shown(error, metric) for _, error in rounds],
        mode="markers", name="each round", marker={"size": 4, "color": COLOURS[5], "opacity": 0.6}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=[place[trial.number] for trial in whole], y=[_shown(trial.value, metric) for trial in whole],
        name="mean", mode="markers", marker={"size": 7, "color": COLOURS[0]}, hovertext=list(map(_about, whole)),
    )  # fmt: skip
    figure.update_yaxes(**error_axis(metric))
    return figure


def rates_figure(trials: Sequence[StoredTrial], metric: MetricCard) -> go.Figure:
    """Draws the objective against the learning rate, a colour for each optimizer; what was pruned, as far as it got."""
    figure = go.Figure(layout=LAYOUT)
    measured = [*_whole(trials, metric), *(trial for trial in trials if trial.state is TrialState.PRUNED)]
    names, named = sorted({_optimizer(trial) for trial in measured}), set[str]()
    for name, colour in zip(names, COLOURS, strict=False):
        for state, symbol, opacity in ((TrialState.COMPLETE, "circle", 1.0), (TrialState.PRUNED, "x-thin-open", 0.6)):
            shown = [
                trial
                for trial in measured
                if trial.state is state and _optimizer(trial) == name and last_mean(trial) is not None
            ]
            if not shown:
                continue
            figure.add_scatter(
                x=[trial.params["learning_rate"] for trial in shown],
                y=[_shown(last_mean(trial), metric) for trial in shown],
                name=name, legendgroup=name, showlegend=name not in named, mode="markers", opacity=opacity,
                marker={"symbol": symbol, "size": 7, "color": colour}, hovertext=list(map(_about, shown)),
            )  # fmt: skip
            named.add(name)
    figure.update_xaxes(title="learning rate", type="log", dtick=1, exponentformat="power")
    figure.update_yaxes(**error_axis(metric))
    return figure


def _optimizer(trial: StoredTrial) -> str:
    return str(trial.params.get("optimizer", "trials"))  # boosting has a learning rate, and no optimizer


def importances_figure(importances: Mapping[str, float]) -> go.Figure:
    """Draws the importances as bars, the largest on top."""
    names = sorted(importances, key=importances.__getitem__)
    figure = go.Figure(layout={**LAYOUT, "height": 110 + 32 * len(names)})
    figure.add_bar(
        x=[100 * importances[name] for name in names], y=[_words(name) for name in names], orientation="h",
        marker={"color": COLOURS[0]}, texttemplate="%{x:.0f} %", textposition="auto", textangle=0,
    )  # fmt: skip
    figure.update_xaxes(title="importance", ticksuffix=" %", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def effects_figure(effects: Sequence[Effect], metric: MetricCard) -> go.Figure:
    """Draws each effect with its interval."""
    shown = list(reversed(effects))
    differences = [effect.difference for effect in shown]
    above = [0.0 if by.high is None else by.high - by.estimate for by in differences]
    below = [0.0 if by.low is None else by.estimate - by.low for by in differences]
    figure = go.Figure(layout={**LAYOUT, "height": 110 + 36 * len(shown), "showlegend": False})
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash"})
    figure.add_scatter(
        x=[effect.difference.estimate for effect in shown], y=[effect_name(effect, metric) for effect in shown],
        mode="markers", marker={"size": 9, "color": COLOURS[0]},
        error_x={"symmetric": False, "array": above, "arrayminus": below, "thickness": 2},
    )  # fmt: skip
    unit = "percentage points" if metric.unit == "%" else metric.unit or "difference"
    figure.update_xaxes(title=f"{unit} (95 %)")
    figure.update_yaxes(automargin=True)
    return figure


def parallel_figure(
    trials: Sequence[StoredTrial], names: Sequence[str], definition: StudyDefinition, metric: MetricCard
) -> go.Figure:
    """Draws every trial that was measured to the end as a line through parameters of these names, the best in front.

    Of plain lines, not plotly's own parallel coordinates, which take WebGL, and not every browser has that.
    """
    whole = _whole(trials, metric)
    shared = [name for name in names if all(name in trial.params for trial in whole)]
    logarithmic = {name for name, parameter in definition.space.items() if getattr(parameter, "log", False)}
    axes = [_axis(_words(name), [trial.params[name] for trial in whole], name in logarithmic) for name in shared]
    axes.append(
        _axis(
            f"{metric.noun} ({metric.unit})" if metric.unit else metric.noun,
            [_shown(trial.value, metric) for trial in whole],
            _is_logarithmic(metric),
        )
    )
    ranked = sorted(range(len(whole)), key=lambda i: metric.sign * (whole[i].value or 0.0))
    figure = go.Figure(layout={**LAYOUT, "height": 440, "margin": {"l": 30, "r": 30, "t": 40, "b": 50}})
    ends = [0, *(ceil(share * len(ranked)) for share, *_ in SHARES)]
    for (_, name, line, opacity), first, last in reversed(list(zip(SHARES, ends, ends[1:], strict=False))):
        x: list[int | None] = []
        y: list[float | None] = []
        about: list[str] = []
        for i in ranked[first:last]:
            x += [*range(len(axes)), None]
            y += [*(axis.places[i] for axis in axes), None]
            about += [f"{_about(whole[i])}: {spread(whole[i].value or 0.0, None, metric.unit)}"] * (len(axes) + 1)
        figure.add_scatter(
            x=x, y=y, name=name, mode="lines", line=line, opacity=opacity, hovertext=about, hoverinfo="text",
            legendrank=first,
        )  # fmt: skip
    for place, axis in enumerate(axes):
        figure.add_vline(x=place, line={"color": GREY, "width": 1})
        for text, height in axis.ticks.items():
            figure.add_annotation(
                x=place, y=height, text=text, showarrow=False, xanchor="left", xshift=3, font={"size": 11},
            )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=[axis.label for axis in axes], showgrid=False, zeroline=False,
        range=[-0.1, len(axes) - 0.6],
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.05, 1.05])
    return figure


@dataclass(frozen=True)
class _Axis:
    """A parameter's axis: where each trial crosses it, and what stands beside it, text -> height; heights 0 to 1."""

    label: str
    places: list[float]
    ticks: dict[str, float]


def _axis(label: str, given: Sequence[Any], logarithmic: bool) -> _Axis:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        scaled = [log10(value) for value in given] if logarithmic else list(given)
        low, high = min(scaled), max(scaled)
        span = high - low or 1.0
        powers = range(floor(low), ceil(high) + 1) if logarithmic else ()
        marks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        inside = [mark for mark in marks if low <= log10(mark) <= high]
        if not 2 <= len(inside) <= MOST_TICKS:
            inside = [min(given), max(given)]
        ticks = {text_of(mark): ((log10(mark) if logarithmic else mark) - low) / span for mark in inside}
        return _Axis(label, [(value - low) / span for value in scaled], ticks)
    choices = sorted(set(given), key=str)
    heights = {choice: (i + 0.5) / len(choices) for i, choice in enumerate(choices)}
    width = 0.7 / len(choices)  # lines through the same choice beside each other
    places = [heights[value] + width * (i / len(given) - 0.5) for i, value in enumerate(given)]
    return _Axis(label, places, {text_of(choice): height for choice, height in heights.items()})


def last_mean(trial: StoredTrial) -> float | None:
    """Returns the mean error that a trial reached, at the last epoch that was measured; None where none was."""
    if trial.value is not None:
        return trial.value
    curve: Mapping[str, Sequence[float]] = trial.attributes.get("errors_by_step") or {}
    if not curve:
        return None
    last = curve[max(curve, key=int)]
    return sum(last) / len(last)


def effect_name(effect: Effect, metric: MetricCard) -> str:
    """Returns `architecture: cnn → cnn_bn`, or `weight sharing`; with its metric where that is not the objective."""
    name = _words(effect.parameter)
    if not isinstance(effect.after, bool):
        name = f"{name}: {text_of(effect.before)} → {text_of(effect.after)}"
    return name if effect.metric.name == metric.name else f"{name}, on the {effect.metric.title}"


def _shown(error: float | None, metric: MetricCard) -> float:
    """Returns where an error is drawn: zero, where the axis is logarithmic, at the least that it can be besides."""
    return max(error or 0.0, metric.smallest) if metric.smallest else error or 0.0


def _is_logarithmic(metric: MetricCard) -> bool:
    return bool(metric.smallest)


def error_axis(metric: MetricCard) -> dict[str, Any]:
    """Returns what an axis of errors is to be: its title, and its scale."""
    axis: dict[str, Any] = {"title": metric.axis_title}
    if _is_logarithmic(metric):
        axis["type"] = "log"
        axis |= {"tickvals": [0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100]} if metric.unit == "%" else {}
    return axis


def _whole(trials: Sequence[StoredTrial], metric: MetricCard) -> list[StoredTrial]:
    """Returns the trials that were measured to the end; of very many, the best."""
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    chosen = {trial.number for trial in sorted(whole, key=lambda trial: metric.sign * (trial.value or 0.0))[:MOST]}
    return [trial for trial in whole if trial.number in chosen]


def _about(trial: StoredTrial) -> str:
    return f"trial {trial.number}: {short_name(trial.params)}"


def _words(name: str) -> str:
    return name.replace("_", " ")
