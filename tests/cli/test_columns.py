"""What the terminal shows fits it: every table, at the widths of a phone, a split screen and a desktop."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hpo.analysis.confirmation import Confirmation, Confirmed
from hpo.analysis.contrasts import Contrast
from hpo.analysis.hardware_drift import Drift, OnMachine, Repetition
from hpo.analysis.results import Best, TrialRow
from hpo.analysis.statistics import Interval, mean_of, paired_difference
from hpo.cli.measure.confirm import confirmation_view
from hpo.cli.measure.drift import drift_view
from hpo.cli.measure.export import export_view
from hpo.cli.measure.lr_curve import curve_view
from hpo.cli.measure.optimize import listed_view
from hpo.cli.measure.reproduce import rows_table
from hpo.cli.read.best import best_table
from hpo.cli.read.list import names_table
from hpo.cli.read.show import layers_table
from hpo.cli.read.status import status_table, statuses_view
from hpo.cli.read.trials import trials_table
from hpo.tasks.digit_pairs.architectures import architectures, load_activations, load_architecture
from hpo.training.lr_curve import LRCurve
from hpo.training.network_summary import describe
from hpo.workers.status import Status
from tests.conftest import LISTED_STUDY, RECOGNITION, card_of, defined

PARAMS = {
    "architecture": "fully_connected",
    "weight_sharing": True,
    "auxiliary_loss": True,
    "activation": "leaky_relu",
    "optimizer": "rmsprop",
    "learning_rate": 0.005321,
}
WORKER = {
    "host": "node-17.example.org",
    "pid": 1234567,
    "device": "cuda:1",
    "trial": 1041,
    "since": "2026-01-01T10:00:00+00:00",
    "heartbeat_age_seconds": 12.0,
}
FRESH = [[2.0, 2.5, 3.0, 2.2, 2.4], [3.0, 3.5, 3.6, 3.2, 3.4], [2.9, 3.4, 3.9, 3.1, 3.5]]


def shown(parts: list[Any], width: int) -> list[str]:
    """Returns the lines that a terminal of this width shows."""
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None, markup=False, highlight=False)
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def status(study: str) -> Status:
    return Status(
        study=study, total=2000, complete=1040, pruned=512, running=4, failed=3, interrupted=1,
        best={"trial": 3, "value": 12.34, "std": 10.52}, workers=[WORKER], trials_per_hour=25105.0, eta_seconds=4000.0,
        unit="%",
    )  # fmt: skip


def trial(number: int, **changed: Any) -> TrialRow:
    row = TrialRow(
        number=number, state="COMPLETE", value=12.34, std=10.52, errors=[12.0, 12.5], params=PARAMS, label=None,
        published=None, seconds=1234.5, device="cpu", precision="float32", worker=None, error=None, diverged_rounds=[0],
    )  # fmt: skip
    return replace(row, **changed)


def statuses() -> list[Any]:
    return [statuses_view([status("quickstart"), status("report_a_table_1-digits")])]


def trials() -> list[Any]:
    failed = trial(1041, state="FAIL", value=None, std=None, error="ValueError: not in [/data/of/the/batch]")
    pruned = trial(1042, state="PRUNED", value=None, std=None)
    return [trials_table([trial(8), failed, pruned], RECOGNITION)]


def best() -> list[Any]:
    confirmed: dict[str, Any] = {
        **{"mean": 12.5, "low": 11.9, "high": 13.1, "std": 2.0, "rounds": 30, "optimism": 0.16},
        **{"optimism_interval": {"low": -0.2, "high": 0.5}, "on_new": {"low": 11.0, "high": 14.0}},
        **{"diverged_rounds": [], "convergence": None, "why": None, "caveats": []},
    }
    what = RECOGNITION.name, RECOGNITION.title, RECOGNITION.unit, RECOGNITION.direction
    return best_table(Best("quickstart", 8, 12.34, 10.52, [12.0, 12.5], PARAMS, 5, "digits", *what, confirmed))


def listed() -> list[Any]:
    rows = [trial(i, label=label) for i, label in enumerate(("FNN", "FNN + WS"))]
    definition = defined(LISTED_STUDY, name="listed")
    return listed_view("listed", rows, definition, card_of(definition))


def confirmed() -> list[Any]:
    found = [
        Confirmed(
            *(i, f"trial {i}", PARAMS, errors, mean_of(errors, RECOGNITION)),
            searched=12.34,
            optimism=Interval(0.16, -0.2, 0.52),
        )
        for i, errors in zip((8, 1041, 17), FRESH, strict=True)
    ]
    by = paired_difference(FRESH[1], FRESH[0], RECOGNITION)
    contrasts = [Contrast(8, 1041, by, 0.001, rounds=6), Contrast(1041, 17, by, 0.3, rounds=6)]
    return confirmation_view(Confirmation("q", "q-confirm", 5, "digits", RECOGNITION, found, contrasts))


def drift() -> list[Any]:
    own = OnMachine("node-17.example.org", "cpu (AMD EPYC)", "float32", "2.14.1", FRESH[0])
    by = paired_difference(FRESH[1], FRESH[0], RECOGNITION)
    repetitions = [Repetition(own, None), Repetition(replace(own, host="far", errors=FRESH[1]), by)]
    return drift_view(Drift("quickstart", 8, "error", "%", PARAMS, own, repetitions))


def exported(select_on: str = "test") -> list[Any]:
    described = {
        "study": "quickstart", "trial": 8, "params": PARAMS, "unit": "%",
        "protocol": {"first_round": 0, "select_on": select_on},
        "rounds": [{"round": r, "error": 12.5} for r in range(3)], "error": {"mean": 12.34, "std": 10.52},
        "search": {"mean": 12.34, "std": 10.52, "errors": [12.0, 12.5]},
    }  # fmt: skip
    return export_view(described, [Path("winner.safetensors"), Path("winner.json")], RECOGNITION)


def test_an_export_says_by_what_the_search_chose_where_that_is_not_the_test() -> None:
    """Then both errors of a round are of the same network, but not of the same examples."""
    assert exported()[0].endswith("12.34 ± 10.52 % in the study")
    assert exported("validation")[0].endswith("12.34 ± 10.52 % in the study, on validation examples")


def names() -> list[Any]:
    found = architectures().values()
    return [names_table("architectures", [{"name": one.name, "title": one.summary} for one in found])]


def layers() -> list[Any]:
    build, relu = load_architecture("cnn_bn"), load_activations()("relu")
    return layers_table("cnn_bn", {"summary": "a network", **describe(build, relu)})


def swept() -> list[Any]:
    rates = np.geomspace(1e-4, 1.0, 30)
    losses = np.abs(np.log10(rates) + 1.5)[None].repeat(2, axis=0) + 1
    return curve_view("fnn+ws+al relu sgd", LRCurve(rates, losses), "digits")


def published() -> list[Any]:
    rows = [["", "published", "measured", "verdict"], ["FNN + WS + AL", "6.44 ± 0.71", "12.34 ± 10.52", "consistent"]]
    return rows_table(["Report A, table I: the linear network"], rows)


TABLES: dict[Callable[[], list[Any]], list[str]] = {  # what each shows at any width
    statuses: ["quickstart", "report_a_table_1-digits", "1552/2000", "12.34 ± 10.52 %", "node-17.example.org", "1041"],
    trials: [
        "8",
        "1/2 diverged",
        "1041",
        "1042",
        "12.34 ± 10.52",
        "fully_connected+ws+al",
        "leaky_relu",
        "rmsprop",
        "0.005321",
    ],
    best: ["quickstart", "12.34", "12.50", "fully_connected", "learning_rate", "0.005321"],
    listed: ["FNN", "FNN + WS", "12.34 ± 10.52"],
    confirmed: ["8", "1041", "17", "2.42 ± 0.38", "fully_connected+ws+al", "rmsprop", "1041 is worse than 8"],
    drift: ["2.42", "+0.92", "node-17.example.org", "far"],
    exported: ["12.34", "12.50", "winner.json"],
    names: list(architectures()),
    layers: ["towers.0.0", "Conv2d", "BatchNorm2d", "18,432", "72,784"],
    swept: ["the optimum", "where it falls fastest", "learning_rate"],
    published: ["FNN + WS + AL", "6.44 ± 0.71", "12.34 ± 10.52", "consistent"],
}


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_table_fits_and_names_what_it_is_about(table: Callable[[], list[Any]], width: int) -> None:
    lines = shown(table(), width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in TABLES[table]:
        assert re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text), part


def test_a_narrow_terminal_loses_the_least_important_columns_first() -> None:
    heads = {width: shown([status_table([status("quickstart")])], width)[0].split() for width in (80, 60, 50, 40)}
    assert heads[80] == ["study", "finished", "pruned", "running", "failed", "/h", "left", "best"]
    assert heads[60] == ["study", "finished", "running", "failed", "left", "best"]
    assert heads[50] == ["study", "finished", "left", "best"]
    assert heads[40] == ["study", "finished", "best"]


def test_in_the_narrowest_terminal_a_row_is_a_block() -> None:
    assert shown([status_table([status("quickstart")])], 30)[:3] == [
        "quickstart",
        "  finished: 1552/2000",
        "  pruned: 512",
    ]


def test_a_word_longer_than_the_terminal_is_broken_and_nothing_else_is() -> None:
    lines = shown([status_table([status("x" * 70), status("short")])], 30)
    assert max(map(len, lines)) <= 30
    assert "".join(lines[:3]) == "x" * 70
    assert "short" in lines
