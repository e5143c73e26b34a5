"""A few of the golden numbers; `make golden` checks all."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.__main__ import RECORDED, check, differences, names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "range_test"])
def test_what_was_measured_once_is_measured_again(name: str) -> None:
    assert check(name) == []


@pytest.mark.slow
@pytest.mark.mnist
@pytest.mark.parametrize("name", ["report_a_table_1"])
def test_what_was_measured_once_on_mnist_is_measured_again(
    name: str, mnist_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_DATA", str(mnist_folder.resolve()))
    assert check(name) == []


def test_every_golden_study_has_a_record() -> None:
    assert {file.stem for file in RECORDED.glob("*.json")} == set(names())


def recorded() -> Any:
    return json.loads((RECORDED / "quickstart.json").read_text(encoding="utf-8"))


def elsewhere(record: Any) -> Any:
    return {**copy.deepcopy(record), "conditions": {**record["conditions"], "processor": "another"}}


def test_a_last_digit_counts_on_the_recorded_processor_alone() -> None:
    record, now = recorded(), recorded()
    trial = next(trial for trial in now["studies"]["quickstart"] if trial["errors"])
    trial["errors"][0] += 0.1
    assert differences("quickstart", record, record) == []
    assert "errors.0 was" in differences("quickstart", record, now)[0]
    assert differences("quickstart", record, elsewhere(now)) == []


def test_on_another_processor_states_random_configurations_and_errors_count() -> None:
    record = recorded()
    for change, complaint in (
        ({"state": "FAIL"}, "state was"),
        ({"params": {}}, "params were"),
        ({"errors": [error + 1.0 for error in record["studies"]["quickstart"][0]["errors"]]}, "points away"),
    ):
        now = elsewhere(record)
        now["studies"]["quickstart"][0].update(change)
        assert complaint in differences("quickstart", record, now)[0]
    now["studies"]["quickstart"].pop()
    assert "had 30 trials and has 29" in differences("quickstart", record, now)[0]
