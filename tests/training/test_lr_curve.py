from __future__ import annotations

import json

import numpy as np
import pytest

from hpo.training.lr_curve import (
    LRCurve,
    bounds,
    describe_curve,
    falls,
    from_json,
    minimum,
    spaced_rates,
    steepest,
    valley,
)

RATES = spaced_rates(1e-4, 1.0, 101)


def cliff(bottom: float, *, width: float = 1.0) -> np.ndarray:
    """A curve that falls towards `bottom`, fastest one decade before it, and rises steeply after."""
    decades = np.log10(RATES / bottom)
    falling = 5 / (1 + np.exp(4 * (decades + width)))
    return np.asarray(0.5 + falling + np.where(decades > 0, 20 * decades**2, 0.0))


def test_rates_are_evenly_spaced_in_their_logarithm() -> None:
    rates = spaced_rates(1e-4, 1.0, 5)
    assert rates.tolist() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_the_minimum_is_of_the_raw_curve() -> None:
    losses = cliff(0.1)
    losses[20] = 0.0  # one lucky batch
    assert minimum(RATES, losses) == RATES[20]


def test_the_steepest_descent_is_before_the_minimum() -> None:
    losses = cliff(0.1)
    assert steepest(RATES, losses) == pytest.approx(0.01, rel=1.0)
    assert steepest(RATES, losses) < minimum(RATES, losses)


def test_the_valley_is_the_longest_fall_and_not_a_dent() -> None:
    losses = np.concatenate([np.full(20, 5.0), np.linspace(5.0, 1.0, 60), np.linspace(1.0, 9.0, 21)])
    losses[5:8] -= 0.5
    assert RATES[30] < valley(RATES, losses) < RATES[70]


def test_bounds_hold_the_fall_and_the_minimum() -> None:
    losses = cliff(0.1)
    low, high = bounds(RATES, losses)
    assert low < steepest(RATES, losses) < minimum(RATES, losses) < high < 1.0


@pytest.mark.parametrize("level", [0.69, 5.3])
def test_a_curve_of_noise_does_not_fall_and_a_cliff_does(level: float) -> None:
    random = np.random.default_rng(0)
    flat = [falls(level + random.normal(0, 0.02, steps)) for steps in (6, 20, 100) for _ in range(100)]
    assert sum(flat) <= 0.1 * len(flat)
    assert not falls(np.full(20, level))
    assert not falls(np.linspace(level, 2 * level, 20) + random.normal(0, 0.02, 20))
    assert falls(np.linspace(level, level / 2, 20) + random.normal(0, 0.02, 20))
    assert falls(cliff(0.1) + random.normal(0, 0.02, len(RATES)))
    assert not falls(np.array([level, np.nan]))


@pytest.mark.parametrize("suggest", [minimum, steepest, valley])
def test_nothing_is_concluded_from_what_came_after_a_divergence(suggest: object) -> None:
    whole = cliff(0.1)
    cut = whole.copy()
    cut[85:] = np.nan
    assert suggest(RATES, cut) == pytest.approx(suggest(RATES, whole), rel=0.2)  # type: ignore[operator]


def test_suggestions_change_nothing() -> None:
    losses, before = cliff(0.1), cliff(0.1)
    for suggest in (minimum, steepest, valley, bounds):
        suggest(RATES, losses)
    assert (losses == before).all()


def test_a_sweep_has_report_as_optimum_and_its_deviation() -> None:
    curve = LRCurve(RATES, np.stack([cliff(0.05), cliff(0.15)]))
    assert curve.optima == [minimum(RATES, curve) for curve in curve.losses]
    assert curve.mean == pytest.approx(sum(curve.optima) / 2)
    assert curve.std == pytest.approx(abs(curve.optima[0] - curve.optima[1]) / 2**0.5)
    assert LRCurve(RATES, cliff(0.1)[None]).std is None


def test_a_sweep_survives_json_with_its_holes() -> None:
    losses = np.stack([cliff(0.05), cliff(0.15)])
    losses[0, 90:] = np.nan
    curve = LRCurve(RATES, losses)
    described = json.loads(json.dumps(describe_curve(curve, "sgd"), allow_nan=False))
    assert set(described) == {"optimizer", "rates", "losses", "optima", "mean", "std"}
    again = from_json(described)
    assert np.array_equal(again.losses, losses, equal_nan=True)
    assert (again.mean, again.ended) == (curve.mean, 1)


def test_a_round_that_diverged_at_once_has_no_optimum() -> None:
    losses = np.stack([cliff(0.05), cliff(0.15), cliff(0.15)])
    losses[0, 1:] = np.nan
    losses[1, :] = np.nan
    curve = LRCurve(RATES, losses)
    assert np.isnan(curve.optima[:2]).all()
    assert (curve.mean, curve.std) == (minimum(RATES, losses[2]), None)
    described = json.loads(json.dumps(describe_curve(curve, "sgd"), allow_nan=False))
    assert described["optima"] == [None, None, curve.mean]
    hopeless = describe_curve(LRCurve(RATES, losses[:2]), "sgd")
    assert hopeless["mean"] is None
