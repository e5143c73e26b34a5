"""The schema by which editors check a study's file: it accepts what hpo accepts, and refuses what one key breaks."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hpo.study.json_schema import FILE, study_schema
from tests.conftest import SMALL_STUDY
from tests.study.test_definition import WRONG, changed

SCHEMA = Draft202012Validator(study_schema())
FOLDERS = ("studies", "examples", "tests/golden", "benchmarks")
FILES = [file for folder in FOLDERS for file in Path(folder).rglob("*.toml") if not file.name.startswith("_")]
BETWEEN_KEYS = [  # what the schema cannot say: rules between keys, of the task's own parameters, or of the data
    "training.batch_size must not leave one",
    "evaluate_at must name epochs up to",
    "before the last",
    "low must not be above high",
    "which it never is",
    "test_pairs must be at most",
    "must be a finite number",
    "is code that is not shipped",
]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_study_is_accepted(file: Path) -> None:
    assert [error.message for error in SCHEMA.iter_errors(tomllib.loads(file.read_text()))] == []


def test_shipped_studies_name_the_schema_that_lies_beside_them() -> None:
    assert json.loads(Path("studies", FILE).read_text()) == study_schema()
    for file in (*Path("studies").glob("[!_]*.toml"), *Path("examples").rglob("*.toml")):
        first = file.read_text().splitlines()[0]
        assert (file.parent / first.removeprefix("#:schema ")).resolve() == Path("studies", FILE).resolve(), file


def test_a_metric_that_is_measured_where_it_is_asked_for_is_accepted() -> None:
    asked = changed(changed(SMALL_STUDY, "task.posterior", True), "protocol.metric", "posterior")
    assert SCHEMA.is_valid(asked)


@pytest.mark.parametrize(("path", "value", "complaint"), WRONG)
def test_what_a_single_key_breaks_is_rejected(path: str, value: Any, complaint: str) -> None:
    table = changed({**copy.deepcopy(SMALL_STUDY), "run": {}}, path, value)
    accepted = SCHEMA.is_valid(table)
    assert accepted == any(part in complaint for part in BETWEEN_KEYS), complaint


@pytest.mark.parametrize(
    "change",
    [
        {"space": {"x": {"low": 1}}},
        {"space": {"x": {"low": 1, "high": 2, "hihg": 3}}},
        {"space": {"x": {"low": "a", "high": 2}}},
        {"space": {"x": []}},
        {"space": {"x": [[1]]}},
        {"space": None},
        {"trial": [{"params": {}}]},
        {"pruner": {"name": "median", "percentile": 3}},
        {"sampler": "tpe"},
        {"task": {"name": "classification", "network": "mlp"}},
        {"task": {"dataset": "digits"}},
        {"training": {"epochs": "ten"}},
        {"run": {"keep": "losses"}},
    ],
    ids=json.dumps,
)
def test_wrong_tables_are_rejected(change: dict[str, Any]) -> None:
    table = {**SMALL_STUDY, **change}
    assert not SCHEMA.is_valid({key: value for key, value in table.items() if value is not None})
