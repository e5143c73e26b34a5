"""Few studies of what `python -m benchmarks.coverage` measures with many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import coverage
from hpo.analysis import sign_flips
from hpo.analysis.caveats import few_rounds, of_intervals
from hpo.analysis.confirmation import Confirmed, describe
from hpo.analysis.contrasts import Measured
from hpo.analysis.results import Best
from hpo.analysis.statistics import Interval
from hpo.cli.read.best import best_table
from tests.conftest import RECOGNITION

SOME, NONE = Interval(2.0, 1.5, 2.5), Interval(2.0, None, None)


@pytest.mark.parametrize("kind", [kind for kind in coverage.KINDS if "very" not in kind])
def test_intervals_hold_what_they_promise(kind: str) -> None:
    for number in (5, 10, 30):
        for interval, (held, of) in coverage.coverage(kind, number, 200).items():
            if "not printed" in interval:
                assert held / of < 0.85, (interval, number, held, of)
                continue
            assert held / of > 0.93 - 3 * (0.93 * 0.07 / of) ** 0.5, (interval, number, held, of)


def test_very_skewed_errors_are_the_exception_and_it_is_said() -> None:
    held, of = coverage.coverage("very skewed (gamma, skewness 2)", 5, 400)["mean"]
    assert 0.82 < held / of < 0.92
    assert "88 to 92 %" in few_rounds(5, SOME)
    assert few_rounds(30, SOME) == few_rounds(5, NONE) == few_rounds(5) == ""
    errors = np.random.default_rng(0).gamma(1.0, size=30).tolist()
    assert "is one of 92 to 94 %" in few_rounds(30, SOME, errors=[errors])
    assert few_rounds(100, SOME, errors=[errors]) == few_rounds(30, NONE, errors=[errors]) == ""
    assert few_rounds(30, SOME, errors=[np.random.default_rng(0).normal(size=30).tolist()]) == ""


def test_few_wrong_examples_are_said_where_an_interval_on_new_ones_is_printed() -> None:
    """At a thousand pairs a round, each is a tenth of a percent."""
    metric = RECOGNITION.model_copy(update={"resolution": 0.1})
    errors = [0.5 + 0.1 * (number % 3) for number in range(40)]
    one = Measured(0, "a", {}, errors, Interval(0.6, 0.5, 0.7), on_new=Interval(0.6, 0.3, 0.9))
    assert of_intervals(40, [one], metric) == [
        "fewer than 10 examples are wrong in a round: a 95 % interval on new ones is one of 78 to 92 %"
    ]
    many = replace(one, mean=Interval(1.1, 1.0, 1.2))
    assert of_intervals(40, [many], metric) == of_intervals(40, [replace(one, on_new=None)], metric) == []
    accuracy = metric.model_copy(update={"maximize": True})
    right = replace(one, mean=Interval(99.4, 99.3, 99.5))  # of an accuracy the wrong are what is missing
    assert of_intervals(40, [right], accuracy) == of_intervals(40, [one], metric)
    assert of_intervals(40, [one], accuracy) == []


@pytest.mark.parametrize("family", [family for family in coverage.FAMILIES if "not made" not in family])
def test_a_family_raises_few_false_alarms(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_flips, "PATTERNS", coverage.FLIPS)
    for kind in ("normal", "5 % of rounds diverge"):
        for number, studies in ((3, 20), (10, 150)):
            alarms = coverage.false_alarms(kind, family, number, studies)
            assert alarms <= (0 if number < 6 else studies * (0.05 + 3 * (0.05 * 0.95 / studies) ** 0.5)), (
                kind,
                alarms,
            )


@pytest.mark.parametrize(("ends", "is_said"), [((1.5, 2.5), True), ((None, None), False)])
def test_the_best_says_what_few_rounds_are_not_sure_of_beside_every_interval(
    ends: tuple[float | None, float | None], is_said: bool
) -> None:
    interval = dict(zip(("low", "high"), ends, strict=True))
    found = Interval(2.0, *ends)
    confirmed = describe(Confirmed(1, "trial 1", {}, [2.0] * 5, found, searched=2.0, optimism=found), 5, RECOGNITION)
    what = RECOGNITION.name, RECOGNITION.title, RECOGNITION.unit, RECOGNITION.direction
    fresh = Best("x", 1, 2.0, 0.5, [2.0] * 5, {}, 5, "digits", *what, confirmed)
    listed = Best("x", 1, 2.0, 0.5, [2.0] * 5, {}, 5, "digits", *what, None, label="A", interval=interval)
    for best in (fresh, listed):
        assert ("few rounds: " in str(best_table(best)[-1])) == is_said
