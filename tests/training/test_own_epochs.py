"""Epochs and batch sizes of a trial's own, where they are parameters."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import StudyError
from hpo.study.task import Measurement
from hpo.study.training import Training
from hpo.training.data import KeptOrders
from hpo.training.device import CPU
from hpo.training.trainer import Trainer
from tests.conftest import LISTED_STUDY, SMALL_STUDY, defined
from tests.study.test_definition import changed
from tests.training.test_trainer import ROUNDS, params, task


def measure(training: Training, **chosen: Any) -> list[Measurement]:
    return list(Trainer(task(), training, keep=("losses",)).measure(params(**chosen), ROUNDS[:2]))


def test_a_trial_with_epochs_of_its_own_is_one_of_a_study_of_so_many() -> None:
    """Whatever goes by the number of steps, as a schedule does, goes by its own."""
    for schedule in ("constant", "cosine"):
        own = measure(Training(epochs=6, batch_size=20), epochs=3, schedule=schedule)
        same = measure(Training(epochs=3, batch_size=20), schedule=schedule)
        assert len(own) == len(same) == 3
        assert [one.details for one in own] == [one.details for one in same]
        assert own[-1].errors == same[-1].errors
        assert own[-1].errors
    assert own[-1].details["losses"] != measure(Training(epochs=6, batch_size=20), schedule=schedule)[2].details


def test_it_is_evaluated_after_the_same_shares_which_count_as_the_studys_epochs() -> None:
    training = Training(epochs=10, batch_size=50, evaluate_at=(2, 5))
    expected = {4: [(1, 2), (2, 5), (4, 10)], 10: [(2, 2), (5, 5), (10, 10)], 15: [(3, 2), (8, 5), (15, 10)]}
    for epochs, evaluated in expected.items():
        measured = measure(training, epochs=epochs)
        assert [(i, one.step) for i, one in enumerate(measured, 1) if one.errors] == evaluated
        assert dict(evaluated) == training.steps_of(epochs)
        assert [one.fraction for one in measured] == [i / epochs for i in range(1, epochs + 1)]
        assert [one.step for one in measured] == sorted(one.step for one in measured)


def test_what_counts_as_the_studys_epochs_is_called_a_step() -> None:
    """So that nobody reads `epoch 3 of 25` of a trial that trains for 300."""
    table = {**SMALL_STUDY["space"], "epochs": {"low": 1, "high": 300}}
    assert defined(SMALL_STUDY, name="small").step_word == "epoch"
    assert defined({**SMALL_STUDY, "space": table}, name="small").step_word == "step"
    assert defined(changed(LISTED_STUDY, "trial.1.params.epochs", 7), name="listed").step_word == "step"


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 24, 25, 26, 49, 100, 1000])
def test_the_last_epoch_counts_as_the_studys_last_and_no_other_is_evaluated_late(epochs: int) -> None:
    training = Training(epochs=25, evaluate_at=(1, 2, 5, 12, 24))
    steps = training.steps_of(epochs)
    assert steps[epochs] == 25
    assert max(steps) == epochs
    assert min(steps) >= 1
    assert list(steps.values()) == sorted(steps.values())
    assert list(steps) == sorted(steps)
    for own, counts_as in steps.items():
        assert own in (1, epochs) or abs(own / epochs - counts_as / 25) <= 0.5 / epochs
    if epochs >= 49:
        assert list(steps.values()) == [1, 2, 5, 12, 24, 25]


def test_a_trial_with_a_batch_size_of_its_own_is_one_of_a_study_with_it() -> None:
    own = measure(Training(epochs=2, batch_size=20), batch_size=70, schedule="one_cycle", learning_rate=0.5)
    same = measure(Training(epochs=2, batch_size=70), schedule="one_cycle", learning_rate=0.5)
    assert own == same
    assert own != measure(Training(epochs=2, batch_size=20), schedule="one_cycle", learning_rate=0.5)


def test_the_orders_of_a_trial_of_many_epochs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where those of a short one are, to which they would be added."""
    monkeypatch.setattr("hpo.training.data.MOST_ORDERS", 100)
    kept = KeptOrders(CPU)
    short = kept.of(ROUNDS, 10, epochs=3)
    long = kept.of(ROUNDS, 10, epochs=4)  # of three rounds
    assert long is not short
    assert all((long.of(epoch) == short.of(epoch)).all() for epoch in (1, 2, 3))
    assert kept.of(ROUNDS, 10, epochs=1) is short
    assert kept.of(ROUNDS, 11, epochs=1) is not short


@pytest.mark.parametrize("given", [[50, 199], 199, {"low": 190, "high": 200}, {"low": 100, "high": 199, "step": 99}])
def test_a_batch_size_that_leaves_one_over_is_refused_in_a_line(given: Any) -> None:
    with pytest.raises(StudyError) as raised:
        defined(changed(SMALL_STUDY, "space.batch_size", given), name="small")
    said = "parameter batch_size must not leave one of 200 pairs over (batch norm needs two), but is 199"
    assert str(raised.value) == f"study 'small': {said}"


def test_a_batch_size_that_no_trial_has_is_not_checked() -> None:
    table = changed(changed(SMALL_STUDY, "training.batch_size", 199), "space.batch_size", [50, 100])
    assert defined(table, name="small").always_has("batch_size")
    with pytest.raises(StudyError, match=r"^study 'small': training.batch_size must not leave one"):
        defined(changed(SMALL_STUDY, "training.batch_size", 199), name="small")


def test_a_listed_trial_is_refused_for_its_batch_size_too() -> None:
    table = changed(LISTED_STUDY, "trial.0.params.batch_size", 50)
    with pytest.raises(StudyError, match=r"study 'listed': parameter batch_size must .* but is 199"):
        defined(changed(table, "trial.1.params.batch_size", 199), name="listed")
    around = defined(changed(table, "trial.1.params.batch_size", 200), name="listed")
    assert [entry.params["batch_size"] for entry in around.trial] == [50, 200]


@pytest.mark.parametrize("given", [[50, 100], 198, {"low": 190, "high": 198}, {"low": 100, "high": 200, "step": 50}])
def test_batch_sizes_that_leave_none_or_more_are_taken(given: Any) -> None:
    assert "batch_size" in defined(changed(SMALL_STUDY, "space.batch_size", given), name="small").space


@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("batch_size", [1], "space.batch_size must be at least 2, but is 1"),
        ("batch_size", [50.5], "space.batch_size must be a whole number, but is 50.5"),
        ("epochs", [0, 3], "space.epochs must be at least 1, but is 0"),
        ("ensemble", [0], "space.ensemble must be at least 1, but is 0"),
        ("momentum", [1.0], "space.momentum must be below 1, but is 1.0"),
        ("schedule", ["cosin"], "space.schedule must be 'constant', 'cosine' or 'one_cycle', but is 'cosin'"),
        ("evaluate_at", [1], "evaluate_at is in [training], so it can be no parameter too"),
        (
            "precision",
            ["float32"],
            "a parameter cannot be called 'precision', for every table of trials has that column",
        ),
    ],
)
def test_what_training_does_not_take_is_refused_in_a_line(name: str, given: Any, complaint: str) -> None:
    with pytest.raises(StudyError) as raised:
        defined(changed(SMALL_STUDY, f"space.{name}", given), name="small")
    assert str(raised.value).startswith(f"study 'small': {complaint}")
    assert "\n" not in str(raised.value)


def test_momentum_is_there_only_where_an_optimizer_takes_it() -> None:
    """A study need not have all of these optimizers."""
    for optimizers, momentum in ((["sgd", "adam", "rmsprop"], ("sgd", "rmsprop")), (["sgd", "adam"], "sgd")):
        table = changed(changed(SMALL_STUDY, "space.momentum", [0.5, 0.9]), "space.nesterov", [True])
        resolved = defined(changed(table, "space.optimizer", optimizers), name="small")
        assert resolved.space["momentum"].when == {"optimizer": momentum}
        assert resolved.space["nesterov"].when == {"optimizer": "sgd"}
        assert defined(resolved.model_dump(mode="json"), name="small") == resolved
    with pytest.raises(
        StudyError, match="momentum is there only where optimizer is 'sgd' or 'rmsprop', which it never"
    ):
        defined(changed(table, "space.optimizer", ["adam", "adamw"]), name="small")
    adam = changed(changed(LISTED_STUDY, "trial.0.params.optimizer", "adam"), "trial.0.params.momentum", 0.9)
    with pytest.raises(StudyError, match="trial 'FNN': momentum is there only where optimizer is 'sgd' or 'rmsprop'"):
        defined(adam, name="listed")


def test_nesterov_without_a_momentum_is_refused_in_a_line() -> None:
    """PyTorch refuses it too; passed over, a search would measure its two values as if they were two."""
    said = "parameter nesterov has an effect only beside a momentum above 0"
    searched = changed(SMALL_STUDY, "space.nesterov", [True, False])
    listed = changed(LISTED_STUDY, "trial.1.params.nesterov", True)
    for table in (
        searched,
        changed(searched, "space.momentum", 0.0),
        changed(searched, "space.momentum", [0.0, 0.9]),
        changed(searched, "space.momentum", {"low": 0.0, "high": 0.9}),
        listed,
        changed(changed(listed, "trial.1.params.momentum", 0.0), "trial.0.params.momentum", 0.9),
    ):
        with pytest.raises(StudyError) as raised:
            defined(table, "some")
        assert str(raised.value) == f"study 'some': {said}"
    other = {"choices": [0.9], "when": {"optimizer": "rmsprop"}}
    elsewhere = changed(changed(searched, "space.optimizer", ["sgd", "rmsprop"]), "space.momentum", other)
    with pytest.raises(StudyError, match="parameter momentum must be there wherever nesterov is"):
        defined(elsewhere, "some")
    for table in (
        changed(elsewhere, "space.momentum.when.optimizer", ["sgd", "rmsprop"]),
        changed(searched, "space.momentum", {"low": 0.1, "high": 0.9}),
        changed(listed, "trial.1.params.momentum", 0.9),
        changed(listed, "trial.1.params.nesterov", False),
    ):
        defined(table, "some")
