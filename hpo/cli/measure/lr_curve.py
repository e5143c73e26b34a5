"""What a learning-rate range test found, as a person reads it: a small chart, and the rates it suggests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult

from hpo.cli.columns import FittedTable
from hpo.text.formatting import count
from hpo.training.lr_curve import Floats, LRCurve, bounds, falls, minimum, steepest, valley


def curve_view(name: str, curve: LRCurve, dataset: str) -> list[Any]:
    """Returns what a range test found, and its mean curve."""
    mean, rounds = curve.mean_losses, len(curve.losses)
    deviation = "" if curve.std is None else f" ± {curve.std:.2g}"
    headline = f"range test of {name} ({count(rounds, 'round')}, {dataset})"
    rates = FittedTable()
    rates.add_column()
    rates.add_column(wraps=True)
    rates.add_row(f"{curve.mean:.3g}{deviation}", "the optimum: where the loss is lowest, mean of rounds")
    if np.isfinite(mean).sum() < 2:
        return [
            headline,
            rates,
            f"{curve.ended} of {count(rounds, 'round')} diverged, one of them at once: no mean curve",
        ]
    low, high = bounds(curve.rates, mean)
    rates.add_row(f"{minimum(curve.rates, mean):.3g}", "where the mean curve is lowest")
    rates.add_row(f"{steepest(curve.rates, mean):.3g}", "where it falls fastest")
    rates.add_row(f"{valley(curve.rates, mean):.3g}", "the middle of its longest valley")
    ended = (
        f"{curve.ended} of {count(rounds, 'round')} diverged before the last rate; the curve is the mean until the "
        "first did"
    )
    suggested = (
        f"for a study's file:  learning_rate = {{ low = {_one_digit(low, math.floor):g}, "
        f"high = {_one_digit(high, math.ceil):g}, log = true }}"
        if low < high and falls(mean)
        else "the loss does not fall: neither the optimum nor the others mean anything, and no bounds are suggested"
    )
    return [headline, CurveChart(curve.rates, mean), *([ended] if curve.ended else []), rates, suggested]


def _one_digit(value: float, direction: Callable[[float], int]) -> float:
    """Rounds down or up to one significant digit."""
    scale = 10.0 ** math.floor(math.log10(value))
    return direction(round(value / scale, 9)) * scale


@dataclass(frozen=True)
class CurveChart:
    """A small picture of losses over the logarithm of the rates, in the width that there is."""

    rates: Floats
    losses: Floats

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the picture."""
        yield from curve_chart(self.rates, self.losses, width=max(1, min(60, options.max_width - 8)))


def curve_chart(rates: Floats, losses: Floats, width: int = 60, height: int = 8) -> list[str]:
    """Returns the lines of a small picture of losses over the logarithm of the rates."""
    known = losses[np.isfinite(losses)]
    low, high = float(known.min()), float(known.max())
    rows = [[" "] * width for _ in range(height)]
    for i, loss in enumerate(losses):
        if np.isfinite(loss):
            row = round((high - loss) / (high - low or 1.0) * (height - 1))
            rows[row][round(i / (len(losses) - 1) * (width - 1))] = "•"
    labels = [f"{high:.3g}", *[""] * (height - 2), f"{low:.3g}"]
    lines = [f"{label:>6} │{''.join(row)}".rstrip() for label, row in zip(labels, rows, strict=True)]
    axis = f"{rates[0]:.0e}".ljust(width - 8) + f"{rates[-1]:.0e}".rjust(8)
    return [*lines, f"{'loss':>6} └{'─' * width}", f"{'':>8}{axis}", f"{'':>8}{'learning rate':^{width}}"]
