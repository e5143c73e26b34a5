from __future__ import annotations

import optuna
import pytest

from hpo.search.pruners import PowerLawPruner, extrapolate


@pytest.mark.parametrize("exponent", [-0.5, -1.2])
def test_a_power_law_is_drawn_on_exactly(exponent: float) -> None:
    curve = {epoch: 40 * epoch**exponent for epoch in (1, 2, 3, 4)}
    assert extrapolate(curve, 25) == pytest.approx(40 * 25**exponent)
    assert extrapolate({2: curve[2], 4: curve[4]}, 25) == pytest.approx(40 * 25**exponent)


def test_a_curve_that_rises_is_level_and_one_that_plunges_is_held() -> None:
    assert extrapolate({2: 40.0, 4: 45.0}, 25) == 45.0
    assert extrapolate({2: 50.0, 4: 0.01}, 8) == pytest.approx(0.01 / 8)
    assert extrapolate({2: 50.0, 4: 0.0}, 25) == 0.0


def test_the_slope_reaches_two_reports_back_so_that_one_bump_does_not_decide() -> None:
    assert extrapolate({2: 20.0, 4: 10.0, 8: 11.0}, 25) < 11.0


def ask_with(study: optuna.Study, curve: dict[int, float]) -> bool:
    trial = study.ask()
    for step, value in curve.items():
        trial.report(value, step)
    return trial.should_prune()


def test_a_trial_is_pruned_when_its_curve_ends_above_the_best() -> None:
    study = optuna.create_study(pruner=PowerLawPruner(last_step=16, margin=1.0))
    flat, falling = {2: 40.0, 4: 39.0}, {2: 40.0, 4: 20.0}  # ends at 38 and at 5
    assert not ask_with(study, flat)  # nothing has finished yet
    study.tell(study.ask(), 10.0)
    assert ask_with(study, flat)
    assert not ask_with(study, falling)
    assert not ask_with(study, {2: 90.0})  # a single report has no slope
    study.tell(study.ask(), 4.0)
    assert ask_with(study, falling)
    study.pruner = PowerLawPruner(last_step=16, margin=2.0)
    assert not ask_with(study, falling)
