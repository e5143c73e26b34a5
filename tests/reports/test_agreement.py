"""Verdicts on cells and tables have the levels that they state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hpo.reports import agreement
from hpo.reports.agreement import LEVEL, Verdict, counted, judge, judge_table
from hpo.reports.reproduction import Cell

Draw = Callable[[tuple[int, ...]], NDArray[np.float64]]


def cell(errors: Any, mean: float, std: float, rounds: int = 10, **more: Any) -> Cell:
    """A published mean and deviation beside measured errors."""
    errors = list(map(float, errors))
    known: dict[str, Any] = {"table": "report_a_table_1", "label": "FNN", "learning_rate": 0.1, "is_at_chance": False}
    known |= {"published_mean": mean, "published_std": std, "published_rounds": rounds, "errors_head": errors}
    known |= {"mean": float(np.mean(errors)), "errors_recognition": errors, "errors": errors}
    return Cell(**{**known, "std": float(np.std(errors, ddof=1)) if len(errors) > 1 else None, **more})


def both(ours: Any, theirs: Any) -> Cell:
    """A cell whose published figures are of rounds that a test knows."""
    return cell(ours, float(np.mean(theirs)), float(np.std(theirs, ddof=1)), len(theirs))


def spaced(mean: float, std: float, rounds: int = 10) -> NDArray[np.float64]:
    """Errors with exactly this mean and deviation."""
    line = np.linspace(-1, 1, rounds)
    return np.asarray(mean + std * line / line.std(ddof=1))


def normal(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(5.0, 1.0, shape)


def far(shape: tuple[int, ...]) -> NDArray[np.float64]:
    stream = np.random.default_rng(0)
    return np.asarray(stream.normal(5.0, 1.0, shape) + 20 * (stream.random(shape) < 0.02))


@pytest.mark.parametrize(("draw", "most"), [(normal, 0.02), (far, 0.05)])
@pytest.mark.parametrize("rounds", [5, 10])
def test_a_true_mean_is_rejected_as_often_as_is_said(draw: Draw, most: float, rounds: int) -> None:
    """Three standard errors rejected 1.6 % of five rounds; the F test alone 18 and 30 % with rare far rounds."""
    verdicts = [judge(both(*pair)) for pair in draw((2000, 2, rounds))]
    known = [one for one in verdicts if isinstance(one, Verdict)]
    assert len(known) == 2000
    means = np.mean([not one.same_mean for one in known])
    assert means < LEVEL + 3 * (LEVEL / 2000) ** 0.5
    assert np.mean([not one.is_consistent and not one.far for one in known]) < most


def test_a_mean_is_judged_by_t() -> None:
    quantile = float(stats.t.ppf(1 - LEVEL / 2, 18)) * (2 * 0.4**2 / 10) ** 0.5
    near, away = (judge(cell(spaced(2.0 + by * quantile, 0.4), 2.0, 0.4)) for by in (0.98, -1.02))
    assert str(near) == "consistent (2.8 s.e.)"
    assert str(away) == "not: 0.53 lower, 2.9 s.e."


def test_there_is_no_verdict_where_nothing_can_be_judged() -> None:
    few, flat = "none: it takes 5 rounds on both sides", "none: a deviation of 0 leaves nothing to judge by"
    assert judge(cell([2.0], 2.0, 0.3)) == few
    assert judge(cell(spaced(2.0, 0.4, 4), 2.0, 0.3)) == few
    assert judge(cell(spaced(2.0, 0.4), 2.0, 0.3, rounds=1)) == few
    assert judge(cell([2.0] * 10, 2.0, 0.0)) == judge(cell([2.0] * 10, 2.0, 0.3)) == flat
    assert judge(cell(spaced(2.0, 0.4), 2.0, 0.0)) == flat


def test_one_far_round_is_named() -> None:
    ours = judge(cell([*spaced(3.1, 0.44, 9), 8.4], 3.1, 0.46))
    assert str(ours) == "consistent but for our round 9, 8.4"
    assert isinstance(ours, Verdict)
    assert not ours.is_consistent
    theirs = [*spaced(4.3, 0.94, 9), 19.0]
    assert str(judge(both(spaced(4.75, 0.94), theirs))) == "consistent but for a round of the report's near 19"
    assert str(judge(cell([*spaced(2.6, 0.6, 6), *[100.0] * 4], 2.71, 0.44))) == "not: 114 times the spread (2.4 s.e.)"
    assert (
        str(judge(cell(spaced(5.8, 0.9), 5.8, 4.66))) == "not: 0.193 times the spread (0.0 s.e.)"
    )  # no x fits the mean


def test_equivalent_means_are_surely_within_a_point() -> None:
    for std, expected in ((0.4, True), (1.3, False)):
        verdict = judge(cell(spaced(2.1, std), 2.0, std))
        assert isinstance(verdict, Verdict)
        assert verdict.is_equivalent is expected


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_joint_p_values_are_uniform_where_all_cells_agree(shared: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "DRAWS", 500)
    stream, found = np.random.default_rng(0), []
    scale = np.linspace(0.5, 2.0, 4)[:, None]
    for _ in range(300):
        rounds = shared**0.5 * stream.normal(size=(1, 10)) + (1 - shared) ** 0.5 * stream.normal(size=(4, 10))
        verdict = judge_table(
            [both(*pair) for pair in zip(9 + scale * rounds, 9 + scale * stream.normal(size=(4, 10)), strict=True)]
        )
        assert verdict is not None
        found.append((verdict.p_cells, verdict.p_effects, verdict.shift.p_value))
    rejected = (np.array(found) < 0.05).mean(axis=0)
    assert (rejected < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5).all()
    assert all(stats.kstest(ps, "uniform").pvalue > 0.001 for ps in np.array(found).T)


def test_a_shift_of_all_cells_is_no_difference_of_effects() -> None:
    stream = np.random.default_rng(1)
    draw = stream.normal(size=(1, 10))  # what is hard about a draw is hard in every cell
    ours = 9.0 + draw + 0.1 * stream.normal(size=(4, 10))
    shifted = judge_table([cell(one, 7.0, 0.3) for one in ours])
    assert shifted is not None
    assert shifted.p_cells < 0.001 < 0.05 < shifted.p_effects
    assert shifted.shift.value == pytest.approx(ours.mean() - 7.0)
    one_off = judge_table([cell(one, 9.0 - 2.0 * (i == 0), 0.3) for i, one in enumerate(ours)])
    assert one_off is not None
    assert one_off.p_effects < 0.001
    assert judge_table([cell(spaced(2.0, 0.4), 2.0, 0.3)]) is None


def test_published_cells_are_counted_once() -> None:
    rows = [cell(spaced(2.0, 0.4), 2.04, 0.27, label=label) for label in ("SGD, own range test", "SGD at 0.1383")]
    assert [one.label for one in counted(rows)] == ["SGD at 0.1383"]
