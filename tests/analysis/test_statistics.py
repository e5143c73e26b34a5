from __future__ import annotations

from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from hpo.analysis.caveats import few_rounds
from hpo.analysis.sign_flips import PATTERNS, sign_flip_p_values
from hpo.analysis.statistics import (
    Interval,
    difference_of_means,
    holm,
    mean_of,
    paired_difference,
    ratio_of_deviations,
)
from hpo.study.card import MetricCard
from tests.conftest import RECOGNITION

METRIC = RECOGNITION.model_copy(update={"resolution": 0.1})
LEAST = 0.1 * (1 - 0.025**0.1)  # of ten rounds


def replace_resolution(resolution: float | None) -> MetricCard:
    return METRIC.model_copy(update={"resolution": resolution})


def test_a_difference_of_means_is_welchs() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(2.2, 0.4, 10), random.normal(2.0, 0.2, 14)
    found = difference_of_means(
        ours.mean(), ours.std(ddof=1), len(ours), theirs.mean(), theirs.std(ddof=1), len(theirs)
    )
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.standard_error is not None
    assert found.estimate / found.standard_error == pytest.approx(expected.statistic)


def test_constants_have_no_interval_and_it_is_said_why() -> None:
    found = difference_of_means(1.0, 0.0, 10, 1.0, 0.0, 10)
    assert (found.estimate, found.text("%")) == (0.0, "all rounds alike")


def test_a_ratio_of_deviations_covers_the_truth_in_95_of_100() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        ours, theirs = random.normal(0, 3.0, 10).std(ddof=1), random.normal(0, 1.5, 10).std(ddof=1)
        found = ratio_of_deviations(ours, 10, theirs, 10)
        covered += found.holds(2.0)
    assert 935 <= covered <= 965


def test_a_paired_difference_has_students_interval_and_the_p_value_of_all_signs() -> None:
    random = np.random.default_rng(1)
    theirs = random.normal(2.0, 0.4, 10)
    ours = theirs + random.normal(0.05, 0.1, 10)
    found = paired_difference(ours.tolist(), theirs.tolist(), METRIC)
    interval = stats.ttest_rel(ours, theirs).confidence_interval()
    exact = stats.permutation_test((ours - theirs,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert (found.low, found.high, found.p_value) == pytest.approx((interval.low, interval.high, exact.pvalue))
    assert paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], METRIC).p_value == 1.0
    assert paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], METRIC).p_value == 2 / 2**3


def test_what_floats_make_of_equal_differences_is_no_evidence() -> None:
    """Ten differences of 0.1, which floats have as 0.10000000000000009 and the like."""
    theirs = [2.3, 2.9, 2.1, 2.2, 2.7, 2.5, 2.4, 2.8, 2.6, 2.0]
    found = paired_difference([one + 0.1 for one in theirs], theirs, METRIC)
    assert found.p_value == 2 / 2**10
    assert (found.low, found.high) == pytest.approx((0.1 - LEAST, 0.1 + LEAST))
    exact = paired_difference([one + 0.1 for one in theirs], theirs, replace_resolution(None))
    assert exact.text("%") == "all rounds alike"


def test_a_mean_has_students_interval() -> None:
    errors = [2.0, 2.5, 1.5, 3.0]
    low, high = stats.t.interval(0.95, 3, np.mean(errors), stats.sem(errors))
    found = mean_of(errors, METRIC)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.25, low, high))
    with pytest.raises(ValueError, match="a mean needs a round"):
        mean_of([], METRIC)


def test_no_interval_is_narrower_than_the_resolution_allows() -> None:
    assert mean_of([0.0] * 10, METRIC).high == pytest.approx(LEAST)
    one_off = mean_of([2.0] * 9 + [2.1], METRIC)
    assert one_off.high is not None
    assert one_off.high - one_off.estimate == pytest.approx(0.1 * (stats.binomtest(1, 10).proportion_ci().high - 0.1))
    assert mean_of([2.0] * 10, replace_resolution(None)).text("%") == "all rounds alike"


def test_where_hardly_any_round_differs_the_interval_still_covers_the_truth() -> None:
    random = np.random.default_rng(2)
    for number in (6, 10, 30):
        for share in (0.02, 0.1, 0.3):
            errors = 2.0 + 0.1 * (random.random((400, number)) < share)
            covered = sum(mean_of(one.tolist(), METRIC).holds(2.0 + 0.1 * share) for one in errors)
            assert covered >= 0.92 * 400, (number, share, covered)


def test_a_mean_that_counts_diverged_rounds_has_no_interval() -> None:
    found = mean_of([2.0, 2.5, 100.0, 3.0], METRIC, [2])
    assert (found.estimate, found.text("%")) == (26.875, "rounds diverged")
    assert mean_of([100.0] * 4, METRIC, range(4)).text("%") == "rounds diverged"  # that the next does, too, is not sure


@pytest.mark.parametrize("errors", [[44.5], [32.5, 56.5]])
def test_fewer_than_three_rounds_have_a_mean_and_no_interval(errors: list[float]) -> None:
    for found in (mean_of(errors, METRIC), paired_difference(errors, [0.0] * len(errors), METRIC)):
        assert (found.estimate, found.low, found.high, found.p_value) == (44.5, None, None, None)
    assert difference_of_means(44.5, 12.0, len(errors), 2.0, 0.3, 10).low is None
    assert difference_of_means(44.5, 12.0, 10, 2.0, 0.3, len(errors)).low is None


def test_an_interval_keeps_within_what_can_be() -> None:
    wide = mean_of([2.0, 50.0, 98.0], METRIC)
    assert (wide.low, wide.high, wide.estimate) == (0, 100, 50.0)
    assert paired_difference([99.0, 1.0, 90.0], [0.0, 1.0, 0.0], METRIC).high == 100
    assert mean_of([2.0], METRIC).low is None


def test_equal_errors_differ_by_nothing_whatever_floats_make_of_them() -> None:
    """0.1 + 0.2 is not 0.3 in floats: ten such differences have one sign, and are none."""
    found = paired_difference([0.1 + 0.2] * 10, [0.3] * 10)
    assert (found.estimate, found.p_value, found.text("%")) == (0.0, 1.0, "all rounds alike")


def test_a_diverged_round_hides_no_difference_of_the_others() -> None:
    found = paired_difference([2.0, 2.1, 2.3, 1e15], [1.0, 1.4, 1.1, 1e15], None, [3])
    assert found.estimate == pytest.approx(0.9666667)
    assert found.low is not None


@pytest.mark.parametrize("number", [3, 10, 30, 100])
def test_rounds_of_two_values_are_covered_whatever_share_is_off(number: int) -> None:
    """The chances are computed: so many of n rounds are off by one example, each with the same chance."""
    off = np.arange(number + 1)
    found = [mean_of([2.1] * int(k) + [2.0] * (number - int(k)), METRIC) for k in off]
    for share in (0.002, 0.02, 0.08, 0.12, 0.2, 0.3, 0.5):
        held = [interval.holds(2 + share * 0.1) for interval in found]
        assert float(stats.binom.pmf(off, number, share)[held].sum()) >= 0.95


def test_two_means_of_rounds_that_hardly_differ_keep_the_resolution_too() -> None:
    found = difference_of_means(2.1, 0.0, 10, 2.0, 0.0, 10, 0.1, 0.1)
    assert (found.low, found.high) == pytest.approx((0.1 - 2**0.5 * LEAST, 0.1 + 2**0.5 * LEAST))


def test_each_of_two_means_has_the_resolution_of_its_own_examples() -> None:
    found = difference_of_means(2.1, 0.0, 10, 2.0, 0.0, 10, 0.1, 1.0)
    assert (found.low, found.high) == pytest.approx((0.1 - 101**0.5 * LEAST, 0.1 + 101**0.5 * LEAST))


def test_joint_p_values_are_those_of_all_signs() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(0.5, 1.0, (3, 7))
    signs = np.array(list(product((1, -1), repeat=7)))
    largest = (np.abs(signs @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T)).max(axis=1)
    own = np.abs(rows.sum(axis=1)) / np.linalg.norm(rows, axis=1)
    _, together = sign_flip_p_values(rows.tolist())
    assert together == pytest.approx([(largest >= one - 1e-12).mean() for one in own])


def test_a_difference_of_few_rounds_does_not_hide_those_of_many() -> None:
    """Three rounds in which both converged agree in one pattern of four; that says nothing of the other pair."""
    few = [0.1, 0.1, 0.1] + [float("nan")] * 7
    many = [0.5, 0.4, 0.6, 0.5, 0.3, 0.5, 0.6, 0.4, 0.5, 0.5]
    _, together = sign_flip_p_values([few, many])
    assert together[1] == 2 / 2**10
    assert together[0] >= 2 / 2**3


def test_a_hundred_rounds_take_a_fixed_draw_of_signs_and_p_is_never_0() -> None:
    alone, _ = sign_flip_p_values([[1.0] * 100])
    assert alone == sign_flip_p_values([[1.0] * 100])[0] == [1 / PATTERNS]


def test_holms_correction_is_as_in_the_literature() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_errors_whose_squares_no_float_holds_are_compared_as_any_others(scale: float) -> None:
    """As those of a round that diverges may be, and are yet finite."""
    errors, others = [1.0, 1.2, 0.9, 1.4, 1.1, 1.3, 1.2], [1.5, 1.4, 1.6, 1.5, 1.3, 1.7, 1.6]
    of, by = ([scale * error for error in side] for side in (errors, others))
    plain, scaled = (
        difference_of_means(fmean(ours), stdev(ours), 7, fmean(theirs), stdev(theirs), 7)
        for ours, theirs in ((errors, others), (of, by))
    )
    assert plain.low is not None
    assert scaled.low == pytest.approx(scale * plain.low, rel=1e-9)
    differences = [theirs - ours for ours, theirs in zip(of, by, strict=True)]
    assert sign_flip_p_values([differences]) == sign_flip_p_values([[one / scale for one in differences]])
    assert "skewed errors" in few_rounds(30, Interval(1.0, 0.0, 2.0), errors=[[scale] * 29 + [9 * scale]])
