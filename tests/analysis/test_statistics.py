from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpo.analysis.statistics import difference_of_means, holm, mean_of, paired_difference, ratio_of_deviations


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


def test_equal_constants_differ_by_nothing() -> None:
    assert difference_of_means(1.0, 0.0, 10, 1.0, 0.0, 10).high == 0.0


def test_a_ratio_of_deviations_covers_the_truth_in_95_of_100() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        ours, theirs = random.normal(0, 3.0, 10).std(ddof=1), random.normal(0, 1.5, 10).std(ddof=1)
        found = ratio_of_deviations(ours, 10, theirs, 10)
        covered += found.holds(2.0)
    assert 935 <= covered <= 965


def test_a_paired_difference_is_students() -> None:
    random = np.random.default_rng(1)
    theirs = random.normal(2.0, 0.4, 30)
    ours = theirs + random.normal(0.05, 0.1, 30)
    found = paired_difference(ours.tolist(), theirs.tolist())
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval()
    assert (found.low, found.high, found.p_value) == pytest.approx((interval.low, interval.high, expected.pvalue))
    assert paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p_value == 1.0
    assert paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).p_value == 0.0


def test_a_mean_has_students_interval() -> None:
    errors = [2.0, 2.5, 1.5, 3.0]
    low, high = stats.t.interval(0.95, 3, np.mean(errors), stats.sem(errors))
    found = mean_of(errors)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.25, low, high))
    with pytest.raises(ValueError, match="a mean needs a round"):
        mean_of([])


@pytest.mark.parametrize("errors", [[44.5], [32.5, 56.5]])
def test_fewer_than_three_rounds_have_a_mean_and_no_interval(errors: list[float]) -> None:
    for found in (mean_of(errors), paired_difference(errors, [0.0] * len(errors))):
        assert (found.estimate, found.low, found.high, found.p_value) == (44.5, None, None, None)
    assert difference_of_means(44.5, 12.0, len(errors), 2.0, 0.3, 10).low is None
    assert difference_of_means(44.5, 12.0, 10, 2.0, 0.3, len(errors)).low is None


def test_an_interval_keeps_within_what_can_be() -> None:
    wide = mean_of([2.0, 50.0, 98.0])
    assert wide.low is not None
    assert wide.high is not None
    assert wide.low < 0 < 100 < wide.high
    cut = wide.within(0, 100)
    assert (cut.low, cut.high, cut.estimate, cut.standard_error) == (0, 100, wide.estimate, wide.standard_error)
    difference = paired_difference([99.0, 1.0, 90.0], [0.0, 1.0, 0.0]).within(-100, 100)
    assert difference.high == 100
    assert mean_of([2.0]).within(0, 100).low is None


def test_holms_correction_is_as_in_the_literature() -> None:
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
