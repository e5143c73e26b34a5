"""What a person reads in the terminal: rows as tables and lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from .formatting import count, duration, progress, spread
from .results import Status, TrialRow
from .space import short_name
from .sweep import Curve, Sweep, bounds, falls, minimum, steepest, valley


def trials_table(rows: Sequence[TrialRow]) -> Table:
    """Returns trials as a table that fits 80 columns."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column("error %", justify="right", no_wrap=True)
    table.add_column("s", justify="right")
    table.add_column("configuration")
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


def status_table(statuses: Sequence[Status]) -> Table:
    """Returns the studies of a storage as a table."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("study", overflow="fold")
    for heading in ("finished", "pruned", "running", "failed", "/h", "left", "best error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for status in statuses:
        table.add_row(
            status.study,
            progress(status.finished, status.total),
            str(status.pruned),
            str(status.running),
            str(status.failed),
            "" if status.trials_per_hour is None else f"{status.trials_per_hour:.0f}",
            "" if status.eta_seconds is None else duration(status.eta_seconds),
            "" if status.best is None else spread(status.best["value"], status.best["std"]),
        )
    return table


def workers_table(statuses: Sequence[Status]) -> Table:
    """Returns the workers that run a trial now."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("worker", "pid", "device", "study", "trial", "since", "heartbeat"):
        numeric = heading in ("pid", "trial", "heartbeat")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
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
    if not any(status.workers for status in statuses):
        return Group(status_table(statuses))
    return Group(status_table(statuses), "", workers_table(statuses))


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
    if row.error is not None:
        return row.error
    described = row.label if row.label is not None else short_name(row.params)
    return f"{described} ({len(row.diverged_rounds)} diverged)" if row.diverged_rounds else described


def rows_table(title: str, rows: Sequence[Sequence[str]]) -> list[Any]:
    """Returns rows, their headings the first, as a table under its title."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows[1:]:
        table.add_row(*row)
    return [title, table, ""]


def sweep_view(name: str, sweep: Sweep, dataset: str) -> list[Any]:
    """Returns what a range test found, and its mean curve."""
    mean, rounds = sweep.mean_losses, len(sweep.losses)
    deviation = "" if sweep.std is None else f" ± {sweep.std:.2g}"
    headline = f"range test of {name} ({count(rounds, 'round')}, {dataset})"
    rates = Table(show_header=False, box=None, padding=(0, 2))
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
    return [headline, curve_chart(sweep.rates, mean), *([ended] if sweep.ended else []), rates, suggested]


def _one_digit(value: float, direction: Callable[[float], int]) -> float:
    """Rounds down or up to one significant digit."""
    scale = 10.0 ** math.floor(math.log10(value))
    return direction(round(value / scale, 9)) * scale


def curve_chart(rates: Curve, losses: Curve, width: int = 60, height: int = 8) -> str:
    """Returns a small picture of losses over the logarithm of the rates, for 80 columns."""
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
    return "\n".join([*lines, f"{'loss':>6} └{'─' * width}", f"{'':>8}{axis}", f"{'':>8}{'learning rate':^{width}}"])


def names_table(kind: str, entries: Sequence[dict[str, str]]) -> Table:
    """Returns names with their titles."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column(kind, no_wrap=True)
    table.add_column()
    for entry in entries:
        table.add_row(entry["name"], entry["title"])
    return table


def study_text(name: str, definition: dict[str, Any]) -> str:
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
    return "\n".join(lines)


def _settings(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def layers_table(name: str, architecture: dict[str, Any]) -> list[Any]:
    """Returns an architecture's layers, as they are with weight sharing, and its parameter counts."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading, justify in (
        ("layer", "left"),
        ("kind", "left"),
        ("weight", "right"),
        ("output", "right"),
        ("parameters", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
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
