"""A small part of what `benchmarks.images_and_looks` measures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.images_and_looks import FLIPS, METRIC, coverage, false_alarms, given_up
from hpo.analysis import sign_flips
from hpo.analysis.new_examples import on_new_examples
from hpo.analysis.statistics import mean_of
from hpo.study.examples import ExampleOutcomes

AGREE = "agree on images"


@pytest.mark.parametrize("number", [5, 30])
def test_an_interval_on_new_images_holds_where_one_on_these_does_not(number: int) -> None:
    found = {name: held / of for name, (held, of) in coverage(AGREE, number, 150).items()}
    for name in ("mean, these images", "difference, these images", "mean, new images", "difference, new images"):
        assert found[name] >= 0.89, name  # 95 %, and three standard errors of 150 studies
    assert found["mean, these images, taken for new ones"] < (0.93 if number == 5 else 0.65)


def test_ten_looks_deceive_a_p_value_and_no_e_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_flips, "PATTERNS", FLIPS)
    at_looks, always, by_p = false_alarms("normal", 300)
    assert at_looks <= always <= 0.05 * 300
    assert by_p > 0.1 * 300


def test_where_no_image_was_ever_wrong_some_of_the_next_may_be() -> None:
    errors, influences = [0.0] * 10, np.zeros((10, 1000))
    found = on_new_examples(errors, influences, METRIC)
    assert found is not None
    assert found.high is not None
    assert 0.36 < found.high < 0.38  # that none of 1000 was has a chance of 2.5 % where 0.37 % are
    unbounded = METRIC.model_copy(update={"low": None, "high": None, "resolution": None})
    assert on_new_examples(errors, influences, unbounded) is None
    assert on_new_examples([0.0] * 10, np.zeros((10, 1)), METRIC) is None


@pytest.mark.parametrize("off", [1, 3])
def test_no_interval_on_new_images_is_narrower_than_that_on_these(off: int) -> None:
    wrong = np.zeros((20, 1000))
    wrong[range(off), range(off)] = 100.0  # another image in each of some rounds
    errors = wrong.mean(axis=1).tolist()
    found, here = (
        on_new_examples(errors, ExampleOutcomes.of_errors(wrong).influences(), METRIC),
        mean_of(errors, METRIC),
    )
    assert found is not None
    assert found.high is not None
    assert here.high is not None
    assert found.high >= here.high - 1e-12


def test_one_of_three_that_are_alike_is_hardly_ever_given_up() -> None:
    assert given_up("normal", 3, 300) <= 0.05 * 300
