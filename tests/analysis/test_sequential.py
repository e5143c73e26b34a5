"""Evidence that may be looked at after every round: seldom wrong of equals, however often one looks, and not slow."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from numpy.random import Generator, default_rng

from hpo.analysis.sequential import FIRST_LOOK, anytime_interval, log_e_values

Draw = Callable[[Generator, int], npt.NDArray[np.float64]]
EQUAL: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(size=n),
    "of a thousand pairs": lambda random, n: (random.binomial(1000, 0.022, n) - random.binomial(1000, 0.022, n)) / 10,
    "like a coin": lambda random, n: random.choice([-1.0, 0.0, 1.0], size=n, p=[0.1, 0.8, 0.1]),
    "hardly any": lambda random, n: random.choice([-0.1, 0.0, 0.1], size=n, p=[0.01, 0.98, 0.01]),
    "skewed alike": lambda random, n: random.gamma(0.5, size=n) - random.gamma(0.5, size=n),
}


@pytest.mark.parametrize("kind", EQUAL)
@pytest.mark.parametrize("unit", [0.3, 1.0, 3.0])
def test_of_equals_it_is_wrong_in_less_than_five_percent_though_looked_at_after_each_round(
    kind: str, unit: float
) -> None:
    assert share_wrong(EQUAL[kind], unit) <= 0.05


def test_of_equal_means_whose_shapes_differ_it_is_wrong_a_little_more_often() -> None:
    assert share_wrong(lambda random, n: random.gamma(1, 1, n) - random.gamma(4, 0.25, n), 1.0) <= 0.06


def share_wrong(draw: Draw, unit: float) -> float:
    """Returns in what share of series of 100 rounds the evidence is ever too strong, of those that are looked at."""
    random, series = default_rng(0), 600
    drawn = (draw(random, 100).tolist() for _ in range(series))
    wrong = [bool(log_e_values(one, unit)[FIRST_LOOK - 1 :].max() >= math.log(20)) for one in drawn]
    return sum(wrong) / series


@pytest.mark.parametrize(("difference", "rounds"), [(0.5, 60), (1.0, 25), (2.0, 12), (20.0, 9)])
def test_a_difference_of_so_many_deviations_takes_so_many_rounds(difference: float, rounds: int) -> None:
    random = default_rng(0)
    evidence = [log_e_values((difference + random.normal(size=rounds)).tolist(), 1.0).max() for _ in range(100)]
    assert np.median(evidence) >= math.log(20)


def test_zero_is_outside_the_interval_where_the_p_value_says_so() -> None:
    random = default_rng(1)
    for shift in (0.0, 0.3, 0.6, 1.0):
        for level in (0.05, 0.01):
            found = anytime_interval((shift + random.normal(size=40)).tolist(), 1.0, level)
            assert found.low is not None
            assert found.high is not None
            assert found.p_value is not None
            assert (found.low <= 0 <= found.high) == (found.p_value > level)
            assert found.low < found.high


def test_an_interval_holds_the_true_mean_whenever_one_stops() -> None:
    random, series, outside = default_rng(2), 60, 0
    for _ in range(series):
        differences = (0.4 + random.normal(size=60)).tolist()
        found = [anytime_interval(differences[:rounds], 1.0) for rounds in (10, 20, 40, 60)]
        outside += not all(one.holds(0.4) for one in found)
    assert outside / series <= 0.05


def test_what_is_the_same_in_all_rounds_is_no_evidence_and_few_rounds_have_no_interval() -> None:
    assert anytime_interval([0.0] * 50, 0.1).p_value == 1.0
    few = anytime_interval([1.0, 1.2, 0.9], 0.1)
    assert (few.low, few.high) == (None, None)
    always = anytime_interval([0.1] * 12, 1e-9)  # a bet gains at most twofold a round, and half of them are on its side
    assert always.p_value == pytest.approx(2 / 2**12)


def test_evidence_of_a_unit_that_was_far_too_small_is_lost_and_the_interval_is_there() -> None:
    differences = (0.5 + default_rng(4).normal(size=60)).tolist()
    found = anytime_interval(differences, 1e-9)
    assert found.p_value == 1.0
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high


def test_where_differences_turn_the_interval_is_that_of_all_rounds() -> None:
    found = anytime_interval([1.0, 1.1] * 15 + [-1.0, -1.1] * 20, 1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.estimate < found.high


def test_an_interval_does_not_depend_on_the_unit_of_the_errors() -> None:
    differences = default_rng(3).normal(0.5, size=30)
    plain, scaled = anytime_interval(differences.tolist(), 1.0), anytime_interval((100 * differences).tolist(), 100.0)
    assert plain.low is not None
    assert scaled.low == pytest.approx(100 * plain.low)
    assert scaled.p_value == pytest.approx(plain.p_value)


def test_an_end_is_not_looked_for_beyond_what_a_float_holds() -> None:
    """Of five rounds no mean is doubted; the search for one went on for ever where its reach became infinite."""
    found = anytime_interval([1e300, -1e300, 5e299, 1e300, -3e299], 1e300)
    assert (found.low, found.high) == (None, None)
