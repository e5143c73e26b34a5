from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from optuna.trial import TrialState

from hpo.report.costs import cost_sections, cost_ticks, pareto_front
from hpo.storage.queries import StoredTrial
from hpo.study.record import Record
from hpo.study.task import Round, measure_in_turn
from hpo.study.training import Training
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.trainer import Trainer
from tests.conftest import RECOGNITION, SMALL_STUDY, defined

SMALL = defined(SMALL_STUDY, "small")
PARAMS: dict[str, Any] = {"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu"}


def trial(number: int, error: float, parameters: int | None, seconds: float = 60.0) -> StoredTrial:
    attributes: dict[str, Any] = {"seconds": seconds, "std": None}
    attributes |= {} if parameters is None else {"parameters": parameters}
    params = {**PARAMS, "optimizer": "sgd", "learning_rate": 0.1}
    return StoredTrial(number, TrialState.COMPLETE, error, None, None, params, attributes)


TRIALS = [trial(0, 5.0, 100), trial(1, 3.0, 200), trial(2, 4.0, 300), trial(3, 2.0, 900), trial(4, 3.0, 900)]


def test_the_front_is_what_is_better_than_all_that_cost_no_more() -> None:
    assert [one.number for one in pareto_front(TRIALS, "parameters", RECOGNITION)] == [0, 1, 3]
    accuracy = RECOGNITION.model_copy(update={"maximize": True})
    assert [one.number for one in pareto_front(TRIALS, "parameters", accuracy)] == [0]


def test_a_report_draws_errors_against_what_differs_in_cost() -> None:
    (section,) = cost_sections(TRIALS, SMALL, RECOGNITION)  # all took as long
    assert (section.name, section.title) == ("parameters", "Error against parameters")
    assert section.table[0] == ["trial", "parameters", "error", "configuration"]
    assert [row[:2] for row in section.table[1:]] == [["0", "100"], ["1", "200"], ["3", "900"]]
    assert section.figure is not None
    every, front = section.figure.data
    assert sorted(every.x) == [100, 200, 300, 900, 900]
    assert (list(front.x), list(front.y)) == ([100, 200, 900], [5.0, 3.0, 2.0])


def test_trials_of_before_have_no_parameters() -> None:
    old = [trial(one.number, one.value or 0.0, None, seconds=10.0 * (one.number + 1)) for one in TRIALS]
    (section,) = cost_sections(old, SMALL, RECOGNITION)
    assert section.name == "seconds"
    assert [row[1] for row in section.table[1:]] == ["10 s", "20 s", "40 s"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (2.1, 4.9, ["2", "3", "4", "5"]),
        (28_612, 95_568, ["30k", "40k", "50k", "60k", "70k", "80k", "90k", "100k"]),
        (3.8, 215, ["5", "10", "20", "50", "100", "200"]),
        (0.004, 0.3, ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]),
        (1, 1e6, ["1", "10", "100", "1k", "10k", "100k", "1M"]),
    ],
)
def test_a_cost_is_read_off_its_axis_however_near_the_trials_are(low: float, high: float, ticks: list[str]) -> None:
    assert cost_ticks(low, high)["ticktext"] == ticks


def test_every_range_of_costs_has_ticks_and_not_too_many() -> None:
    for exponent in range(-3, 9):
        for ratio in (1.0001, 1.5, 3, 30, 1e5, 1e12):
            low = 1.37 * 10.0**exponent
            found = cost_ticks(low, low * ratio)
            assert 3 <= len(found["tickvals"]) <= 8
            assert len(set(found["ticktext"])) == len(found["ticktext"])


def test_short_times_are_told_apart() -> None:
    short = [trial(number, 5.0 - number, None, seconds=0.2 * (number + 1)) for number in range(4)]
    (section,) = cost_sections(short, SMALL, RECOGNITION)
    assert [row[1] for row in section.table[1:]] == ["0.2 s", "0.4 s", "0.6 s", "0.8 s"]


@pytest.mark.parametrize(("architecture", "ensemble", "expected"), [("fnn", 1, 25_722), ("cnn_bn", 2, 145_568)])
def test_a_trial_keeps_how_many_numbers_its_networks_train(architecture: str, ensemble: int, expected: int) -> None:
    task = DigitPairs(dataset="digits", train_pairs=100, test_pairs=50)
    task.prepare(Path())
    how: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "architecture": architecture, "ensemble": ensemble}
    first, last = Trainer(task, Training(epochs=2)).measure({**PARAMS, **how}, [Round(0, 0), Round(1, 0)])
    assert "parameters" not in first.details
    assert last.details["parameters"] == expected


def test_rounds_one_after_another_keep_what_rounds_together_do() -> None:
    """As a pruner has them measured that compares rounds."""
    task = DigitPairs(dataset="digits", train_pairs=100, test_pairs="all")
    task.prepare(Path())
    params = {**PARAMS, "optimizer": "sgd", "learning_rate": 0.1}
    trainer, rounds = Trainer(task, Training(epochs=1), keep=["examples"]), [Round(0, 0), Round(1, 0), Round(2, 0)]
    kept = []
    for by_rounds in (False, True):
        record = Record(task.metrics, "recognition", by_rounds=by_rounds)
        measured = (
            measure_in_turn(cast("Any", trainer), params, rounds) if by_rounds else trainer.measure(params, rounds)
        )
        for one in measured:
            record.add(one)
        assert record.examples is not None
        kept.append((record.kept(whole=True), record.examples.influences()))
    (together, examples), (apart, examples_apart) = kept
    np.testing.assert_allclose(examples_apart, examples, atol=1e-6)
    assert examples.std() > 0
    assert together["parameters"] == 25_722
    assert {**apart, "errors_by_step": None} == {**together, "errors_by_step": None}
