"""Selection apart from the test: trials are measured on examples that no round trains on, and not on the test's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpo.errors import DatasetError, StudyError
from hpo.study.card import light_card
from hpo.study.references import Sources
from hpo.study.task import Round, metrics_of
from hpo.study.training import Training
from hpo.tasks.classification import Classification
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.trainer import Trainer
from tests.conftest import SMALL_STUDY, defined
from tests.training.test_trainer import params

ROUNDS = [Round(number, 0) for number in range(2)]
ON_VALIDATION = {**SMALL_STUDY, "protocol": {"rounds": 3, "select_on": "validation"}}


def digit_pairs(**settings: Any) -> DigitPairs:
    task = DigitPairs(dataset="digits", **{"train_pairs": 200, "test_pairs": 150, **settings})
    task.prepare(Path())
    return task


def images_of(pairs: Tensor) -> set[bytes]:
    return {image.numpy().round(4).tobytes() for image in pairs.flatten(0, 1)}


def test_validation_pairs_are_of_images_that_a_round_does_not_train_on() -> None:
    task = digit_pairs(validation_pairs=400)
    for one in ROUNDS:
        train, test = task.data(one)
        validation = task.validation(one)
        assert len(validation.targets) == 400
        assert not images_of(train[0]) & images_of(validation.images)
        assert not images_of(test[0]) & images_of(validation.images)
        assert torch.equal(validation.images, task.validation(one).images)
    assert len(digit_pairs().validation(ROUNDS[0]).targets) == 1000


def test_too_few_images_that_are_left_are_named() -> None:
    with pytest.raises(DatasetError, match=r"validation_pairs is 1000, but round 0 trains on all but \d+ images"):
        digit_pairs(train_pairs=5000).validation(ROUNDS[0])


def test_trials_are_measured_on_them_and_the_test_is_not_looked_at() -> None:
    task, training = digit_pairs(test_pairs="all", validation_pairs=300), Training(epochs=2, evaluate_at=(1,))
    (_, tested), (_, validated) = (
        list(Trainer(task, training, select_on=on).measure(params(), ROUNDS)) for on in ("test", "validation")
    )
    assert tested.errors != validated.errors
    assert "confusion_matrices" not in validated.details
    assert all(round(error * 3, 6).is_integer() for error in validated.errors["recognition"])  # of 300 pairs
    trainer = Trainer(task, training, select_on="validation")
    assert [metric.title for metric in trainer.metrics] == [
        "validation error by recognition",
        "validation error by the head",
    ]


def test_a_card_says_so() -> None:
    card = light_card(defined(ON_VALIDATION, name="small"))
    assert (card.metric.title, card.metric.resolution) == ("validation error by recognition", 0.1)
    assert "validation_pairs" not in defined(SMALL_STUDY, name="small").task.settings


def test_a_task_without_such_examples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no validation examples, so protocol\.select_on must be 'test'"):
        metrics_of(object(), "validation")


def examples(folder: Path, **settings: Any) -> Classification:
    generator = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=np.arange(60.0)[:, None], y=generator.integers(3, size=60))
    given = {"network": "mlp", "data": "data.npz", "standardize": False, **settings}
    task, resolved, _ = Classification.configure(given, Sources(folder, folder))
    assert ("validation_examples" in resolved) == ("validation_examples" in settings)
    return task


def test_examples_of_ones_own_are_drawn_apart_too(tmp_path: Path) -> None:
    task = examples(tmp_path, validation_examples=10, test_examples=15)
    assert task.train_examples == 35
    for one in ROUNDS:
        parts = [*task.data(one), task.validation(one)]
        assert sorted(int(x) for part in parts for x in part[0]) == list(range(60))
    assert task.validation_metrics[0].title == "validation error"
    assert task.validation_metrics[0].resolution == 10
    with pytest.raises(ValueError, match="needs validation_examples"):
        _ = examples(tmp_path).validation_metrics
    with pytest.raises(DatasetError, match="which leaves none to train on"):
        examples(tmp_path, validation_examples=50)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("task.test_pairs", "some", "task.test_pairs must be a whole number or 'all', but is 'some'"),
        ("task.test_pairs", 0, "task.test_pairs must be at least 1 or 'all', but is 0"),
        ("run.trials_per_gpu", "x", "run.trials_per_gpu must be 'auto' or a whole number, but is 'x'"),
    ],
)
def test_a_number_or_a_word_is_one_complaint(key: str, value: Any, complaint: str) -> None:
    table, name = key.split(".")
    changed: dict[str, Any] = {**SMALL_STUDY, table: {**SMALL_STUDY.get(table, {}), name: value}}
    with pytest.raises(StudyError, match=f"{re.escape(complaint)}$"):
        defined(changed, name="small")
