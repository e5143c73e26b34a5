"""Every sampler and pruner: exactly the trials asked for, the same whatever was interrupted, on both databases."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StudyError, WorkError
from hpo.search.proposals import make_search
from hpo.storage.backends import open_storage
from hpo.storage.queries import StoredTrial, read_trials
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.study.task import Measurement, Metric, Params, Round
from hpo.workers.evaluate import Stop
from hpo.workers.objective import Objective
from hpo.workers.worker import run_worker
from tests.conftest import SMALL_STUDY, create, defined, work
from tests.workers.test_worker import assignment, raise_what_is_given_up

TRIALS = int(os.environ.get("HPO_EXAMPLES", "16"))
ENOUGH = 30  # for what a sampler has learned to show
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 5},
    "random": {},
    "gp": {"n_startup_trials": 12},
    "cmaes": {"popsize": 4},
    "qmc": {},
    "grid": {},
}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {},
    "median": {"n_startup_trials": 3},
    "percentile": {"percentile": 30.0, "n_startup_trials": 3},
    "successive_halving": {},
    "hyperband": {},
    "wilcoxon": {},
    "power_law": {},
}
SPACE = {
    **SMALL_STUDY["space"],
    "architecture": "fnn",
    "auxiliary_share": {"low": 0.0, "high": 1.0},
}
GRID = {
    "architecture": ["fnn", "fully_connected"],
    "weight_sharing": [True, False],
    "auxiliary_loss": True,
    "activation": ["relu", "selu", "elu"],
    "elu_alpha": [0.5, 1.0, 2.0],
    "optimizer": ["sgd", "adam"],
    "learning_rate": 0.1,
}  # 2 * 2 * (2 + 3) * 2 = 40


class Bowl:
    """The nearer a learning rate is to 0.03, the lower the error; it falls from epoch to epoch, and rounds differ."""

    metrics: Sequence[Metric] = (Metric("recognition"),)
    device = "none"

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        final = 10 + abs(math.log10(float(params["learning_rate"]) / 0.03)) * 10
        for epoch in (1, 3, 9):
            errors = [final * epoch**-0.1 + one.seed("noise") / 2**32 for one in rounds]
            yield Measurement(epoch, epoch / 9, {"recognition": errors})


def bowl(definition: StudyDefinition, device: str, sources: Sources) -> Objective:
    return Objective(definition, Bowl(), "none")


def study(sampler: str = "random", pruner: str = "none", **changes: Any) -> StudyDefinition:
    table = {
        **copy.deepcopy(SMALL_STUDY),
        "training": {"epochs": 9, "batch_size": 50, "evaluate_at": [1, 3]},
        "protocol": {"rounds": 6},
        "sampler": {"name": sampler, **SAMPLERS[sampler]},
        "pruner": {"name": pruner, **PRUNERS[pruner]},
        "space": GRID if sampler == "grid" else SPACE,
        **changes,
    }
    return defined(table, "small")


def finished(opened: RDBStorage) -> list[StoredTrial]:
    trials = [trial for trial in read_trials(opened, "small") if trial.state is not TrialState.FAIL]
    assert not any(trial.state is TrialState.RUNNING for trial in trials)
    return sorted(trials, key=lambda trial: trial.attributes["slot"])


def searched(opened: RDBStorage, folder: Path, definition: StudyDefinition, *stops: int) -> list[StoredTrial]:
    """Returns a study's trials, which were made in several runs."""
    create(opened, "small", definition, stops[-1])
    for stop in stops:
        work(opened, folder, target=stop, make=bowl)
    trials = finished(opened)
    assert [trial.attributes["slot"] for trial in trials] == list(range(stops[-1]))
    return trials


def interrupted(opened: RDBStorage, folder: Path, target: int) -> None:
    """Runs a worker that is stopped in the middle of a trial, after its first report, which gives the trial back."""
    stop = Stop()

    def interrupting(*arguments: Any) -> Any:
        objective = bowl(*arguments)

        def step_done(number: int) -> None:
            if number == 3:
                stop.ask()

        class Interrupted:
            device = objective.device

            def __call__(self, trial: optuna.Trial, **_: object) -> float:
                return objective(trial, step_done)

        return Interrupted()

    run_worker(assignment(opened, folder, target=target), interrupting, stop, raise_what_is_given_up)


SEARCHES = [
    *((sampler, "none") for sampler in SAMPLERS),
    *(("random", pruner) for pruner in PRUNERS if pruner != "none"),
]
ON_A_SERVER = {("tpe", "none"), ("cmaes", "none"), ("random", "hyperband"), ("random", "wilcoxon")}  # keep the most


@pytest.mark.parametrize(
    ("sampler", "pruner", "storage_url"),
    [
        *((*search, "sqlite") for search in SEARCHES),
        *((*search, "postgresql") for search in SEARCHES if search in ON_A_SERVER or TRIALS >= ENOUGH),
    ],
    indirect=["storage_url"],
)
def test_a_study_comes_to_its_trials_and_is_the_same_wherever_it_was_stopped(
    sampler: str, pruner: str, fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    definition = study(sampler, pruner)
    trials = searched(fresh_storage, tmp_path, definition, TRIALS // 3, TRIALS)
    if fresh_storage.url.startswith("sqlite"):
        other = open_storage(f"sqlite:///{tmp_path}/other.db", create=True)
        create(other, "small", definition, TRIALS)
        for stop in (0, TRIALS // 2, TRIALS - 2):
            work(other, tmp_path, target=stop, make=bowl) if stop else None
            interrupted(other, tmp_path, TRIALS)
        work(other, tmp_path, target=TRIALS, make=bowl)
        assert len(read_trials(other, "small", states=(TrialState.FAIL,))) in (2, 3)  # all that is left may be pruned
        again = finished(other)
        assert [(one.params, one.value, one.state) for one in again] == [(t.params, t.value, t.state) for t in trials]
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert bool(pruned) == (pruner != "none")
    if sampler in ("tpe", "gp", "cmaes") and TRIALS >= ENOUGH:
        values = [trial.value or 0.0 for trial in trials]
        assert sum(values[-6:]) < sum(values[:6])


def test_a_grid_is_measured_whole_each_point_once(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = study("grid")
    assert definition.configurations == 40
    trials = searched(fresh_storage, tmp_path, definition, 7, 40)
    assert len({frozenset(trial.params.items()) for trial in trials}) == 40
    assert [trial.params["optimizer"] for trial in trials[:4]] == ["sgd", "adam", "sgd", "adam"]


@pytest.mark.parametrize("sampler", ["grid", "qmc"])
def test_a_point_that_fails_again_and_again_keeps_no_other_from_being_measured(
    sampler: str, fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    definition = study(sampler)
    proposed: dict[str, Any] = make_search(definition, 1, seed=0).params  # type: ignore[attr-defined]

    class Broken(Bowl):
        def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
            if params.items() <= proposed.items():
                raise ArithmeticError("the numbers ran out")
            return super().measure(params, rounds)

    create(fresh_storage, "small", definition, 6)
    with pytest.raises(
        WorkError, match="1 configuration failed 3 times, the last time by ArithmeticError: the numbers"
    ):
        run_worker(
            assignment(fresh_storage, tmp_path, target=6),
            lambda definition, *_: Objective(definition, Broken(), "none"),
            Stop(),
            raise_what_is_given_up,
        )
    assert [trial.attributes["slot"] for trial in finished(fresh_storage)] == [0, 2, 3, 4, 5]


def test_a_sequence_fills_its_space_evenly() -> None:
    definition = study("qmc", space={**SPACE, "weight_sharing": [True, False]})
    for kind in ("sobol", "halton"):
        chosen = definition.model_copy(update={"sampler": definition.sampler.model_copy(update={"qmc_type": kind})})
        points = [make_search(chosen, slot, seed=0).params for slot in range(64)]  # type: ignore[attr-defined]
        rates = sorted(math.log10(point["learning_rate"]) for point in points)
        assert all(-4 <= rate <= 0 for rate in rates)
        assert max(later - earlier for earlier, later in pairwise(rates)) < 4 * 3 / 64
        assert abs(sum(point["weight_sharing"] for point in points) - 32) <= 2


def test_wilcoxons_pruner_is_told_of_rounds_one_after_another(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = study("random", "wilcoxon")
    trials = searched(fresh_storage, tmp_path, definition, 30)
    for trial in trials:
        steps = trial.attributes["errors_by_step"]
        if trial.state is TrialState.COMPLETE:
            assert [error for step in range(1, 7) for error in steps[str(step)]] == trial.attributes["errors"]
        else:
            assert 3 <= len(steps) < 6
    assert definition.step_word == "round"


def test_nothing_that_a_database_holds_is_unpickled(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = study("cmaes")
    trials = searched(fresh_storage, tmp_path, definition, 30)
    kept = optuna.load_study(study_name="small", storage=fresh_storage).trials
    assert len(trials) == len(kept)
    keys = {key for trial in kept for key in trial.system_attrs}
    assert "cma:generation" in keys
    assert not any("optimizer" in key for key in keys)


@pytest.mark.parametrize(
    ("sampler", "changes", "complaint"),
    [
        ("grid", {"space": SPACE}, r"space\.elu_alpha must list its values where the sampler is 'grid'"),
        ("grid", {"run": {"repeat_configurations": True}}, r"run\.repeat_configurations must be false where the"),
        ("cmaes", {"space": GRID}, "sampler 'cmaes' needs 2 ranges or more that every configuration draws from"),
    ],
)
def test_a_sampler_that_cannot_search_a_space_is_refused(sampler: str, changes: Any, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        study(sampler, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"protocol": {"rounds": 2}}, r"protocol\.rounds must be at least 3 where pruner 'wilcoxon' compares rounds"),
        ({"run": {"keep": ["losses"]}}, r"run\.keep must be empty where pruner 'wilcoxon' has rounds measured one"),
    ],
)
def test_wilcoxons_pruner_needs_rounds(changes: Any, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        study("random", "wilcoxon", **changes)
