"""A race over rounds: what is behind after a group of them is spared the others, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StudyError
from hpo.search.race import groups_of, is_behind
from hpo.storage.backends import open_storage
from hpo.storage.queries import StoredTrial, read_trials
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.study.search import Race
from hpo.study.task import Measurement, Metric, Params, Round
from hpo.workers.objective import Objective, make_objective
from tests.conftest import LISTED_STUDY, SMALL_STUDY, create, defined, work

ROUNDS = 6
EPOCHS = 4
HARD = {1: 1.0, 2: 0.5, 4: 0.3}  # how much harder these rounds are, for every configuration

RACED: dict[str, Any] = {
    **SMALL_STUDY,
    "training": {"epochs": EPOCHS, "batch_size": 50, "evaluate_at": [1, 2]},
    "protocol": {"rounds": ROUNDS},
    "sampler": {"name": "grid"},
    "pruner": {"name": "none"},
    "race": {"group": 3, "level": 0.05},
    "space": {
        **{"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu"},
        **{"optimizer": "sgd", "learning_rate": [0.1, 0.2, 0.4, 0.05]},
    },
}
FINAL = {0.1: 5.0, 0.2: 5.4, 0.4: 9.0, 0.05: 4.0}  # of a learning rate


class Curves:
    """A task whose errors fall with the epoch from four times the last; some of its rounds are harder."""

    metrics: Sequence[Metric] = (Metric("recognition"),)
    device = "stub"

    def __init__(self) -> None:
        self.asked: list[tuple[float, list[int]]] = []

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        rate = float(params["learning_rate"])
        self.asked.append((rate, [one.number for one in rounds]))
        for epoch in (1, 2, EPOCHS):
            errors = [final_of(rate, one.number) * EPOCHS / epoch for one in rounds]
            diverged = [r for r, one in enumerate(rounds) if one.number == 4]
            yield Measurement(epoch, epoch / EPOCHS, {"recognition": errors}, diverged, {"losses": errors})


def final_of(rate: float, number: int) -> float:
    wobble = 0.01 * ((number * round(100 * rate)) % 7)  # so that differences are not all the same
    return FINAL[rate] + HARD.get(number, 0.0) + wobble


def raced(folder: Path, task: Curves, device: str = "cpu", **changes: Any) -> list[StoredTrial]:
    """Returns the trials of a study, by their slots: learning rates of 0.1, 0.2, 0.4 and 0.05."""
    definition = defined({**RACED, **changes}, name="small")
    opened = open_storage(f"sqlite:///{folder}/race.db", create=True)
    create(opened, "small", definition, 4)

    def make(definition: StudyDefinition, _: str, sources: Sources) -> Objective:
        return Objective(definition, task, device)

    work(opened, folder, target=4, make=make)
    return read_trials(opened, "small")


def test_what_is_behind_after_a_group_is_spared_the_others(tmp_path: Path) -> None:
    task = Curves()
    first, near, far, best = raced(tmp_path, task)
    assert task.asked == [
        (0.1, [0, 1, 2]),
        (0.1, [3, 4, 5]),
        (0.2, [0, 1, 2]),
        (0.4, [0, 1, 2]),
        (0.05, [0, 1, 2]),
        (0.05, [3, 4, 5]),
    ]
    assert [trial.state for trial in (first, near, far, best)] == [
        *(TrialState.COMPLETE, TrialState.PRUNED),
        *(TrialState.PRUNED, TrialState.COMPLETE),
    ]
    assert best.attributes["errors"] == pytest.approx([final_of(0.05, number) for number in range(ROUNDS)])
    assert best.attributes["diverged_rounds"] == [4]
    assert {step: len(errors) for step, errors in best.attributes["errors_by_step"].items()} == {"1": 6, "2": 6, "4": 6}
    assert [len(losses) for losses in best.attributes["losses_by_step"]] == [6, 6, 6]
    assert {len(errors) for errors in far.attributes["errors_by_step"].values()} == {3}
    assert (far.value, "errors" in far.attributes) == (None, False)


def test_without_a_significant_difference_all_rounds_are_measured(tmp_path: Path) -> None:
    trials = raced(tmp_path, Curves(), race={"group": 3, "level": 1e-9})
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_on_a_gpu_all_rounds_are_measured_at_once(tmp_path: Path) -> None:
    task = Curves()
    trials = raced(tmp_path, task, device="cuda:0")
    assert {len(numbers) for _, numbers in task.asked} == {ROUNDS}
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_inside_a_group_the_power_law_is_held_against_the_bests_errors_of_its_rounds(tmp_path: Path) -> None:
    # The best has 5.5 in the first three rounds, and the other is on its way to 9.5 when it is looked at first.
    only = {**RACED["space"], "learning_rate": [0.1, 0.4]}
    for margin, ends in ((1.5, 2), (2.0, EPOCHS)):
        task, folder = Curves(), tmp_path / str(margin)
        folder.mkdir()
        definition = {"space": only, "pruner": {"name": "power_law", "margin": margin}}
        race = {"group": 3, "level": 1e-12}
        opened = open_storage(f"sqlite:///{folder}/race.db", create=True)
        resolved = defined({**RACED, **definition, "race": race}, name="small")
        create(opened, "small", resolved, 2)
        work(opened, folder, target=2, make=lambda of, _, sources, task=task: Objective(of, task, "cpu"))  # type: ignore[misc]
        _, far = read_trials(opened, "small")
        assert max(map(int, far.attributes["errors_by_step"])) == ends, margin


def test_a_race_changes_no_number_of_what_it_measures(tmp_path: Path) -> None:
    search = {
        **LISTED_STUDY,
        "trial": [],
        "protocol": {"rounds": 3},
        "sampler": {"name": "grid"},
        "space": {**LISTED_STUDY["trial"][0]["params"], "learning_rate": [0.1, 0.05]},
    }
    found: list[list[Mapping[str, Any]]] = []
    for name, race in (("all", None), ("raced", {"group": 2, "level": 1e-9})):
        opened: RDBStorage = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        create(opened, "small", defined({**search, "race": race}, name="small"), 2)
        work(opened, tmp_path, target=2, make=make_objective)
        found.append([trial.attributes for trial in read_trials(opened, "small")])
    for together, in_groups in zip(*found, strict=True):
        for key in ("errors", "errors_head", "errors_recognition", "errors_by_step", "std", "diverged_rounds"):
            assert together[key] == in_groups[key]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([2.0, 2.1, 2.2], False),  # the same
        ([2.1, 2.2, 2.3], True),  # by the same in each
        ([1.9, 2.0, 2.1], False),
        ([3.0, 3.2, 3.1], True),
        ([4.0, 1.9, 2.0], False),
    ],
)
def test_behind_is_what_is_worse_in_most_rounds(errors: list[float], expected: bool) -> None:
    assert is_behind(errors, [2.0, 2.1, 2.2], level=0.05) is expected
    assert is_behind([-error for error in errors], [-2.0, -2.1, -2.2], level=0.05, maximize=True) is expected


def test_one_round_says_nothing() -> None:
    assert not is_behind([90.0], [2.0], level=0.05)


def test_two_rounds_that_differ_alike_by_the_resolution_may_do_so_by_chance() -> None:
    assert is_behind([2.1, 2.3], [2.0, 2.2], level=0.05)
    assert not is_behind([2.1, 2.3], [2.0, 2.2], level=0.05, least=0.1)
    assert is_behind([9.0, 9.2], [2.0, 2.2], level=0.05, least=0.1)


def test_groups_have_all_rounds_once_and_the_last_what_is_left() -> None:
    rounds = [Round(number, 0) for number in range(7)]
    assert [len(group) for group in groups_of(rounds, Race(group=3))] == [3, 3, 1]
    assert groups_of(rounds, None) == [rounds]
    assert groups_of(rounds, Race(group=20)) == [rounds]


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({**LISTED_STUDY, "race": {}}, "there can be no \\[race\\] where trials are listed"),
        (
            {**SMALL_STUDY, "race": {}},
            "pruner.name must be 'power_law' or 'none' beside a \\[race\\], but is 'percentile'",
        ),
        ({**RACED, "race": {"level": 1.0}}, "race.level must be"),
        ({**RACED, "race": {"group": 0}}, "race.group must be"),
    ],
)
def test_a_race_that_cannot_be_is_refused(table: dict[str, Any], rule: str) -> None:
    with pytest.raises(StudyError, match=rule):
        defined(table, name="small")
