from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from hpo.analysis.confirmation import Before, read_confirmation, read_confirmations, read_winner
from hpo.analysis.fresh_rounds import CONFIRMS, define_confirmation
from hpo.analysis.hardware_drift import define_repetition
from hpo.analysis.statistics import difference_of_means
from hpo.cli.measure.confirm import confirmation_json
from hpo.errors import RequestError, StorageError, UnknownName
from hpo.storage.queries import count_trials, read_trials, set_study_attribute
from hpo.storage.studies import derived_card, read_card
from hpo.study.card import light_card
from hpo.study.references import Sources
from hpo.workers.launch import begin
from hpo.workers.plan import Plan
from tests.conftest import SMALL_STUDY, claim, create, defined, work

TESTED = "test error by recognition"
RATES = (0.1, 0.2, 0.3)
FRESH = (
    [3.0, 3.2, 3.4, 3.1, 3.3, 3.2],
    [3.1, 3.0, 3.6, 2.9, 3.5, 3.2],
    [5.0, 5.3, 5.3, 5.1, 5.4, 5.2],
)  # the third is worse in every round, the second is not


def add(
    opened: RDBStorage,
    study: str,
    rate: float,
    errors: Sequence[float],
    *,
    more: Mapping[str, float] = MappingProxyType({}),
    **attributes: Any,
) -> None:
    """Puts a finished trial into a study, in a slot of its own unless that is given."""
    fixed: dict[str, Any] = {
        "architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu", "optimizer": "sgd",
    }  # fmt: skip
    optuna.load_study(study_name=study, storage=opened).add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=fmean(errors),
            params={**fixed, **more, "learning_rate": rate},
            distributions={
                **{name: CategoricalDistribution([value]) for name, value in fixed.items()},
                **{name: FloatDistribution(0.0, 1.0) for name in (*more, "learning_rate")},
            },
            user_attrs={
                **claim(sum(count_trials(opened, study).values())),
                **{"errors": list(errors), "std": stdev(errors) if len(errors) > 1 else None},
                **attributes,
            },
        )
    )


def test_a_limit_on_a_trials_time_grows_with_its_rounds(fresh_storage: RDBStorage) -> None:
    limited = {**SMALL_STUDY, "run": {"trial_timeout_seconds": 60.0, "keep": ["gradient_norms"]}}
    create(fresh_storage, "small", defined(limited, name="small"), 10)
    add(fresh_storage, "small", 0.1, [1.0, 2.0, 3.0])
    _, definition, _ = define_confirmation(fresh_storage, "small", top=1, rounds=30)
    assert (definition.run.trial_timeout_seconds, definition.run.keep) == (600.0, ())


def test_a_search_on_validation_pairs_is_confirmed_on_the_test(fresh_storage: RDBStorage) -> None:
    apart = {**SMALL_STUDY, "protocol": {"rounds": 3, "select_on": "validation"}}
    create(fresh_storage, "small", defined(apart, name="small"), 10)
    add(fresh_storage, "small", 0.1, [1.0, 2.0, 3.0])
    _, definition, _ = define_confirmation(fresh_storage, "small", top=1, rounds=30)
    assert definition.protocol.select_on == "test"
    assert read_card(fresh_storage, "small").metric.title == "validation error by recognition"
    card = derived_card(fresh_storage, "small", is_test=True)
    assert (card.metrics, card.metric.title) == (light_card(definition).metrics, TESTED)
    assert derived_card(fresh_storage, "small").metrics == read_card(fresh_storage, "small").metrics


@pytest.fixture
def searched(created: RDBStorage) -> RDBStorage:
    """The small study with four trials: the best is the second, and one configuration was measured twice."""
    for rate, mean in ((0.3, 4.0), (0.1, 2.0), (0.1, 2.0), (0.2, 3.0)):
        add(created, "small", rate, [mean - 0.5, mean, mean + 0.5])
    return created


def confirm(opened: RDBStorage, study: str = "small", *, top: int = 3, measure: int = 3, rounds: int = 6) -> str:
    """Defines a confirmation, and lets so many of its trials be measured."""
    name, definition, confirms = define_confirmation(opened, study, top=top, rounds=rounds)
    create(opened, name, definition, len(definition.trial))
    set_study_attribute(opened, name, CONFIRMS, confirms)
    for slot in range(measure):
        add(opened, name, float(definition.trial[slot].params["learning_rate"]), FRESH[slot][:rounds], slot=slot)
    return name


def test_the_best_are_measured_on_rounds_that_the_search_never_used(searched: RDBStorage) -> None:
    name, definition, confirms = define_confirmation(searched, "small", top=3, rounds=30)
    assert name == "small-confirm"
    assert [entry.params["learning_rate"] for entry in definition.trial] == list(RATES)
    assert [entry.label for entry in definition.trial] == ["trial 1", "trial 3", "trial 0"]
    assert list(definition.protocol.round_numbers) == list(range(3, 33))
    assert definition.training is not None
    assert (definition.protocol.seed, definition.steps, definition.training.evaluate_at) == (0, 2, ())
    assert (confirms["trials"], confirms["searched"]) == ([1, 3, 0], [2.0, 3.0, 4.0])
    assert len(define_confirmation(searched, "small", top=9, rounds=30)[1].trial) == 3  # there are no more


def test_a_configuration_that_was_measured_twice_is_confirmed_once(created: RDBStorage) -> None:
    for rate, mean in ((0.1, 2.0), (0.1, 2.0), (0.2, 3.0)):
        add(created, "small", rate, [mean - 0.5, mean, mean + 0.5])
    _, _, confirms = define_confirmation(created, "small", top=3, rounds=6)
    assert confirms["trials"] == [0, 2]


def test_fresh_rounds_tell_the_optimism_and_who_can_be_told_apart(searched: RDBStorage) -> None:
    name = confirm(searched)
    found = read_confirmation(searched, name)
    assert found is not None
    assert [one.trial for one in found.confirmed] == [1, 3, 0]
    optimism = found.confirmed[0].optimism
    expected = difference_of_means(fmean(FRESH[0]), stdev(FRESH[0]), 6, 2.0, 0.5, 3)
    assert (optimism.estimate, optimism.low) == pytest.approx((3.2 - 2.0, expected.low))
    assert found.confirmed[0].before == Before(0.5, 3, read_card(searched, "small").metric.resolution)
    assert found.confirmed[0].mean.holds(3.2)
    assert [(one.first, one.second, one.is_significant) for one in found.contrasts] == [(1, 3, False), (3, 0, True)]
    assert found.contrasts[1].difference.estimate == pytest.approx(fmean(FRESH[2]) - fmean(FRESH[1]))
    assert set(confirmation_json(found)) == {
        *("study", "name", "rounds", "dataset", "direction", "metric", "unit", "confirmed", "contrasts"),
    }


def test_the_winner_is_confirmed_by_its_own_fresh_figure_alone(searched: RDBStorage) -> None:
    assert read_winner(searched, "small").confirmed is None
    confirm(searched, measure=2)
    assert read_winner(searched, "small").confirmed is None  # not finished
    add(searched, "small-confirm", RATES[2], FRESH[2], slot=2)
    winner = read_winner(searched, "small")
    assert (winner.trial, winner.value) == (1, 2.0)
    assert winner.confirmed is not None
    assert set(winner.confirmed) == {
        *("mean", "low", "high", "std", "rounds", "optimism", "optimism_interval"),
        *("on_new", "diverged_rounds", "convergence", "why", "caveats"),
    }
    assert winner.confirmed["mean"] == pytest.approx(3.2)
    add(searched, "small", 0.05, [1.0, 1.1, 1.2])  # the search went on, and has a new winner
    assert read_winner(searched, "small").confirmed is None


def test_a_confirmation_is_resumed_and_a_search_that_went_on_gets_another(searched: RDBStorage) -> None:
    confirm(searched, measure=1)
    assert define_confirmation(searched, "small", top=3, rounds=6)[0] == "small-confirm"
    assert define_confirmation(searched, "small", top=2, rounds=6)[0] == "small-confirm-2"
    add(searched, "small", 0.05, [1.0, 1.1, 1.2])
    name, _, confirms = define_confirmation(searched, "small", top=3, rounds=6)
    assert (name, confirms["trials"]) == ("small-confirm-2", [4, 1, 3])


def test_a_study_of_the_same_name_that_came_later_is_not_confirmed(searched: RDBStorage, small_study: Any) -> None:
    confirm(searched)
    assert len(list(read_confirmations(searched, "small"))) == 1
    optuna.delete_study(study_name="small", storage=searched)
    create(searched, "small", small_study, 10)
    add(searched, "small", 0.1, [1.5, 2.0, 2.5])
    assert list(read_confirmations(searched, "small")) == []


def test_what_cannot_be_confirmed_is_one_line(created: RDBStorage, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no trial yet that was measured to the end"):
        define_confirmation(created, "small", top=3, rounds=30)
    with pytest.raises(RequestError, match="--rounds must be at least 5"):
        define_confirmation(created, "small", top=3, rounds=4)
    with pytest.raises(UnknownName, match="no confirmation named 'small'"):
        read_confirmation(created, "small")


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_a_trial_that_leaves_a_parameter_to_its_default_is_measured_again(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    space = {name: value for name, value in SMALL_STUDY["space"].items() if name != "elu_alpha"}
    study = defined({**SMALL_STUDY, "space": {**space, "activation": "elu"}}, name="small")
    create(fresh_storage, "small", study, 1)
    work(fresh_storage, tmp_path, target=1)
    (trial,) = read_trials(fresh_storage, "small")
    for name, definition, _ in (
        define_confirmation(fresh_storage, "small", top=1, rounds=6),
        define_repetition(fresh_storage, "small", trial, host="here", device="cpu"),
    ):
        for _again in range(2):  # it is created, and joined
            begin(fresh_storage.url, Plan(name, definition, 1), Sources(tmp_path))
        assert definition.trial[0].params == {**trial.params, "elu_alpha": 1.0}
