from __future__ import annotations

import sys

import pytest

from hpo.analysis.hardware_drift import Drift, OnMachine, Repetition
from hpo.analysis.results import Best
from hpo.analysis.statistics import Interval
from hpo.cli.measure.drift import drift_view
from hpo.cli.measure.optimize import listed_view
from hpo.cli.read.best import best_table
from hpo.cli.read.status import foreign_notes
from hpo.workers.status import Status
from tests.conftest import LISTED_STUDY, card_of, defined


def test_a_list_suggests_a_command_that_a_shell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hpo", "best", "--storage", "sqlite:///my db.db"])
    best = Best(
        "it's \x1b; x", 0, 2.0, 0.5, [1.5, 2.5], {}, 2, "digits", "head", "error", "%", "minimize", None, label="FNN"
    )
    *_, (said,) = best_table(best)
    assert said == (
        r"hpo compare $'it\x27s \x1b; x' --storage 'sqlite:///my db.db' "
        "compares the list's configurations round by round"
    )


def test_one_of_a_thing_has_no_plural_wherever_it_is_said() -> None:
    table = {**LISTED_STUDY, "trial": LISTED_STUDY["trial"][:1]}
    table["protocol"] = {**table["protocol"], "rounds": 1}
    definition = defined(table, name="x")
    headline = listed_view("x", [], definition, card_of(definition))[0]
    assert headline == ("study x: 0 of 1 configuration measured, test error by recognition (1 round on digits)")
    one, other = (OnMachine(host, "cpu", "float32", "2.6", [1.0, 2.0, 3.0] * 2) for host in "ab")
    repetitions = [Repetition(one, None), Repetition(other, Interval(1.0, 0.9, 1.1, p_value=0.001))]
    assert "1 of 1 machine differs significantly" in drift_view(Drift("x", 0, "error", "%", {}, one, repetitions))[0]
    status = Status("x", 1, 0, 0, 0, 0, 0, None, [], None, None, foreign=1)
    assert foreign_notes([status]) == ["study x: 1 trial of other programs in it, not counted"]
