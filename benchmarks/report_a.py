"""Report A's final configuration by the protocol of `studies/cnn.toml`, as several benchmarks train it."""

from __future__ import annotations

from collections.abc import Iterable

from hpo.study.catalog import load_study
from hpo.study.loading import load_task
from hpo.study.task import Round, Value
from hpo.study.training import Training
from hpo.tasks.datasets import data_folder
from hpo.tasks.digit_pairs.task import DigitPairs


def final_params(architecture: str) -> dict[str, Value]:
    """Returns the final configuration, or the same of another architecture."""
    return {
        "architecture": architecture, "weight_sharing": True, "auxiliary_loss": True,
        "activation": "leaky_relu", "optimizer": "sgd", "learning_rate": 0.1,
    }  # fmt: skip


def cnn_task() -> tuple[DigitPairs, Training]:
    """Returns the task of the cnn study, its data at hand, and how its networks are trained."""
    _, definition = load_study("cnn")
    task: DigitPairs = load_task(definition, study="cnn").task
    task.prepare(data_folder())
    assert definition.training is not None  # a study of networks has one
    return task, definition.training


def cnn_rounds(numbers: Iterable[int]) -> list[Round]:
    """Returns rounds of the cnn study by their numbers; its own are the first ten."""
    seed = load_study("cnn")[1].protocol.seed
    return [Round(number, seed) for number in numbers]
