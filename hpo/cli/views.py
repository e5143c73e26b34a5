"""What a person reads in the terminal: rows as tables and lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderResult

from hpo.analysis.results import Status, TrialRow
from hpo.cli.columns import FittedTable
from hpo.study.space import short_name
from hpo.text.formatting import count, duration, progress, spread
from hpo.training.lr_curve import Curve, Sweep, bounds, falls, minimum, steepest, valley


def trials_table(rows: Sequence[TrialRow]) -> FittedTable:
    """Returns trials as a table."""
    table = FittedTable()
    table.add_column("trial", justify="right")
    table.add_column("state", rank=1)
    table.add_column("error %", justify="right")
    table.add_column("s", justify="right", rank=2)
    table.add_column("configuration", wraps=True)
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        table.add_row(
            str(row.number),
            "interrupted" if row.state == "FAIL" and row.error is None else row.state.lower(),
            "" if row.value is None else spread(row.value, row.std, unit=""),
            seconds,
            _described(row),
        )
    return table


def status_table(statuses: Sequence[Status]) -> FittedTable:
    """Returns the studies of a storage as a table."""
    table = FittedTable()
    table.add_column("study", wraps=True)
    ranks = {"finished": 0, "pruned": 4, "running": 2, "failed": 3, "/h": 5, "left": 1, "best error": 0}
    for heading, rank in ranks.items():
        table.add_column(heading, justify="right", rank=rank)
    for status in statuses:
        table.add_row(
            status.study,
            progress(status.finished, status.total),
            str(status.pruned),
            str(status.running),
            str(status.failed),
            "" if status.trials_per_hour is None else f"{status.trials_per_hour:.0f}",
            "" if status.eta_seconds is None else duration(status.eta_seconds),
            _best(status),
        )
    return table


def _best(status: Status) -> str:
    if not status.is_ours:
        return "not made by hpo"
    return "" if status.best is None else spread(status.best["value"], status.best["std"])


def foreign_notes(statuses: Sequence[Status]) -> list[str]:
    """Returns a line for each study that another program has added trials to."""
    return [
        f"study {status.study}: {count(status.foreign, 'trial')} of other programs in it, not counted"
        for status in statuses
        if status.foreign
    ]


def workers_table(statuses: Sequence[Status]) -> FittedTable:
    """Returns the workers that run a trial now."""
    table = FittedTable()
    ranks = {"worker": 0, "pid": 4, "device": 3, "study": 0, "trial": 0, "since": 2, "heartbeat": 1}
    for heading, rank in ranks.items():
        numeric = heading in ("pid", "trial", "heartbeat")
        table.add_column(heading, justify="right" if numeric else "left", rank=rank, wraps=not numeric)
    for status in statuses:
        for worker in status.workers:
            age = worker["heartbeat_age_seconds"]
            table.add_row(
                worker["host"],
                str(worker["pid"]),
                worker["device"],
                status.study,
                str(worker["trial"]),
                "" if worker["since"] is None else _local_time(worker["since"]),
                "" if age is None else f"{age:.0f} s ago",
            )
    return table


def statuses_view(statuses: Sequence[Status]) -> Group:
    """Returns the studies of a storage, and who works on them."""
    if not statuses:
        return Group("no studies yet; hpo optimize creates one")
    parts: list[Any] = [status_table(statuses)]
    if any(status.workers for status in statuses):
        parts += ["", workers_table(statuses)]
    if notes := foreign_notes(statuses):
        parts += ["", *notes]
    return Group(*parts)


def _local_time(moment: str) -> str:
    """`14:03:07`, with the date where it is not today."""
    local = datetime.fromisoformat(moment).astimezone()
    return f"{local:%H:%M:%S}" if local.date() == datetime.now().date() else f"{local:%m-%d %H:%M}"


def text_of(value: Any) -> str:
    """Returns a parameter's value as it stands in a study's file, floats to four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _described(row: TrialRow) -> str:
    if row.state == "FOREIGN":
        return "not measured by hpo, and not counted"
    if row.error is not None:
        return row.error
    described = row.label if row.label is not None else short_name(row.params)
    return f"{described} ({len(row.diverged_rounds)} diverged)" if row.diverged_rounds else described


def rows_table(title: list[str], rows: Sequence[Sequence[str]]) -> list[Any]:
    """Returns rows, their headings the first, as a table under its title's lines."""
    table = FittedTable()
    for i, heading in enumerate(rows[0]):
        table.add_column(heading, wraps=i == 0)
    for row in rows[1:]:
        table.add_row(*row)
    return [title, table, ""]


def sweep_view(name: str, sweep: Sweep, dataset: str) -> list[Any]:
    """Returns what a range test found, and its mean curve."""
    mean, rounds = sweep.mean_losses, len(sweep.losses)
    deviation = "" if sweep.std is None else f" ± {sweep.std:.2g}"
    headline = f"range test of {name} ({count(rounds, 'round')}, {dataset})"
    rates = FittedTable()
    rates.add_column()
    rates.add_column(wraps=True)
    rates.add_row(f"{sweep.mean:.3g}{deviation}", "the optimum: where the loss is lowest, mean of rounds")
    if np.isfinite(mean).sum() < 2:
        return [
            headline,
            rates,
            f"{sweep.ended} of {count(rounds, 'round')} diverged, one of them at once: no mean curve",
        ]
    low, high = bounds(sweep.rates, mean)
    rates.add_row(f"{minimum(sweep.rates, mean):.3g}", "where the mean curve is lowest")
    rates.add_row(f"{steepest(sweep.rates, mean):.3g}", "where it falls fastest")
    rates.add_row(f"{valley(sweep.rates, mean):.3g}", "the middle of its longest valley")
    ended = (
        f"{sweep.ended} of {count(rounds, 'round')} diverged before the last rate; the curve is the mean until the "
        "first did"
    )
    suggested = (
        f"for a study's file:  learning_rate = {{ low = {_one_digit(low, math.floor):g}, "
        f"high = {_one_digit(high, math.ceil):g}, log = true }}"
        if low < high and falls(mean)
        else "the loss does not fall: neither the optimum nor the others mean anything, and no bounds are suggested"
    )
    return [headline, CurveChart(sweep.rates, mean), *([ended] if sweep.ended else []), rates, suggested]


def _one_digit(value: float, direction: Callable[[float], int]) -> float:
    """Rounds down or up to one significant digit."""
    scale = 10.0 ** math.floor(math.log10(value))
    return direction(round(value / scale, 9)) * scale


@dataclass(frozen=True)
class CurveChart:
    """A small picture of losses over the logarithm of the rates, in the width that there is."""

    rates: Curve
    losses: Curve

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the picture."""
        yield from curve_chart(self.rates, self.losses, width=max(1, min(60, options.max_width - 8)))


def curve_chart(rates: Curve, losses: Curve, width: int = 60, height: int = 8) -> list[str]:
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


def names_table(kind: str, entries: Sequence[dict[str, str]]) -> FittedTable:
    """Returns names with their titles."""
    table = FittedTable()
    table.add_column(kind)
    table.add_column(wraps=True)
    for entry in entries:
        table.add_row(entry["name"], entry["title"])
    return table


def study_text(name: str, definition: dict[str, Any]) -> list[str]:
    """Returns a study's definition, all defaults filled in, as lines of `key = value`."""
    lines = [f"study {name}: {definition['title']}"]
    for table in ("protocol", "sampler", "pruner", "space", "run"):
        if definition[table]:
            lines += ["", f"[{table}]", *_settings(definition[table])]
    for entry in definition["trial"]:
        published = entry["published"]
        beside = f"  (published {spread(published['mean'], published['std'])})" if published else ""
        lines += [
            "",
            f"[[trial]] {entry['label']}{beside}",
            *_settings(entry["params"]),
        ]
    return lines


def _settings(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def layers_table(name: str, architecture: dict[str, Any]) -> list[Any]:
    """Returns an architecture's layers, as they are with weight sharing, and its parameter counts."""
    table = FittedTable()
    ranks = {"layer": 0, "kind": 0, "weight": 2, "output": 1, "parameters": 0}
    for heading, rank in ranks.items():
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right", rank=rank)
    for layer in architecture["layers"]:
        kind = layer["kind"].partition("(")[0]
        weight, output = ("x".join(map(str, layer[key])) for key in ("weight", "shape"))
        table.add_row(layer["name"], kind, weight, output, f"{layer['parameters']:,}" if layer["parameters"] else "")
    counts = architecture["parameters"]
    shared, apart = (f"{counts[key]:,}" for key in ("weight_sharing", "no_weight_sharing"))
    total = f"parameters: {shared} with weight sharing, {apart} without (two towers)"
    return [f"architecture {name}: {architecture['summary']}", table, total]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        if "choices" in value and not value["when"]:
            return _toml(value["choices"])
        absent = {"when": {}, "log": False}  # as a file leaves them out
        shown = {key: item for key, item in value.items() if key not in absent or item != absent[key]}
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in shown.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)  # for these values JSON is TOML
