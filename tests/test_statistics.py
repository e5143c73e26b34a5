from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpo.statistics import difference_of_means, ratio_of_deviations


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
        covered += found.low <= 2.0 <= found.high
    assert 935 <= covered <= 965
