"""Rounds that diverge are counted apart, wherever a mean of them is shown; and what cannot be told is not told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from scipy import stats

from hpo.analysis.comparison import compare
from hpo.analysis.confirmation import read_confirmation, read_winner
from hpo.analysis.contrasts import Rounds, joint_p_values
from hpo.analysis.convergence import convergence_of, share_of
from hpo.analysis.effects import FEWEST_TRIALS, family_p_values, read_effects, read_importances
from hpo.analysis.fresh_rounds import CONFIRMS, define_confirmation
from hpo.analysis.hardware_drift import REPEATS, define_repetition, read_drift
from hpo.analysis.results import flatten, have_the_same, read_rows
from hpo.cli.measure.confirm import confirmation_json, confirmation_view
from hpo.cli.measure.drift import drift_json, drift_view
from hpo.cli.read.compare import comparison_json, comparison_view
from hpo.report.html import as_markdown
from hpo.report.report import read_report
from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials, set_study_attribute
from hpo.storage.studies import read_definition
from tests.analysis.test_confirmation import add
from tests.conftest import LISTED_STUDY, RECOGNITION, SMALL_STUDY, create, defined

GOOD = [2.0, 2.5, 2.5, 3.0, 2.0, 2.5, 3.5, 2.0, 2.5, 3.0]
SLIGHTLY = [error + 0.5 for error in GOOD]
HALF = [error if r >= 4 else 100.0 for r, error in enumerate(SLIGHTLY)]  # the first four diverged
RATES = "diverged in 4 of 10 rounds (40 %, 95 %: 12 to 74 %)"


@pytest.fixture
def sqlite_storage(tmp_path: Path) -> RDBStorage:
    return open_storage(f"sqlite:///{tmp_path}/x.db", create=True)


def listed(opened: RDBStorage, *errors: list[float], rounds: int = 10) -> RDBStorage:
    """A list of SGD, Adam and so on, whose rounds at 100 % diverged."""
    entries = [
        {"label": name, "params": {**LISTED_STUDY["trial"][0]["params"], "optimizer": name}}
        for name, _ in zip(("sgd", "adam", "rmsprop"), errors, strict=False)
    ]
    protocol = {**LISTED_STUDY["protocol"], "rounds": rounds}
    create(opened, "x", defined({**LISTED_STUDY, "protocol": protocol, "trial": entries}, name="x"), len(entries))
    for slot, one in enumerate(errors):
        put(opened, "x", 0.1, one, slot=slot)
    return opened


def put(opened: RDBStorage, study: str, rate: float, errors: list[float], **attributes: Any) -> None:
    out = [r for r, error in enumerate(errors) if error == 100.0]
    add(opened, study, rate, errors, errors_recognition=errors, errors_head=errors, diverged_rounds=out, **attributes)


def shown(parts: list[Any]) -> str:
    lines = [line for part in parts for line in (part if isinstance(part, list) else [part])]
    return " ".join(str(line) for line in lines)


def test_a_share_has_the_exact_interval_of_clopper_and_pearson() -> None:
    for number, of in ((0, 10), (4, 10), (10, 10), (1, 3)):
        exact = stats.binomtest(number, of).proportion_ci(method="exact")
        assert (share_of(number, of).low, share_of(number, of).high) == pytest.approx(
            (100 * exact.low, 100 * exact.high)
        )


@pytest.mark.parametrize(("rounds", "said"), [(20, "(5 %, 95 %: 0 to 25 %)"), (1000, "(0.1 %, 95 %: 0.0 to 0.6 %)")])
def test_a_rare_divergence_is_not_rounded_to_none(rounds: int, said: str) -> None:
    found = convergence_of([100.0, *[1.0] * (rounds - 1)], [0], RECOGNITION)
    assert found is not None
    assert said in found.text(RECOGNITION)


def test_a_rates_p_value_is_the_exact_sign_test_of_the_rounds_in_which_one_alone_diverged() -> None:
    for alone in range(11):
        _, (p_value,) = joint_p_values([((GOOD, []), (GOOD, list(range(alone))))])
        assert p_value == pytest.approx(stats.binomtest(alone, alone).pvalue if alone else 1.0)


def test_a_comparison_says_who_diverges_and_compares_the_rounds_in_which_both_converge(
    sqlite_storage: RDBStorage,
) -> None:
    found = compare(listed(sqlite_storage, GOOD, HALF), "x")
    assert str(found).startswith(
        "study x: sgd diverged in none of 10 rounds and adam diverged in 4 of 10 rounds (p 0.15); in the 6 rounds in "
        "which both converged, sgd is better than adam, by 0.50 points (95 %: "
    )
    said = shown(comparison_view(found))
    assert "do not differ" not in said
    assert f"adam {RATES}; where it converged 3.08 ± 0.58 % (95 %: " in said
    (contrast,) = comparison_json(found)["contrasts"]
    assert (contrast["difference"], contrast["diverged"]) == (pytest.approx(0.5), [0, 4])
    assert comparison_json(found)["compared"][1]["low"] is None  # no t interval of a mean that counts them


def test_of_several_those_that_diverge_are_neither_worse_nor_alike(sqlite_storage: RDBStorage) -> None:
    found = compare(listed(sqlite_storage, GOOD, HALF, GOOD), "x")
    said = str(found)
    assert "sgd and rmsprop have the very same mean; adam diverged in 4 of 10 rounds (p 0." in said
    assert "better" not in said


def test_too_few_rounds_in_which_both_converge_cannot_tell(sqlite_storage: RDBStorage) -> None:
    most = [100.0] * 5 + SLIGHTLY[5:]
    assert "sgd is ahead of adam by 0.50 points, but 5 rounds cannot tell: 6 are the fewest that can" in str(
        compare(listed(sqlite_storage, GOOD, most), "x")
    )


def test_the_report_and_the_best_say_how_often_it_diverged(sqlite_storage: RDBStorage) -> None:
    opened = listed(sqlite_storage, HALF, [99.0] * 10)
    page = as_markdown(read_report(opened, "x"), {})
    assert page.count(RATES) >= 2  # in the headline, and beside the comparison
    assert f"it {RATES}" in str(read_winner(opened, "x"))
    assert "rounds diverged" in page  # in the place of the interval


def test_each_trial_has_its_share_of_diverged_rounds_and_its_error_else(sqlite_storage: RDBStorage) -> None:
    opened = listed(sqlite_storage, GOOD, HALF)
    good, half = read_rows(opened, "x")
    assert good.convergence is None
    assert half.convergence is not None
    assert half.convergence["text"].startswith(RATES)
    flat = flatten(half, read_definition(opened, "x"))
    shares = [flat[f"diverged_percent{end}"] for end in ("", "_low", "_high")]
    assert shares == pytest.approx([40, 12.155, 73.762], abs=0.001)
    assert flat["converged_mean"] == pytest.approx(3.0833, abs=1e-4)
    assert flat["converged_mean_low"] < flat["converged_mean"] < flat["converged_mean_high"]


def test_a_trial_of_a_search_has_no_interval_of_its_error_else(created: RDBStorage) -> None:
    put(created, "small", 0.1, [2.0, 100.0, 3.0, 2.5])
    (row,) = read_rows(created, "small")
    assert row.convergence is not None
    assert (row.convergence["percent"], row.convergence["mean"]) == (25, 2.5)
    assert row.convergence["mean_interval"] == {"low": None, "high": None}


def test_the_best_of_a_search_says_so_without_an_interval_of_its_error(created: RDBStorage) -> None:
    put(created, "small", 0.1, [2.0, 100.0, 3.0, 2.5])
    said = str(read_winner(created, "small"))
    assert "it diverged in 1 of 4 rounds (25 %, 95 %: 1 to 81 %); where it converged 2.50 ± 0.50 %" in said
    assert said.endswith("(no interval: as searched)")


def test_an_effect_leaves_diverged_rounds_out(sqlite_storage: RDBStorage) -> None:
    (effect,) = read_effects(listed(sqlite_storage, GOOD, HALF), ["x"])
    assert (effect.rounds, effect.diverged_before, effect.diverged_after) == (6, 0, 4)
    assert effect.difference.estimate == pytest.approx(0.5)


def effects_rows(opened: RDBStorage) -> list[list[str]]:
    (found,) = (section for section in read_report(opened, "x").sections if section.name == "effects")
    return found.table[1:]


def test_an_effect_on_how_often_it_diverges_is_tested_and_never_called_none(sqlite_storage: RDBStorage) -> None:
    most = [100.0] * 7 + GOOD[7:]
    opened = listed(sqlite_storage, GOOD, HALF, most)
    half, never = read_effects(opened, ["x"])
    pairs: list[tuple[Rounds, Rounds]] = [((GOOD, []), (HALF, [0, 1, 2, 3])), ((GOOD, []), (most, list(range(7))))]
    errors, rates = joint_p_values(pairs)  # the very family of these contrasts
    assert (half.p_value, half.diverged_p_value) == (errors[0], rates[0])
    assert never.diverged_p_value == rates[1] < 0.05
    first, second = (row[-1] for row in effects_rows(opened))
    assert first.startswith("diverged in 4 of 10 rounds, before in none (p 0.")
    assert second.startswith("diverged in 7 of 10 rounds, before in none (p 0.0")
    assert second.endswith("; else too few rounds")
    assert "not significant" not in first + second


def test_rates_count_in_a_correction_and_what_is_missing_counts_with_its_own() -> None:
    errors, rate, none = [1.0] * 8, [1.0] * 8, [0.0] * 8
    alone = 2 / 2**8
    assert family_p_values([errors], [none], 1) == ([alone], [1.0])
    assert family_p_values([errors], [none], 3) == ([5 * alone], [1.0])
    assert family_p_values([errors], [rate], 3) == ([6 * alone], [6 * alone])


def test_where_no_round_converged_on_both_sides_there_is_no_difference(sqlite_storage: RDBStorage) -> None:
    first, second = [100.0] * 5 + [2.0] * 5, [2.0] * 5 + [100.0] * 5
    opened = listed(sqlite_storage, first, second)
    ((_, _, changed, p, verdict),) = effects_rows(opened)
    assert (changed, p) == ("– (never converged together)", "")
    assert verdict == "diverged in 5 of 10 rounds, before in 5 (p 1)"
    sections = {section.name: section for section in read_report(opened, "x").sections}
    assert sections["effects"].figure is None
    ((_, beside, p, told),) = sections["comparison"].table[1:]
    assert (beside, p) == ("– (never converged together)", "")
    assert told == "diverged in 5 of 10 rounds, the first in 5 (p 1)"
    found = compare(opened, "x")
    assert "there is no round in which both converged" in str(found)
    assert comparison_json(found)["contrasts"][0]["difference"] is None


def test_a_confirmation_counts_what_diverged_and_its_optimism_has_no_interval(created: RDBStorage) -> None:
    for rate, mean in ((0.1, 2.0), (0.2, 3.0)):
        put(created, "small", rate, [mean - 0.5, mean, mean + 0.5])
    name, definition, confirms = define_confirmation(created, "small", top=2, rounds=10)
    create(created, name, definition, 2)
    set_study_attribute(created, name, CONFIRMS, confirms)
    put(created, name, 0.1, HALF, slot=0)
    put(created, name, 0.2, GOOD, slot=1)
    found = read_confirmation(created, name)
    assert found is not None
    assert f"(no interval: rounds diverged) on 10 fresh rounds of digits; it {RATES}" in str(found)
    said = shown(confirmation_view(found))
    assert "0 diverged in 4 of 10 rounds and 1 diverged in none of 10 rounds (p 0.15); where both converged" in said
    assert "do not differ" not in said
    first = confirmation_json(found)["confirmed"][0]
    assert first["optimism_interval"] == {"low": None, "high": None}
    assert first["convergence"]["percent_interval"] == pytest.approx({"low": 12.155, "high": 73.762}, abs=0.001)


def repeated(opened: RDBStorage, *errors: list[float]) -> RDBStorage:
    """The small study's best, measured again by machines called a, b and so on."""
    (trial,) = read_trials(opened, "small")
    for host, one in zip("abc", errors, strict=False):
        name, definition, repeats = define_repetition(opened, "small", trial, host=host, device="cpu")
        create(opened, name, definition, 1)
        set_study_attribute(opened, name, REPEATS, repeats)
        put(opened, name, 0.1, one, slot=0)
    return opened


def of_rounds(opened: RDBStorage, errors: list[float]) -> RDBStorage:
    protocol = {**SMALL_STUDY["protocol"], "rounds": len(errors)}
    create(opened, "small", defined({**SMALL_STUDY, "protocol": protocol}, name="small"), 1)
    put(opened, "small", 0.1, errors)
    return opened


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_two_to_five_rounds_never_tell_two_machines_apart(sqlite_storage: RDBStorage, rounds: int) -> None:
    opened = repeated(of_rounds(sqlite_storage, GOOD[:rounds]), GOOD[:rounds], [9.0] * rounds, [9.9] * rounds)
    found = read_drift(opened, "small", None)
    assert not any(one.is_significant for one in found.repetitions)
    assert f"{rounds} rounds cannot tell: 6 are the fewest that can" in drift_view(found)[0]


def test_machines_on_which_it_diverges_differ(sqlite_storage: RDBStorage) -> None:
    never = [100.0] * 10
    found = read_drift(repeated(of_rounds(sqlite_storage, GOOD), GOOD, GOOD, never), "small", None)
    assert [one.is_significant for one in found.repetitions] == [False, False, True]
    assert "1 of 2 machines differs significantly from the first" in drift_view(found)[0]
    never_together = drift_json(found)["repetitions"][2]
    assert never_together["diverged_p_value"] == 2 / 2**10
    assert never_together["difference"]["estimate"] is None


def test_machines_of_which_one_diverges_are_not_called_alike(sqlite_storage: RDBStorage) -> None:
    four = [100.0] * 4 + GOOD[4:]
    headline = drift_view(read_drift(repeated(of_rounds(sqlite_storage, GOOD), GOOD, four), "small", None))[0]
    assert headline.endswith(": rounds diverged; neither that nor the errors of the others differ significantly")


def test_where_all_rounds_diverge_there_is_no_error_of_those_that_converged() -> None:
    found = convergence_of([100.0] * 3, [0, 1, 2], RECOGNITION)
    assert found is not None
    assert found.text(RECOGNITION) == "diverged in 3 of 3 rounds (100 %, 95 %: 29 to 100 %)"


def test_ties_are_named(created: RDBStorage) -> None:
    for rate in (0.1, 0.2, 0.3, 0.4):
        put(created, "small", rate, [2.0, 2.5, 3.0] if rate < 0.4 else [4.0, 4.5, 5.0])
    assert str(read_winner(created, "small")).endswith("; trials 1 and 2 have the same")
    assert "Trials 1 and 2 have the same." in read_report(created, "small").headline[0]
    assert have_the_same(range(1, 9)) == "trials 1, 2, 3, 4, 5 and 3 more have the same"
    assert "came to the very same errors" in str(compare(created, "small"))


def test_two_of_a_search_are_compared_without_intervals_of_what_they_were_chosen_by(created: RDBStorage) -> None:
    put(created, "small", 0.1, [2.0, 2.5, 3.0])
    put(created, "small", 0.2, [2.2, 2.4, 3.5])
    found = compare(created, "small")
    assert [one.mean.text("%") for one in found.compared] == ["as searched", "as searched"]
    assert found.contrasts[0].difference.low is not None


def test_what_no_survivor_varies_in_has_no_importance_and_is_named(created: RDBStorage) -> None:
    for i in range(FEWEST_TRIALS):
        more = {"dropout": i / 100, "momentum": 0.5}  # any value is allowed, but all have one
        put(created, "small", (i + 1) / 100, [1.0 + i, 1.2 + i], more=more)
    found = read_importances(created, "small")
    assert (set(found.shares), found.left_out) == ({"dropout", "learning_rate"}, ["momentum"])
    assert sum(found.shares.values()) == pytest.approx(1)
    page = as_markdown(read_report(created, "small"), {})
    assert "Left out, for all that survived have the same: momentum." in page
