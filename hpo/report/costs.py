"""What an error costs: every trial's against its parameters and its seconds, and those that nothing beats in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor, log10
from typing import Any

import plotly.graph_objects as go

from hpo.report.figures import COLOURS
from hpo.report.sections import Section, error_of, name_of, ranked
from hpo.report.study_figures import GREY, LAYOUT, MOST, error_axis
from hpo.storage.queries import StoredTrial
from hpo.study.card import MetricCard
from hpo.study.definition import StudyDefinition
from hpo.text.formatting import capitalized, lasted

FEWEST = 3  # trials of different costs that make a figure
FEWEST_TICKS, MOST_TICKS = 3, 8


def _lasted(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 9.5 else lasted(seconds)


COSTS: Sequence[
    tuple[str, str, Callable[[float], str], str]
] = (  # attribute of a trial, what it is called, how it is written, what is to be known of it
    ("parameters", "parameters", lambda cost: f"{cost:,.0f}".replace(",", " "), ""),
    ("seconds", "time", _lasted, " Times are those of each trial's own machine, with whatever ran beside it."),
)


def cost_sections(trials: Sequence[StoredTrial], definition: StudyDefinition, metric: MetricCard) -> Iterator[Section]:
    """Yields a section for each kind of cost in which trials differ."""
    for attribute, noun, write, note in COSTS:
        measured = [one for one in ranked(trials, metric) if one.attributes.get(attribute)]
        if len({one.attributes[attribute] for one in measured}) < FEWEST:
            continue
        front = pareto_front(measured, attribute, metric)
        rows = [["trial", noun, metric.noun, "configuration"]]
        rows += [
            [str(one.number), write(one.attributes[attribute]), error_of(one, metric), name_of(one, definition)]
            for one in front
        ]
        text = [
            f"The line goes through those that no trial beats in both. They are chosen for their {metric.noun} as "
            f"measured, so hpo confirm tells how good each is.{note}"
        ]
        title = f"{capitalized(metric.noun)} against {noun}"
        yield Section(attribute, title, text, rows, cost_figure(measured, front, attribute, metric))


def pareto_front(trials: Sequence[StoredTrial], attribute: str, metric: MetricCard) -> list[StoredTrial]:
    """Returns the trials that are better than all that cost no more, the cheapest first.

    Args:
        trials: measured to the end, each with the attribute.
    """
    front: list[StoredTrial] = []
    by_cost = sorted(trials, key=lambda one: (one.attributes[attribute], metric.sign * (one.value or 0.0)))
    for one in by_cost:
        if not front or metric.sign * (one.value or 0.0) < metric.sign * (front[-1].value or 0.0):
            front.append(one)
    return front


def cost_ticks(low: float, high: float) -> dict[str, Any]:
    """Returns the ticks of a logarithmic axis of costs: 1, 2 and 5 of each decade, or more or fewer where those are few
    or many.
    """
    decades = range(floor(log10(low)) - 1, ceil(log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), range(1, 10), (digit / 10 for digit in range(10, 100))):
        values = [digit * 10.0**decade for digit in digits for decade in decades]
        inside = sorted(one for one in values if low / 1.2 <= one <= high * 1.2)
        if len(inside) >= FEWEST_TICKS:
            break
    inside = inside[:: ceil(len(inside) / MOST_TICKS)]
    return {"tickvals": inside, "ticktext": [_short(one) for one in inside]}


def _short(cost: float) -> str:
    """Returns `0.5`, `20`, `50k`, `2M`."""
    size = next(((size, letter) for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if cost >= size), (1, ""))
    return f"{cost / size[0]:.3g}{size[1]}"


def cost_figure(
    trials: Sequence[StoredTrial], front: Sequence[StoredTrial], attribute: str, metric: MetricCard
) -> go.Figure:
    """Draws trials by what they cost, on a logarithmic axis, and their front as a line."""
    figure = go.Figure(layout=LAYOUT)
    shown = trials[:MOST]
    for chosen, name, marker in (
        (shown, "trials", {"size": 6, "color": GREY, "opacity": 0.6}),
        (front, "no trial beats these in both", {"size": 8, "color": COLOURS[1]}),
    ):
        figure.add_scatter(
            x=[one.attributes[attribute] for one in chosen], y=[one.value for one in chosen], name=name,
            mode="lines+markers" if chosen is front else "markers", marker=marker,
            line={"shape": "hv", "color": COLOURS[1]}, hovertext=[f"trial {one.number}" for one in chosen],
        )  # fmt: skip
    unit = "" if attribute == "parameters" else " (seconds)"
    noun = next(noun for name, noun, *_ in COSTS if name == attribute)
    costs = [one.attributes[attribute] for one in shown]
    figure.update_xaxes(title=f"{noun}{unit}", type="log", **cost_ticks(min(costs), max(costs)))
    figure.update_yaxes(**error_axis(metric))
    return figure
