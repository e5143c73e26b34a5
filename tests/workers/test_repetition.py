"""A configuration whose rounds would give the same numbers again is not measured again."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StudyError
from hpo.search.samplers import suggest
from hpo.storage.backends import open_storage
from hpo.storage.claims import FINISHED
from hpo.storage.queries import read_trials, study_attributes
from hpo.storage.studies import read_definition
from hpo.storage.trials import trial_id_of
from hpo.study import catalog
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.study.repetition import count_configurations, identity_of, neighbours
from hpo.study.space import IntRange
from hpo.study.task import Params
from hpo.workers import budget
from hpo.workers.launch import begin
from hpo.workers.plan import find_study, make_plan
from hpo.workers.slots import NoTrial
from tests.conftest import SMALL_STUDY, create, defined
from tests.workers.test_budget import finish, start, started
from tests.workers.test_serving import serve
from tests.workers.test_worker import counts, run_small, work

pytestmark = pytest.mark.usefixtures("warm_workers")

FIXED: dict[str, Any] = {
    **{"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu"},
    **{"optimizer": "sgd", "learning_rate": 0.1},
}
RATES = [0.01, 0.03, 0.1, 0.3]
TWELVE = {**FIXED, "learning_rate": [*RATES, 1.0, 1.5], "optimizer": ["sgd", "adam"]}
TPE = {"name": "tpe", "n_startup_trials": 3}
RANDOM = {"name": "random"}


def define(space: dict[str, Any], **tables: Any) -> StudyDefinition:
    return defined({**SMALL_STUDY, "space": space, **tables}, name="small")


def measured(opened: RDBStorage) -> list[dict[str, Any]]:
    return [trial.params for trial in read_trials(opened, "small", states=FINISHED)]


def different(configurations: list[dict[str, Any]]) -> int:
    return len({identity_of(params) for params in configurations})


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 1),
        ({"learning_rate": RATES, "optimizer": ["sgd", "adam"]}, 8),
        ({"learning_rate": {"low": 0.1, "high": 0.1}, "optimizer": ["sgd", "adam"]}, 2),
        ({"activation": ["relu", "elu"], "elu_alpha": {"choices": [0.5, 1.0], "when": {"activation": "elu"}}}, 3),
        ({"activation": ["relu", "elu"], "elu_alpha": [0.5, 1.0]}, 3),  # of no effect with relu
        ({"auxiliary_loss": [True, False], "auxiliary_share": [0.1, 0.2, 0.3]}, 4),
        ({"activation": ["relu", "elu"], "elu_alpha": {"low": 0.1, "high": 2.0, "when": {"activation": "elu"}}}, None),
        ({"activation": ["relu", "elu"], "elu_alpha": {"low": 0.1, "high": 2.0}}, None),
        ({"learning_rate": {"low": 0.1, "high": 0.2}}, None),
        (
            {
                **{"learning_rate": RATES, "activation": ["elu", "selu"], "auxiliary_loss": [True, False]},
                "elu_alpha": {"choices": [0.5, 1.0, 2.0], "when": {"learning_rate": 0.1}},
                "auxiliary_share": {"choices": [0.5, 0.6], "when": {"activation": "selu", "auxiliary_loss": True}},
            },
            4 * 2 * 2 + 2 * 2 + 4,
        ),
    ],
)
def test_configurations_are_counted_by_what_matters(changes: dict[str, Any], count: int | None) -> None:
    space = define({**FIXED, **changes}).space
    assert count_configurations(space) == count
    if count is not None:
        found = list(neighbours(space, {}, Random(0)))
        assert len(found) == different(found) == count
        for params in found:
            assert all(space[name].holds(value) for name, value in params.items())


def test_the_neighbours_of_a_configuration_begin_with_itself_and_go_on_with_its_last_parameters() -> None:
    space = define({**TWELVE, "activation": ["relu", "elu"], "elu_alpha": [0.5, 1.0]}).space
    for seed, proposed in enumerate(neighbours(space, {}, Random(7))):
        first, second = islice(neighbours(space, proposed, Random(seed)), 2)
        assert first == proposed
        assert sum(first[name] != second.get(name) for name in first) == 1


def test_what_never_has_an_effect_is_refused() -> None:
    with pytest.raises(
        StudyError, match=r"space\.elu_alpha is there only where activation is 'elu', which it never is"
    ):
        define({**FIXED, "elu_alpha": [0.5, 1.0]})


def test_whole_numbers_are_counted_and_begin_with_the_nearest() -> None:
    space = {"width": IntRange(low=8, high=64, step=8), "depth": IntRange(low=1, high=3)}
    assert count_configurations(space) == 24
    found = [(params["width"], params["depth"]) for params in neighbours(space, {"width": 24, "depth": 1}, Random(0))]
    assert found[:6] == [(24, 1), (24, 2), (24, 3), (16, 1), (16, 2), (16, 3)]
    assert len(set(found)) == 24


@pytest.mark.parametrize("name", [name for name in catalog.studies() if catalog.load_study(name)[1].space])
def test_in_a_space_with_a_range_of_rates_nothing_is_looked_up(name: str) -> None:
    definition = catalog.load_study(name)[1]
    assert not definition.avoids_repetition
    assert definition.configurations is None


@pytest.mark.parametrize(
    ("sampler", "stub", "storage_url"),
    [  # any two of these values occur together
        (sampler, stub, ("sqlite", "postgresql")[(place + number) % 2])
        for place, sampler in enumerate((TPE, {**TPE, "multivariate": False, "group": False}, RANDOM))
        for number, stub in enumerate(("quick", "pruned_every_third", "fails_twice"))
    ],
    indirect=["storage_url"],
)
def test_a_finite_space_ends_when_every_configuration_is_measured(
    fresh_storage: RDBStorage, tmp_path: Path, sampler: dict[str, Any], stub: str
) -> None:
    create(fresh_storage, "small", define(TWELVE, sampler=sampler), 200)
    work(fresh_storage, tmp_path, target=200, stub=stub)
    assert len(measured(fresh_storage)) == different(measured(fresh_storage)) == 12
    assert counts(fresh_storage).get("FAIL", 0) == (2 if stub == "fails_twice" else 0)


def test_three_workers_measure_no_configuration_twice(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    create(fresh_storage, "small", define(TWELVE, sampler=RANDOM), 12)
    run_small(fresh_storage, tmp_path, target=12, workers=3, stub="waits_for_three", show=lambda status: None)
    assert len(measured(fresh_storage)) == different(measured(fresh_storage)) == 12
    workers = {trial.attributes["worker"]["pid"] for trial in read_trials(fresh_storage, "small")}
    assert len(workers) == 3


def test_what_runs_elsewhere_is_proposed_to_nobody_until_it_fails(fresh_storage: RDBStorage) -> None:
    create(fresh_storage, "small", define({**FIXED, "learning_rate": RATES}, sampler=RANDOM), 200)
    running = [started(fresh_storage, target=200) for _ in RATES]
    assert {trial.params["learning_rate"] for trial in running} == set(RATES)
    assert start(fresh_storage, target=200) is NoTrial.TAKEN
    finish(fresh_storage, running[1], TrialState.FAIL, error="training broke")
    assert started(fresh_storage, target=200).params == running[1].params
    for trial in [*running[:1], *running[2:]]:
        for key, value in (("errors", [1.0, 1.0, 1.0]), ("std", 0.0)):
            trial.set_user_attr(key, value)
        finish(fresh_storage, trial)
    assert start(fresh_storage, target=200) is NoTrial.TAKEN


@pytest.mark.parametrize("sampler", [TPE, RANDOM], ids=str)
def test_a_finite_study_comes_out_the_same_when_it_was_interrupted(tmp_path: Path, sampler: dict[str, Any]) -> None:
    runs = []
    for name in ("whole", "interrupted"):
        opened = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        create(opened, "small", define(TWELVE, sampler=sampler), 12)
        if name == "interrupted":
            work(opened, tmp_path, target=5)
            finish(opened, started(opened, target=12), TrialState.FAIL)
        work(opened, tmp_path, target=12)
        finished = read_trials(opened, "small", states=(TrialState.COMPLETE,))
        runs.append([(trial.attributes["slot"], trial.params, trial.value) for trial in finished])
    assert runs[0] == runs[1]


def test_the_finite_part_of_a_space_is_measured_once_and_the_rest_goes_on(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    alpha = {"low": 0.1, "high": 2.0, "when": {"activation": "elu"}}
    space = {**FIXED, "learning_rate": RATES, "activation": ["relu", "elu"], "elu_alpha": alpha}
    create(fresh_storage, "small", define(space, sampler=TPE), 20)
    work(fresh_storage, tmp_path, target=20)
    assert len(measured(fresh_storage)) == different(measured(fresh_storage)) == 20
    assert sum(params["activation"] == "relu" for params in measured(fresh_storage)) <= 4


def test_who_asks_for_repetitions_gets_them(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = define({**FIXED, "learning_rate": RATES}, sampler=RANDOM, run={"repeat_configurations": True})
    create(fresh_storage, "small", definition, 10)
    work(fresh_storage, tmp_path, target=10)
    assert len(measured(fresh_storage)) == 10
    assert different(measured(fresh_storage)) <= 4


def test_the_target_is_what_the_space_has(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = define({**FIXED, "learning_rate": RATES})
    create(fresh_storage, "small", definition, 200)  # as a version did that did not count them
    plan = make_plan(fresh_storage.url, find_study(fresh_storage.url, "small", trials=200))
    assert (plan.target, plan.most) == (4, 4)
    assert plan.notes == ("study 'small' comes to 4 trials: then every configuration of its space is measured",)
    begin(fresh_storage.url, plan, Sources(tmp_path))
    assert study_attributes(fresh_storage, "small")["target"] == 4
    assert make_plan(fresh_storage.url, find_study(fresh_storage.url, "small", trials=3)).notes == (
        "study 'small' is to come to 4 trials, asked for earlier; --lower-target makes it 3",
    )


def test_a_study_that_has_repetitions_ends_when_the_others_are_measured_too(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    repeating = define({**FIXED, "learning_rate": RATES}, sampler=RANDOM, run={"repeat_configurations": True})
    create(fresh_storage, "small", repeating, 5)
    work(fresh_storage, tmp_path, target=5)
    before = different(measured(fresh_storage))
    assert before < 4  # by this seed
    definition = define({**FIXED, "learning_rate": RATES}, sampler=RANDOM)
    create(fresh_storage, "small", definition, 200)
    plan = make_plan(fresh_storage.url, find_study(fresh_storage.url, "small"))
    assert plan.most == 5 + 4 - before
    work(fresh_storage, tmp_path, target=200)
    assert len(measured(fresh_storage)) == plan.most
    assert different(measured(fresh_storage)) == 4


def test_a_worker_that_serves_all_ends_where_more_were_asked_than_there_are(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    create(fresh_storage, "small", define({**FIXED, "learning_rate": RATES}), 200)
    serve(fresh_storage, tmp_path)
    assert len(measured(fresh_storage)) == different(measured(fresh_storage)) == 4


def test_an_enqueued_trial_is_measured_as_it_is_and_a_wrong_one_is_its_own_failure(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    create(fresh_storage, "small", define({**FIXED, "learning_rate": RATES}, sampler=RANDOM), 4)
    study = optuna.load_study(study_name="small", storage=fresh_storage)
    study.enqueue_trial({"learning_rate": 0.3})
    study.enqueue_trial({"learning_rate": 7.0})
    work(fresh_storage, tmp_path, target=4)
    assert measured(fresh_storage)[0]["learning_rate"] == 0.3
    assert different(measured(fresh_storage)) == 4
    (failed,) = read_trials(fresh_storage, "small", states=(TrialState.FAIL,))
    assert "7.0" in str(failed.attributes)


def test_what_is_measured_is_refused_when_it_is_enqueued_and_what_is_left_open_is_chosen(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    create(fresh_storage, "small", define(TWELVE, sampler=RANDOM), 3)
    work(fresh_storage, tmp_path, target=1)
    study = optuna.load_study(study_name="small", storage=fresh_storage)
    (first,) = measured(fresh_storage)
    study.enqueue_trial(first)
    name = next(name for name in first if len(define(TWELVE).space[name].values) > 1)
    study.enqueue_trial({name: first[name]})
    work(fresh_storage, tmp_path, target=3)
    (refused,) = read_trials(fresh_storage, "small", states=(TrialState.FAIL,))
    assert refused.attributes["refused"] == "enqueued, but it is measured already, or running"
    assert different(measured(fresh_storage)) == 3
    assert measured(fresh_storage)[1][name] == first[name]


def test_a_trial_that_is_given_up_while_it_is_proposed_is_begun_anew(
    fresh_storage: RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(fresh_storage, "small", define(TWELVE, sampler=RANDOM), 12)

    def give_up_first(trial: optuna.Trial, definition: Any) -> Params:
        if trial.number == 0:  # as another does where this process was paused for the grace period
            fresh_storage.set_trial_state_values(trial_id_of(trial), TrialState.FAIL)
        return suggest(trial, definition)

    monkeypatch.setattr(budget, "suggest", give_up_first)
    assert started(fresh_storage, target=12).number == 1


def test_a_trial_of_a_finite_space_has_its_parameters_before_the_lock_is_released(
    fresh_storage: RDBStorage,
) -> None:
    create(fresh_storage, "small", define(TWELVE, sampler=RANDOM), 12)
    definition = read_definition(fresh_storage, "small")
    trial = started(fresh_storage, target=12)
    (stored,) = read_trials(fresh_storage, "small")
    assert stored.params == suggest(trial, definition)
