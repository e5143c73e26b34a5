"""A pruner that could never end a trial is refused."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import StudyError
from hpo.study.definition import StudyDefinition
from tests.conftest import SMALL_STUDY, defined
from tests.study.test_definition import changed


def study(pruner: dict[str, Any]) -> StudyDefinition:
    """A study whose trials are evaluated after the epochs 1, 3 and 9, or measured in 6 rounds."""
    training = {"epochs": 9, "batch_size": 50, "evaluate_at": [1, 3]}
    return defined({**SMALL_STUDY, "training": training, "protocol": {"rounds": 6}, "pruner": pruner}, name="small")


@pytest.mark.parametrize(
    ("pruner", "rule"),
    [
        ({"name": "median", "n_warmup_steps": 3}, None),
        ({"name": "median", "n_warmup_steps": 4}, "n_warmup_steps must be at most 3, the last epoch at which pruner"),
        ({"name": "percentile", "n_warmup_steps": 9}, "n_warmup_steps must be at most 3"),
        ({"name": "successive_halving", "min_resource": 3}, None),
        ({"name": "successive_halving", "min_resource": 4}, "min_resource must be at most 3"),
        (
            {"name": "successive_halving", "min_early_stopping_rate": 1},
            "min_resource * reduction_factor ** min_early_stopping_rate must be at most 3, the last epoch at which",
        ),
        ({"name": "hyperband", "min_resource": 3}, None),
        ({"name": "hyperband", "min_resource": 4}, "min_resource must be at most 3"),
        ({"name": "hyperband", "min_resource": 3, "max_resource": 2}, "min_resource must be at most max_resource, 2"),
        ({"name": "wilcoxon", "n_startup_steps": 5}, None),
        ({"name": "wilcoxon", "n_startup_steps": 6}, "n_startup_steps must be at most 5, the last round at which"),
    ],
)
def test_a_pruner_that_begins_too_late_is_refused(pruner: dict[str, Any], rule: str | None) -> None:
    if rule is None:
        assert study(pruner).pruner.name == pruner["name"]
        return
    with pytest.raises(StudyError) as raised:
        study(pruner)
    assert str(raised.value).startswith(f"study 'small': pruner.{rule}")
    assert "\n" not in str(raised.value)


def test_a_pruner_needs_evaluations_before_a_trials_own_last_epoch() -> None:
    """Those of a trial with fewer epochs can all fall on its last."""

    def searched(epochs: Any, **pruner: Any) -> StudyDefinition:
        table = changed(SMALL_STUDY, "training", {"epochs": 9, "batch_size": 50, "evaluate_at": [1, 3]})
        return defined(changed({**table, "pruner": {"name": "median", **pruner}}, "space.epochs", epochs), name="small")

    for epochs in (1, [1]):
        with pytest.raises(
            StudyError, match=r"evaluate_at must name 1 epoch before the last.*a trial has at most 1 epoch"
        ):
            searched(epochs)
    assert searched([1, 3]).pruner.name == "median"  # a trial of 3 is asked about after its first, which counts as 3
    with pytest.raises(StudyError, match=r"n_warmup_steps must be at most 3"):
        searched([1, 3], n_warmup_steps=4)
    sometimes = {"choices": [1], "when": {"optimizer": "adam"}}
    assert searched(sometimes).pruner.name == "median"  # the others have 9
