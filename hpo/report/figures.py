"""Plotly figures: a range test, errors as bars, losses and gradient norms over epochs, a network's layers."""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from hpo.text.escaping import escape_figure
from hpo.text.files import write_whole
from hpo.training.lr_curve import LRCurve

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito's: distinct for everybody
FAINT = 0.25
LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"size": 14},
    "margin": {"l": 70, "r": 30, "t": 60, "b": 60},
    "width": 900,
    "height": 540,
}
SHOWN_LOSS = 2.0  # times the first: what diverges would press everything else flat
BOX_HEIGHT, BOX_GAP = 1.0, 0.35
LINE_HEIGHT = 16  # pixels


def range_test_figure(title: str, curve: LRCurve) -> go.Figure:
    """Draws each round's loss against the rate, the mean with its deviation, and the mean of the optima."""
    figure = go.Figure(layout={**LAYOUT, "title": title})
    for r, losses in enumerate(curve.losses):
        figure.add_scatter(
            x=curve.rates, y=losses, mode="lines", line={"color": COLOURS[0], "width": 1}, opacity=FAINT,
            name="each round", legendgroup="rounds", showlegend=r == 0,
        )  # fmt: skip
    mean = curve.mean_losses
    if len(curve.losses) > 1:
        deviation = curve.losses.std(axis=0, ddof=1)
        known = np.isfinite(mean)
        figure.add_scatter(
            x=[*curve.rates[known], *curve.rates[known][::-1]],
            y=[*(mean + deviation)[known], *(mean - deviation)[known][::-1]],
            fill="toself", mode="none", fillcolor=COLOURS[1], opacity=FAINT, name="mean ± deviation", hoverinfo="skip",
        )  # fmt: skip
    figure.add_scatter(x=curve.rates, y=mean, mode="lines", line={"color": COLOURS[1], "width": 3}, name="mean")
    text = f"mean optimum {curve.mean:.3g}" + ("" if curve.std is None else f" ± {curve.std:.2g}")
    figure.add_vline(x=curve.mean, line={"dash": "dash"})
    ends, place = np.log10(curve.rates[[0, -1]]).tolist(), float(np.log10(curve.mean))
    side = "right" if place > sum(ends) / 2 else "left"
    figure.add_annotation(x=place, y=1, yref="paper", text=text, xanchor=side, showarrow=False)
    figure.update_xaxes(type="log", title="learning rate", dtick=1, exponentformat="power", range=ends)
    figure.update_yaxes(title="training loss", range=[0, SHOWN_LOSS * float(np.nanmax(curve.losses[:, 0]))])
    return figure


@dataclass(frozen=True)
class Bar:
    """A figure of a table: errors in percent, published and measured; a single round has no deviation."""

    label: str
    published: float
    published_std: float
    measured: float
    measured_std: float | None


def bars_figure(title: str, bars: Sequence[Bar]) -> go.Figure:
    """Draws published and measured errors as bars with their deviations."""
    figure = go.Figure(layout={**LAYOUT, "title": title, "barmode": "group"})
    labels = [bar.label for bar in bars]
    for name, colour, means, stds in (
        ("published", "#999999", [b.published for b in bars], [b.published_std for b in bars]),
        ("measured", COLOURS[0], [b.measured for b in bars], [b.measured_std for b in bars]),
    ):
        figure.add_bar(
            x=labels, y=means, error_y={"array": stds, "thickness": 1.5}, name=name, marker={"color": colour}
        )
    figure.update_yaxes(title="test error (%), mean ± deviation", rangemode="tozero")
    figure.update_xaxes(tickangle=30)
    return figure


def losses_figure(title: str, losses: Mapping[str, Sequence[Sequence[float | None]]]) -> go.Figure:
    """Draws the training loss over the epochs, one panel a setting, each round and the mean.

    Args:
        losses: setting -> epoch -> R rounds.
    """
    figure = _panels(title, list(losses))
    for i, curves in enumerate(losses.values()):
        row, column = divmod(i, 2)
        values = np.array(curves, dtype=float)  # (E, R)
        epochs = list(range(1, len(values) + 1))
        for r in range(values.shape[1]):
            figure.add_scatter(
                x=epochs, y=values[:, r], mode="lines", line={"color": COLOURS[0], "width": 1}, opacity=FAINT,
                name="each round", legendgroup="rounds", showlegend=i == r == 0, row=row + 1, col=column + 1,
            )  # fmt: skip
        figure.add_scatter(
            x=epochs, y=values.mean(axis=1), mode="lines", line={"color": COLOURS[1], "width": 3}, name="mean",
            legendgroup="mean", showlegend=i == 0, row=row + 1, col=column + 1,
        )  # fmt: skip
    figure.update_xaxes(title="epoch", row=figure_rows(len(losses)))
    figure.update_yaxes(title="training loss", rangemode="tozero", col=1)
    return figure


def gradient_norms_figure(title: str, norms: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]]) -> go.Figure:
    """Draws every layer's gradient norm over the epochs, one panel a network, means over the rounds.

    Args:
        norms: network -> layer -> epoch -> R rounds.
    """
    figure = _panels(title, list(norms))
    names = list(dict.fromkeys(layer for layers in norms.values() for layer in layers))
    shown: set[str] = set()
    for i, layers in enumerate(norms.values()):
        for layer, curves in layers.items():
            colour = COLOURS[names.index(layer) % len(COLOURS)]
            values = np.array(curves, dtype=float).mean(axis=1)  # (E, R) -> (E,)
            figure.add_scatter(
                x=list(range(1, len(values) + 1)), y=values, mode="lines", line={"color": colour, "width": 2},
                name=layer, legendgroup=layer, showlegend=layer not in shown, row=i // 2 + 1, col=i % 2 + 1,
            )  # fmt: skip
            shown.add(layer)
    figure.update_xaxes(title="epoch", row=figure_rows(len(norms)))
    figure.update_yaxes(title="norm of the gradient", col=1)
    figure.update_yaxes(type="log", matches="y", dtick=1)
    return figure


def figure_rows(panels: int) -> int:
    """Returns how many rows of two panels there are."""
    return (panels + 1) // 2


def _panels(title: str, names: Sequence[str]) -> go.Figure:
    rows = figure_rows(len(names))
    figure = make_subplots(
        rows=rows, cols=min(2, len(names)), subplot_titles=names, shared_yaxes="all",
        vertical_spacing=0.24 / max(rows, 2), horizontal_spacing=0.06,
    )  # fmt: skip
    figure.update_layout(**{**LAYOUT, "title": title, "height": 160 + 300 * rows})
    return figure


def network_figure(name: str, layers: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Draws the pair network: a tower for each image, and the head that compares what they saw.

    Args:
        layers: as `list_layers` in network_summary.py has them, of the network with weight sharing.
    """
    towers = _boxes([layer for layer in layers if layer["name"].startswith("towers.")])
    head = _boxes([layer for layer in layers if layer["name"].startswith("head.")])
    boxes = [
        ["first image 1x14x14", "second image 1x14x14"],
        *([text, text] for text in towers),
        ["both digits' 10 + 10 logits, side by side: 20"],
        *([text] for text in head),
    ]
    title = {"text": name, "subtitle": {"text": "with weight sharing both towers are one; layer, weight → output"}}
    figure = go.Figure(layout={**LAYOUT, "title": title, "height": 120 + 52 * len(boxes), "showlegend": False})
    for i, row in enumerate(boxes):
        top = -i * (BOX_HEIGHT + BOX_GAP)
        for text, middle in zip(row, (0.25, 0.75) if len(row) == 2 else (0.5,), strict=True):
            in_tower = len(row) == 2 and i > 0
            _draw_box(figure, text, middle, top, COLOURS[0] if in_tower else COLOURS[1] if i else "#666666")
        _draw_arrows(figure, row, boxes[i + 1] if i + 1 < len(boxes) else None, top)
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(visible=False, range=[-len(boxes) * (BOX_HEIGHT + BOX_GAP), BOX_GAP])
    return figure


def _boxes(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each layer, or for each run of equal blocks of layers."""
    blocks = [list(block) for _, block in groupby(layers, key=lambda layer: ".".join(layer["name"].split(".")[:3]))]
    lines = []
    for text, equal in groupby(blocks, key=_described):
        count = len(list(equal))
        lines.append(f"{count} times: {text}" if count > 1 else text)
    return lines


def _described(block: Sequence[Mapping[str, Any]]) -> str:
    kinds = [str(layer["kind"]).partition("(")[0] for layer in block]
    shape = "x".join(map(str, block[-1]["shape"][1:]))
    if len(block) > 1:
        return f"{', '.join(kinds)} → {shape}"
    weight = "x".join(map(str, block[0]["weight"]))
    return f"{kinds[0]} {weight}".strip() + f" → {shape}"


def _draw_box(figure: go.Figure, text: str, middle: float, top: float, colour: str) -> None:
    half = 0.22
    figure.add_shape(
        type="rect", x0=middle - half, x1=middle + half, y0=top - BOX_HEIGHT, y1=top,
        line={"color": colour, "width": 2}, fillcolor="white",
    )  # fmt: skip
    lines = textwrap.wrap(text, 50)
    for i, line in enumerate(lines):  # each by itself: `<br>` would be shown as it stands, see `escape_figure`
        figure.add_annotation(
            x=middle, y=top - BOX_HEIGHT / 2, yshift=LINE_HEIGHT * ((len(lines) - 1) / 2 - i), text=line,
            showarrow=False, font={"size": 12},
        )  # fmt: skip


def _draw_arrows(figure: go.Figure, row: Sequence[str], below: Sequence[str] | None, top: float) -> None:
    if below is None:
        return
    starts = (0.25, 0.75) if len(row) == 2 else (0.5,)
    ends = (0.25, 0.75) if len(below) == 2 else (0.5,) * len(starts)
    for start, end in zip(starts, ends, strict=True):
        figure.add_annotation(
            x=end + (start - end) * 0.4, y=top - BOX_HEIGHT - BOX_GAP, ax=start, ay=top - BOX_HEIGHT,
            xref="x", yref="y", axref="x", ayref="y", showarrow=True, arrowhead=2, arrowwidth=1.5, text="",
        )  # fmt: skip


def write_html(figure: go.Figure, file: Path) -> None:
    """Writes a page that needs nothing else, and no network."""
    write_whole(file, with_texts_escaped(figure).to_html(include_plotlyjs=True))


def write_png(figure: go.Figure, file: Path) -> str:
    """Writes a picture, for which kaleido takes a Chromium; returns why it could not, or nothing."""
    return write_pngs({file: figure})


def write_pngs(figures: Mapping[Path, go.Figure]) -> str:
    """Writes pictures; returns why they could not be drawn, or nothing."""
    drawn, missing = draw_pngs(figures)
    for file, picture in drawn.items():
        file.parent.mkdir(exist_ok=True)
        write_whole(file, picture)
    return missing


def draw_pngs(figures: Mapping[Path, go.Figure]) -> tuple[dict[Path, bytes], str]:
    """Draws pictures by one Chromium, which takes seconds to start; returns them, and why there are none, if so."""
    from choreographer.errors import BrowserDepsError, BrowserFailedError, ChromeNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        drawn = {file: Path(folder) / f"{i}.png" for i, file in enumerate(figures)}
        try:
            escaped = [with_texts_escaped(figure) for figure in figures.values()]
            sizes = {key: [figure.layout[key] for figure in escaped] for key in ("width", "height")}
            # plotly 7.1 gives each picture its default size, whatever its layout says.
            plotly.io.write_images(fig=escaped, file=list(drawn.values()), scale=2, **sizes)
        except (RuntimeError, BrowserFailedError, BrowserDepsError) as error:
            if isinstance(error, RuntimeError) and not isinstance(error.__context__, ChromeNotFoundError):
                raise
            missing = isinstance(error, RuntimeError)
            reason = "which is not here" if missing else "and the one here does not start"
            return {}, f"a .png takes a Chromium, {reason}"
        return {file: picture.read_bytes() for file, picture in drawn.items()}, ""


def with_texts_escaped(figure: go.Figure) -> go.Figure:
    """Returns a figure whose texts are shown as they are: plotly takes some HTML for markup."""
    return go.Figure(escape_figure(json.loads(figure.to_json())))
