"""Studies that another version of this program has made are named, and never half read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from hpo.storage.queries import set_study_attribute
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Assignment, GaveUp
from hpo.workers.status import read_status
from hpo.workers.worker import run_worker
from tests.conftest import create, work
from tests.storage.foreign import hpo
from tests.stubs import quick

pytestmark = pytest.mark.usefixtures("one_process")
READING = (
    ("best", "--study", "small"),
    ("trials", "--study", "small"),
    ("trials", "--study", "small", "--csv"),
    ("report", "--study", "small", "-o", "out"),
    ("confirm", "--study", "small"),
    ("drift", "--study", "small"),
    ("export", "--study", "small", "-o", "out"),
)


@pytest.fixture
def measured(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RDBStorage:
    monkeypatch.chdir(tmp_path)
    create(fresh_storage, "small", small_study, 3)
    work(fresh_storage, tmp_path, target=3)
    return fresh_storage


def test_a_study_of_before_format_1_is_named_and_left_alone(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(study_name="small", storage=fresh_storage)
    protocol = {"dataset": "digits", "rounds": 10, "decision": "recognition"}
    for key, value in {
        "definition": {"title": "x", "protocol": protocol, "space": {}},
        **{"definition_sha256": "0", "dataset_sha256": "0", "versions": {}, "identity": "x", "target": 5},
    }.items():
        study.set_user_attr(key, value)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    before = study.user_attrs
    for words in READING:
        done = hpo(fresh_storage, *words)
        assert done.exit_code == 2
        assert "was made by hpo before format 1, which this version does not read" in done.output
        assert len(done.output.strip().splitlines()) == 1
    assert "made by an older hpo" in hpo(fresh_storage, "status").output
    assert json.loads(hpo(fresh_storage, "status", "--study", "small", "--json").output)["is_old"]
    joined = hpo(fresh_storage, "optimize", "--study", "quickstart", "--trials", "2", "--name", "small")
    assert (joined.exit_code, "before format 1" in joined.output) == (2, True)
    create(fresh_storage, "other", small_study, 1)
    work(fresh_storage, tmp_path, target=None, studies=None)
    assert (study.user_attrs, len(study.trials)) == (before, 1)


def test_a_study_of_a_later_format_is_named(measured: RDBStorage) -> None:
    definition = optuna.load_study(study_name="small", storage=measured).user_attrs["definition"]
    set_study_attribute(measured, "small", "definition", {**definition, "format": 2, "more": {"than": "is known"}})
    for words in READING:
        done = hpo(measured, *words)
        assert done.exit_code == 2
        assert "is of format 2, and this hpo reads format 1; upgrade it to read it" in done.output
        assert len(done.output.strip().splitlines()) == 1


def test_every_stored_definition_says_its_format(measured: RDBStorage) -> None:
    assert optuna.load_study(study_name="small", storage=measured).user_attrs["definition"]["format"] == 1


def test_a_definition_that_somebody_has_spoiled_is_one_line_and_ends_no_other_study(
    measured: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    definition = optuna.load_study(study_name="small", storage=measured).user_attrs["definition"]
    entry: dict[str, Any] = {"label": "x", "params": {}, "published": None}
    create(measured, "other", small_study, 1)
    for changed in (
        {"space": {}, "trial": [entry], "pruner": {"name": "none"}},
        {"space": None},
        {"space": [1]},
        {"space": {**definition["space"], "widht": {"low": 1, "high": 2}}},
        {"task": {"name": "subprocess:Popen"}},
    ):
        set_study_attribute(measured, "small", "definition", {**definition, **changed})
        assert hpo(measured, "status").exit_code == 0
        done = hpo(measured, "optimize", "--study", "small", "--trials", "9")
        assert (done.exit_code, len(done.output.strip().splitlines())) == (2, 1), done.output
        set_study_attribute(measured, "small", "target", 9)
        said: list[object] = []
        run_worker(told(measured, tmp_path), quick, Stop(), said.append)
        assert any(isinstance(one, GaveUp) and one.study == "small" for one in said)
    assert read_status(measured, "other").finished == 1


def told(opened: RDBStorage, folder: Path) -> Assignment:
    return Assignment(url=opened.url, studies=None, device="cpu", sources=Sources(folder))
