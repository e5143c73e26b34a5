from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.errors import UnknownName
from hpo.storage.claims import Slots, read_slots
from hpo.storage.queries import count_trials, last_finishes, read_trials, study_attributes
from hpo.storage.studies import create_study
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import ask, trial_id_of
from tests.conftest import CARD, claim


def test_optuna_has_the_private_names_that_this_program_relies_on() -> None:
    """Its pin is `optuna>=5.0,<5.1`: a wider one needs this test to pass."""
    assert optuna.__version__.startswith("5.0.")
    columns: dict[Any, set[str]] = {
        models.StudyModel: {"study_id", "study_name"},
        models.TrialModel: {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
        models.TrialValueModel: {"trial_id", "value"},
        models.TrialParamModel: {"trial_id", "param_name", "param_value", "distribution_json"},
        models.TrialUserAttributeModel: {"trial_id", "key", "value_json"},
    }
    for model, names in columns.items():
        assert names <= set(model.__table__.columns.keys())
    assert hasattr(models.TrialModel, "_datetime_start_utc")
    assert hasattr(models.TrialModel, "_datetime_complete_utc")
    assert "trial_id" in inspect.signature(RDBStorage.set_trial_state_values).parameters
    study = optuna.create_study()
    assert study.ask()._trial_id == 0


def test_an_unknown_study_is_named_with_the_nearest(fresh_storage: RDBStorage) -> None:
    create_study(fresh_storage, "cnn", {"definition": {}, "card": CARD.model_dump(mode="json")}, 1)
    with pytest.raises(UnknownName, match="no study named 'cn'; did you mean 'cnn'"):
        study_attributes(fresh_storage, "cn")


@pytest.fixture
def five_trials(fresh_storage: RDBStorage) -> RDBStorage:
    """Values 3, 1, 1; a pruned and a running trial; parameters of every kind."""
    definition: dict[str, Any] = {"space": {name: {"when": {}} for name in ("flag", "rate")}}
    create_study(fresh_storage, "five", {"definition": definition, "card": CARD.model_dump(mode="json")}, 5)
    study = optuna.load_study(study_name="five", storage=fresh_storage)
    worker = Worker("elsewhere", 1, "cpu", "/nowhere/1.lock").as_json()
    for number, value in enumerate([3.0, 1.0, 1.0, None, None]):
        trial = ask(fresh_storage, study, {"slot": number, "worker": worker})
        trial.suggest_categorical("flag", [True, False])
        trial.suggest_float("rate", 1e-3, 1.0, log=True)
        if value is not None:
            trial.set_user_attr("errors", [value])
            trial.set_user_attr("std", None)
        if number < 4:
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            fresh_storage.set_trial_state_values(trial_id_of(trial), state, None if value is None else [value])
    return fresh_storage


def test_sql_reads_what_optuna_reads(five_trials: RDBStorage) -> None:
    ours = read_trials(five_trials, "five")
    theirs = optuna.load_study(study_name="five", storage=five_trials).trials
    assert [t.number for t in ours] == [t.number for t in theirs] == [0, 1, 2, 3, 4]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.state, mine.value, mine.params, mine.attributes) == (
            other.state,
            other.value,
            other.params,
            other.user_attrs,
        )
        assert other.datetime_start is not None
        assert mine.started == other.datetime_start.astimezone(UTC)


def test_the_best_come_first_and_earlier_ones_before_their_equals(five_trials: RDBStorage) -> None:
    best = read_trials(five_trials, "five", states=(TrialState.COMPLETE,), best=2)
    assert [trial.number for trial in best] == [1, 2]


def test_trials_are_counted_by_state(five_trials: RDBStorage) -> None:
    counts = count_trials(five_trials, "five")
    assert (counts[TrialState.COMPLETE], counts[TrialState.PRUNED], counts[TrialState.RUNNING]) == (3, 1, 1)
    assert counts[TrialState.FAIL] == 0


def test_slots_are_counted_by_what_their_trials_have_come_to(five_trials: RDBStorage) -> None:
    assert read_slots(five_trials, "five") == Slots(complete=3, pruned=1, running=1, lowest_free=5, trials=5)


def test_the_last_finishes_come_latest_first(five_trials: RDBStorage) -> None:
    finishes = last_finishes(five_trials, "five", 3)
    assert len(finishes) == 3
    assert finishes == sorted(finishes, reverse=True)
    assert abs(datetime.now(UTC) - finishes[0]) < timedelta(minutes=1)


def test_the_best_of_a_study_that_maximises_are_its_highest(fresh_storage: RDBStorage) -> None:
    card = CARD.model_dump(mode="json")
    card["metrics"][0] |= {"maximize": True, "high": None}
    create_study(fresh_storage, "up", {"definition": {}, "card": card}, 3)
    study = optuna.load_study(study_name="up", storage=fresh_storage)
    for slot, value in enumerate((1.0, 3.0, 2.0)):
        trial = ask(fresh_storage, study, claim(slot))
        trial.set_user_attr("errors", [value, value])
        trial.set_user_attr("std", 0.0)
        study.tell(trial, value)
    assert [trial.value for trial in read_trials(fresh_storage, "up", best=2)] == [3.0, 2.0]
