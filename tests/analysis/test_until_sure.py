"""A series of confirmations: fresh rounds for those that are close, until one is left or all will do."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from numpy.random import default_rng
from optuna.storages import RDBStorage

from hpo.analysis.comparison import compare
from hpo.analysis.confirmation import read_confirmations, read_winner
from hpo.analysis.fresh_rounds import CONFIRMS, define_confirmation
from hpo.analysis.statistics import ALIKE, LOOKED
from hpo.analysis.until_sure import Contender, Series, _judged, next_batch, read_series
from hpo.cli.read.best import best_table
from hpo.cli.read.compare import comparison_json, comparison_view
from hpo.errors import RequestError
from hpo.report.report import read_report
from hpo.storage.queries import set_study_attribute
from hpo.storage.studies import read_definition
from tests.analysis.test_confirmation import add, confirm
from tests.conftest import RECOGNITION, create

Errors = Callable[[float, int], float]
"""The error of a learning rate in a round."""


@pytest.fixture
def searched(created: RDBStorage) -> RDBStorage:
    """The small study with three configurations, the best at 0.1."""
    for rate, mean in ((0.3, 4.0), (0.1, 2.0), (0.2, 3.0)):
        add(created, "small", rate, [mean - 0.5, mean, mean + 0.6])
    return created


def measure(
    opened: RDBStorage, errors: Errors, *, batches: int = 99, margin: float | None = None, most: int = 60
) -> int:
    """Measures so many batches of the series, as far as it goes; returns how many there were."""
    for batch in range(batches):
        found = next_batch(opened, "small", top=3, margin=margin, most=most)
        if found is None:
            return batch
        name, definition, confirms = found
        create(opened, name, definition, len(definition.trial))
        set_study_attribute(opened, name, CONFIRMS, confirms)
        for slot, entry in enumerate(definition.trial):
            rate = float(entry.params["learning_rate"])
            measured = [errors(rate, number) for number in definition.protocol.round_numbers]
            out = [r for r, error in enumerate(measured) if error == 100.0]
            add(opened, name, rate, measured, slot=slot, diverged_rounds=out)
    return batches


def series(opened: RDBStorage, *, margin: float | None = None, most: int = 60) -> Series:
    found = read_series(opened, "small", top=3, margin=margin, most=most)
    assert found is not None
    return found


def noisy(means: dict[float, float]) -> Errors:
    return lambda rate, number: means[rate] + 0.3 * float(default_rng([number, round(10 * rate)]).normal())


def test_the_clearest_leave_first_and_the_close_ones_get_more_rounds(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.3, 0.3: 4.0}))
    found = series(searched)
    assert [(one.name, one.is_out) for one in found.contenders] == [
        *(("trial 1", False), ("trial 2", True)),
        ("trial 0", True),
    ]
    assert len(found.contenders[2].errors) == 10 < len(found.contenders[1].errors) == found.rounds
    assert str(found).startswith("study small: trial 1 is the best of all 3")
    numbers = [read_definition(searched, name).protocol.round_numbers for name in found.names]
    assert numbers[0] == range(3, 13)
    assert all(first.stop == second.start for first, second in pairwise(numbers))


def test_equals_end_with_the_most_rounds_or_within_a_margin(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.0, 0.3: 4.0}))
    found = series(searched)
    assert (found.rounds, [one.is_out for one in found.contenders]) == (60, [False, False, True])
    assert "is first, but cannot be told from" in str(found)
    assert str(found).endswith("trial 0 is out (60 fresh rounds on digits)")
    will_do = series(searched, margin=0.5)
    assert (will_do.will_do, will_do.is_over) == (True, True)
    assert "will do: " in str(will_do)
    assert "by at most 0.50 points" in str(will_do)
    assert next_batch(searched, "small", top=3, margin=0.5, most=500) is None
    other = will_do.contenders[1]
    assert other.within is not None
    assert other.within > 0.99
    assert not series(searched, margin=0.001).will_do


def better_but_diverging(mean: float, rounds: range) -> Errors:
    """The error at 0.1 is such a mean, and below that at 0.2, but for the rounds in which it diverged."""
    plain = noisy({0.1: mean, 0.2: 2.0, 0.3: 9.0})
    return lambda rate, number: 100.0 if rate == 0.1 and number in rounds else plain(rate, number)


def test_evidence_for_one_that_diverges_later_is_none_against_it(searched: RDBStorage) -> None:
    measure(searched, better_but_diverging(1.3, range(20, 22)), batches=2)
    found = series(searched)
    assert (found.rounds, found.contenders[1].mean > found.contenders[0].mean + 5) == (20, True)
    assert [one.name for one in found.left] == ["trial 2", "trial 1"]  # which was better in 18 rounds of 20


def test_who_diverges_is_said_in_the_answer_and_has_no_normal_probability(searched: RDBStorage) -> None:
    measure(searched, better_but_diverging(2.0, range(4, 7)), batches=1)
    found = series(searched)
    assert [(one.name, one.diverged, one.better) for one in found.left] == [("trial 2", 0, None), ("trial 1", 3, None)]
    assert str(found).endswith("(trial 1 diverged in 3 of 10 rounds; 10 fresh rounds on digits)")


def test_what_a_study_of_one_round_leaves_open_is_found_out_all_the_same() -> None:
    """There is no deviation before the first fresh round; and no resolution, so nothing else to bet by."""
    metric, errors = RECOGNITION.model_copy(update={"resolution": None}), noisy({0.1: 2.0, 0.2: 2.6})
    contenders = [
        Contender(trial, str(rate), {}, [errors(rate, number) for number in range(40)], 0)
        for trial, rate in enumerate((0.1, 0.2))
    ]
    assert [one.is_out for one in _judged(contenders, [[2.0], [2.6]], metric, None)] == [False, True]


def test_a_series_goes_on_with_more_rounds_and_never_with_the_same_ones(searched: RDBStorage) -> None:
    equal = noisy({0.1: 2.0, 0.2: 2.0, 0.3: 2.0})
    assert measure(searched, equal, most=20) == 2
    assert next_batch(searched, "small", top=3, margin=None, most=20) is None
    confirm(searched)  # another confirmation takes the next six rounds
    found = next_batch(searched, "small", top=3, margin=None, most=27)
    assert found is not None
    name, definition, confirms = found
    assert definition.protocol.round_numbers == range(29, 36)
    assert (name, confirms["series"]) == ("small-sure-3", "small-sure")


def test_a_batch_that_was_stopped_is_gone_on_with(searched: RDBStorage) -> None:
    name, definition, confirms = next_batch(searched, "small", top=3, margin=None, most=50) or pytest.fail("it is over")
    create(searched, name, definition, 3)
    set_study_attribute(searched, name, CONFIRMS, confirms)
    add(searched, name, 0.1, [2.0] * 10, slot=0)
    assert next_batch(searched, "small", top=3, margin=None, most=50) == (name, definition, confirms)
    assert read_series(searched, "small", top=3, margin=None, most=50) is None


def test_rounds_that_were_confirmed_by_are_not_taken_again(searched: RDBStorage) -> None:
    confirm(searched)
    again = define_confirmation(searched, "small", top=3, rounds=6)
    assert again[0] == "small-confirm"  # the same is only read
    name, definition, _ = define_confirmation(searched, "small", top=3, rounds=8)
    assert (name, definition.protocol.round_numbers) == ("small-confirm-2", range(9, 17))


def test_one_configuration_has_nothing_to_be_told_from(searched: RDBStorage) -> None:
    with pytest.raises(RequestError, match="it takes two to compare"):
        next_batch(searched, "small", top=1, margin=None, most=50)


def test_a_comparison_takes_the_common_rounds_of_a_series_and_tests_nothing_after_looking(
    searched: RDBStorage,
) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.3, 0.3: 4.0}))
    left = series(searched)
    found = compare(searched, "small")
    assert (found.source, found.is_series, found.is_biased) == ("small-sure", True, False)
    assert found.rounds == left.rounds > 10
    assert {one.trial: one.errors for one in found.compared} == {
        one.trial: one.errors for one in left.contenders if len(one.errors) == left.rounds
    }
    assert str(found).endswith(
        "points, but the number of rounds was chosen by looking at them, for which p values would be too small (test "
        f"error by recognition, {left.rounds} fresh rounds on digits)"
    )
    (contrast,) = comparison_json(found)["contrasts"]
    assert [contrast[key] for key in ("p_value", "diverged_p_value", "low", "high", "on_new")] == [None] * 5
    assert not contrast["is_significant"]
    *_, (how, *_) = comparison_view(found)
    assert how.endswith(f"hpo confirm small --until-sure --top 3 --rounds {left.rounds} has those that hold")
    early = compare(searched, "small", ["0", "1", "2"])
    assert (early.rounds, early.is_series) == (10, True)  # in which all three were measured
    assert str(early).startswith("study small: trial 1 is first of 3, but the number of rounds was chosen by looking")


def test_a_series_of_one_batch_was_ended_by_looking_too(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 9.0, 0.3: 9.0}))
    (confirmation,) = read_confirmations(searched, "small")
    assert (confirmation.rounds, confirmation.is_series, confirmation.contrasts) == (10, True, [])
    assert "chosen by looking" in str(compare(searched, "small"))


def test_a_later_confirmation_is_compared_with_p_values(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.3, 0.3: 4.0}))
    confirm(searched)
    found = compare(searched, "small")
    assert (found.source, found.is_series) == ("small-confirm", False)
    assert found.contrasts[0].p_value is not None


def test_rounds_whose_number_was_chosen_by_looking_give_no_interval(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.1, 0.3: 9.0}), batches=2)
    (found,) = read_confirmations(searched, "small")
    assert {(one.mean.low, one.mean.why, one.on_new) for one in found.confirmed} == {(None, LOOKED, None)}
    assert {(one.optimism.low, one.optimism.why) for one in found.confirmed} == {(None, LOOKED)}


def test_the_best_says_why_the_rounds_of_a_series_give_no_interval(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.1, 0.3: 9.0}), batches=2)
    assert f"(no interval: {LOOKED})" in best_table(read_winner(searched, "small"))[-1][-1]


def test_a_winner_that_a_series_has_given_up_is_confirmed_all_the_same(searched: RDBStorage) -> None:
    """By the rounds that it had: nothing tells more of how far the search was off."""
    measure(searched, noisy({0.1: 9.0, 0.2: 2.0, 0.3: 2.1}))
    assert series(searched).contenders[-1].trial == 1
    winner = read_winner(searched, "small")
    assert winner.confirmed is not None
    assert (winner.trial, winner.confirmed["rounds"]) == (1, 10)
    assert winner.confirmed["optimism"] == pytest.approx(7.0, abs=0.5)
    assert "Confirmed on 10 fresh rounds" in " ".join(read_report(searched, "small").headline)


def test_a_series_has_no_more_rounds_than_it_may(searched: RDBStorage) -> None:
    measure(searched, noisy({0.1: 2.0, 0.2: 2.0, 0.3: 2.0}), most=5)
    assert series(searched, most=5).rounds == 5


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_of_errors_of_any_size_it_tells_the_same(scale: float) -> None:
    draw = default_rng(0)
    of = [[scale * (mean + 0.1 * float(draw.normal())) for _ in range(20)] for mean in (2.0, 2.5, 2.02)]
    contenders = [Contender(trial, str(trial), {}, errors, 0) for trial, errors in enumerate(of)]
    metric = RECOGNITION.model_copy(update={"resolution": None, "low": None, "high": None})
    found = _judged(contenders, [errors[:3] for errors in of], metric, 0.1 * scale)
    assert [(one.trial, one.is_out) for one in found] == [(0, False), (2, False), (1, True)]
    assert [round(one.better or 0.0, 3) for one in found] == [0.0, 0.99, 1.0]
    assert found[1].against is not None
    assert 0.05 < (found[1].against.high or 0.0) / scale < 0.5


def test_differences_that_are_all_alike_have_no_interval_where_nothing_tells_the_resolution() -> None:
    contenders = [Contender(trial, str(trial), {}, [2.0 + 0.5 * trial] * 10, 0) for trial in range(2)]
    metric = RECOGNITION.model_copy(update={"resolution": None})
    _, other = _judged(contenders, [[2.0, 2.5], [2.5, 3.0]], metric, 0.4)
    assert other.is_out
    assert other.against is not None
    assert (other.against.low, other.against.why) == (None, ALIKE)


def test_no_probability_is_one_where_all_differences_are_alike() -> None:
    """At a resolution of 0.5, ten rounds that all differ by that may be ten of which the next does not."""
    contenders = [Contender(trial, str(trial), {}, [2.0 + 0.5 * trial] * 10, 0) for trial in range(2)]
    metric = RECOGNITION.model_copy(update={"resolution": 0.5})
    _, other = _judged(contenders, [[2.0, 2.5], [2.5, 2.0]], metric, 0.4)
    assert other.better is not None
    assert other.within is not None
    assert 0.9 < other.better < 0.999
    assert 0.0 < other.within < 0.5
