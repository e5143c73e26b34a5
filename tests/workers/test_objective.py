from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.results import read_best, read_rows
from hpo.errors import RequestError
from hpo.search.samplers import suggest
from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials
from hpo.study.definition import StudyDefinition
from hpo.study.loading import load_task
from hpo.training.device import find_device
from hpo.workers.objective import make_objective
from tests.conftest import LISTED_STUDY, SMALL_STUDY, create, defined, work


def train(opened: RDBStorage, name: str, target: int, folder: Path) -> None:
    work(opened, folder, target=target, studies=(name,), make=make_objective)


def test_the_same_seed_and_one_worker_give_the_same_numbers_to_the_last_digit(
    tmp_path: Path, small_study: StudyDefinition
) -> None:
    runs = []
    for name in ("first", "second"):
        opened = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        create(opened, "small", small_study, 6)
        train(opened, "small", 6, tmp_path)
        runs.append(
            [(t.state, t.value, t.params, t.attributes["errors_by_step"]) for t in read_trials(opened, "small")]
        )
    assert runs[0] == runs[1]
    assert len(runs[0]) == 6


def test_a_trial_keeps_its_rounds_by_both_metrics(created: RDBStorage, tmp_path: Path) -> None:
    train(created, "small", 1, tmp_path)
    (trial,) = read_trials(created, "small")
    kept = trial.attributes
    assert trial.state == TrialState.COMPLETE
    assert kept["errors"] == kept["errors_recognition"] == kept["errors_by_step"]["2"]
    assert len(kept["errors"]) == len(kept["errors_head"]) == 3
    assert trial.value == pytest.approx(sum(kept["errors"]) / 3)
    assert kept["std"] == pytest.approx(torch.tensor(kept["errors"], dtype=torch.float64).std().item())
    assert kept["seconds"] > 0
    assert kept["device"].startswith("cpu (")
    assert {"hpo", "source", "torch", "optuna", "python"} <= kept["versions"].keys()
    assert kept["diverged_rounds"] == []
    study = optuna.load_study(study_name="small", storage=created)
    assert list(study.trials[0].intermediate_values) == [1, 2]


def test_the_metric_chooses_the_objective_and_nothing_else(tmp_path: Path) -> None:
    values = {}
    for metric in ("head", "recognition"):
        table = {**LISTED_STUDY, "protocol": {**LISTED_STUDY["protocol"], "metric": metric}}
        opened = open_storage(f"sqlite:///{tmp_path}/{metric}.db", create=True)
        create(opened, "listed", defined(table, name="listed"), 2)
        train(opened, "listed", 2, tmp_path)
        values[metric] = read_rows(opened, "listed")
    for by_head, by_recognition in zip(values["head"], values["recognition"], strict=True):
        assert by_head.errors != by_recognition.errors
        assert by_head.label == by_recognition.label
        assert by_head.published == {"mean": 10.0, "std": 1.0, "rounds": 10}


def test_a_diverged_round_is_a_large_error_and_never_stops_a_study(tmp_path: Path) -> None:
    table = {
        **SMALL_STUDY,
        "pruner": {"name": "none"},
        "space": {**SMALL_STUDY["space"], "optimizer": ["sgd"], "learning_rate": {"low": 1e6, "high": 1e8}},
    }
    opened = open_storage(f"sqlite:///{tmp_path}/diverged.db", create=True)
    create(opened, "small", defined(table, name="small"), 3)
    train(opened, "small", 3, tmp_path)
    trials = read_trials(opened, "small")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert all(trial.value == 100.0 and trial.attributes["diverged_rounds"] == [0, 1, 2] for trial in trials)


def test_a_pruned_trial_keeps_what_it_showed_and_is_never_the_best(tmp_path: Path) -> None:
    table = {**SMALL_STUDY, "pruner": {"name": "percentile", "percentile": 1.0, "n_startup_trials": 1}}
    opened = open_storage(f"sqlite:///{tmp_path}/pruned.db", create=True)
    create(opened, "small", defined(table, name="small"), 8)
    train(opened, "small", 8, tmp_path)
    pruned = read_trials(opened, "small", states=(TrialState.PRUNED,))
    assert pruned
    assert all(trial.value is None and list(trial.attributes["errors_by_step"]) == ["1"] for trial in pruned)
    assert all("errors" not in trial.attributes for trial in pruned)
    assert read_best(opened, "small").trial not in [trial.number for trial in pruned]


def test_a_condition_decides_whether_a_parameter_is_suggested(small_study: StudyDefinition) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        params = suggest(trial, small_study)
        assert ("elu_alpha" in trial.params) == (params["activation"] == "elu")
        seen.add(params["activation"])
    assert seen == {"relu", "elu"}


def test_a_device_that_is_not_here_is_one_line() -> None:
    with pytest.raises(RequestError, match="device 'cuda:99' is not here"):
        find_device("cuda:99")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.mnist
@pytest.mark.slow
def test_report_as_final_network_learns_mnist(mnist_folder: Path, tmp_path: Path) -> None:
    """Two rounds of report A's best configuration (2.04 % over ten): well under 5 %."""
    table = {
        "title": "Report A's best",
        "task": {"name": "digit_pairs", "dataset": "mnist"},
        "protocol": {"rounds": 2},
        "trial": [
            {
                "label": "SGD",
                "params": {
                    "architecture": "cnn_bn",
                    "weight_sharing": True,
                    "auxiliary_loss": True,
                    "activation": "leaky_relu",
                    "optimizer": "sgd",
                    "learning_rate": 0.1383,
                },
            }
        ],
    }
    opened = open_storage(f"sqlite:///{tmp_path}/best.db", create=True)
    create(opened, "best", defined(table, name="best"), 1, mnist_folder)
    train(opened, "best", 1, mnist_folder)
    assert read_best(opened, "best").value < 5


def test_the_auxiliary_share_is_report_bs_alpha(small_study: StudyDefinition) -> None:
    task = load_task(small_study, study="small").task
    assert (task.weights(None), task.weights(0.2)) == ((1.0, 1.0), (0.8, 0.2))
