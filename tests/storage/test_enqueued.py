"""What others enqueue in a study of ours: a configuration of its space is measured, all else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from hpo.analysis.results import read_rows
from hpo.storage.queries import read_trials
from hpo.study.definition import StudyDefinition
from hpo.workers.status import read_status
from tests.conftest import create, work
from tests.storage.foreign import hpo

pytestmark = pytest.mark.usefixtures("one_process")


def test_an_enqueued_configuration_outside_the_space_is_refused(created: RDBStorage, tmp_path: Path) -> None:
    faults: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 5.0}, "learning_rate must be between 0.0001 and 1, but is 5.0"),
        ({"learning_rate": "fast"}, "learning_rate must be between 0.0001 and 1, but is 'fast'"),
        ({"architecture": "cnn"}, "architecture must be one of 'fnn', 'fully_connected', but is 'cnn'"),
        ({"weight_sharing": 1}, "weight_sharing must be one of True, False, but is 1"),
        ({"dropout": 0.5}, "there is no parameter named 'dropout'"),
        ({"activation": "relu", "elu_alpha": 1.0}, "elu_alpha is there only where activation is 'elu'"),
    ]
    study = optuna.load_study(study_name="small", storage=created)
    for params, _ in faults:
        study.enqueue_trial(params)
    work(created, tmp_path, target=2)
    rows = read_rows(created, "small")
    for row, (_, fault) in zip(rows, faults, strict=False):
        assert (row.state, row.value) == ("REFUSED", None)
        assert fault in str(row.error)
    assert [row.state for row in rows[len(faults) :]] == ["COMPLETE"] * 2
    status = read_status(created, "small")
    assert (status.finished, status.failed, status.interrupted, status.foreign) == (2, 0, 0, 0)
    assert "refused" in hpo(created, "trials", "--study", "small").stdout


def test_an_enqueued_configuration_of_the_space_is_measured(created: RDBStorage, tmp_path: Path) -> None:
    optuna.load_study(study_name="small", storage=created).enqueue_trial({"learning_rate": 0.25})
    work(created, tmp_path, target=2)
    assert [trial.params["learning_rate"] == 0.25 for trial in read_trials(created, "small")] == [True, False]


def test_an_enqueued_trial_brings_nothing_but_its_configuration(created: RDBStorage, tmp_path: Path) -> None:
    pretended = {
        "refused": "no",
        "error": "broken",
        "errors": [0.0],
        "std": 0.0,
        "slot": 7,
        "seconds": 1.0,
        "memo": "mine",
    }
    study = optuna.load_study(study_name="small", storage=created)
    study.enqueue_trial({"learning_rate": 0.25}, user_attrs=pretended)
    with created.engine.begin() as connection:
        for statement in (
            "insert into trial_values (trial_id, objective, value, value_type) values (1, 1, 0.0, 'FINITE')",
            "insert into trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
            "values (1, 99, 0.0, 'FINITE')",
        ):
            connection.execute(sa.text(statement))
    work(created, tmp_path, target=1)
    (trial,) = optuna.load_study(study_name="small", storage=created).trials
    assert (len(trial.values), 99 in trial.intermediate_values, trial.user_attrs["memo"]) == (1, False, "mine")
    (row,) = read_rows(created, "small")
    assert (row.state, row.error, row.params["learning_rate"]) == ("COMPLETE", None, 0.25)
    assert row.errors not in (None, [0.0])


@pytest.mark.parametrize("fixed", ["[1]", "3", '"text"', "null"])
def test_what_is_enqueued_and_no_configuration_is_refused(fixed: str, created: RDBStorage, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    study.enqueue_trial({"learning_rate": 0.25})
    with created.engine.begin() as connection:
        connection.execute(sa.text("update trial_system_attributes set value_json = :text"), {"text": fixed})
    work(created, tmp_path, target=1)
    refused, measured = read_rows(created, "small")
    assert (refused.state, refused.error) == ("REFUSED", "enqueued, but its parameters cannot be read")
    assert measured.state == "COMPLETE"


@pytest.mark.parametrize(
    "distribution", [CategoricalDistribution([0.25, 0.5]), FloatDistribution(0.1, 0.9)], ids=["choices", "range"]
)
def test_what_is_enqueued_with_another_distribution_is_refused(
    distribution: BaseDistribution, created: RDBStorage, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"params": {"learning_rate": 0.25}, "distributions": {"learning_rate": distribution}}
    study = optuna.load_study(study_name="small", storage=created)
    study.add_trial(create_trial(state=TrialState.WAITING, **given))
    work(created, tmp_path, target=2)
    refused, *measured = read_rows(created, "small")
    assert (refused.state, [row.state for row in measured]) == ("REFUSED", ["COMPLETE", "COMPLETE"])
    assert "learning_rate was added with another distribution than between 0.0001 and 1" in str(refused.error)


def test_a_list_measures_no_enqueued_configuration(
    fresh_storage: RDBStorage, listed_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "small", listed_study, 2)
    study = optuna.load_study(study_name="small", storage=fresh_storage)
    study.enqueue_trial({"learning_rate": 0.1})
    work(fresh_storage, tmp_path, target=2)
    rows = read_rows(fresh_storage, "small")
    assert [(row.state, row.label) for row in rows] == [
        ("REFUSED", "FNN"),
        ("COMPLETE", "FNN"),
        ("COMPLETE", "FNN + WS"),
    ]


CLAIMS: list[Any] = [
    "x", {}, [], None, 3, {"host": 1, "pid": "x", "file": 3}, {"host": "a", "pid": 1, "device": "cpu", "file": "a\0b"},
    {"host": "a", "pid": 1, "file": "/dev/zero"}, {"host": "a", "pid": 1, "device": "d", "file": "/x", "later": [1]},
]  # fmt: skip
