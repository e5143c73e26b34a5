"""A worker that starts before its study: it waits, says for what, and ends when that is done."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import RDBStorage

from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials, study_names
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers import worker
from hpo.workers.evaluate import Stop
from hpo.workers.status import Status
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined
from tests.started import Started
from tests.workers.test_serving import serve
from tests.workers.test_worker import assignment, raise_what_is_given_up

pytestmark = pytest.mark.usefixtures("warm_workers")


@pytest.mark.parametrize("studies", [None, ("later",), ("earlier", "later")])
def test_a_worker_that_ends_when_all_is_done_waits_for_a_study_first(
    studies: tuple[str, ...] | None,
    fresh_storage: RDBStorage,
    small_study: StudyDefinition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optuna.create_study(study_name="of another program", storage=fresh_storage)
    if studies:
        create(fresh_storage, "earlier", small_study, 1)
    naps = 0

    def nap(seconds: float) -> None:
        nonlocal naps
        naps += 1
        if naps == 3:
            create(fresh_storage, "later", small_study, 2)

    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=nap, monotonic=time.monotonic))
    told = replace(assignment(fresh_storage, tmp_path, target=1), studies=studies, target=None)
    run_worker(told, stubs.quick, Stop(), raise_what_is_given_up)
    assert naps == 3
    assert len(read_trials(fresh_storage, "later")) == 2


def test_a_worker_ends_at_once_where_all_is_done_and_does_not_wait_for_what_was_deleted(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(fresh_storage, "small", small_study, 1)
    create(fresh_storage, "other", small_study, 1)

    def make(definition: StudyDefinition, device: str, sources: Sources) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            if trial.study.study_name == "small":
                optuna.delete_study(study_name="small", storage=fresh_storage)

        return stubs.Stub(definition, sources.data, act)

    told = replace(assignment(fresh_storage, tmp_path, target=1), studies=("small", "other"), target=None)
    run_worker(told, make, Stop(), lambda said: None)
    assert study_names(fresh_storage) == ["other"]
    assert len(read_trials(fresh_storage, "other")) == 1
    monkeypatch.setattr(worker, "time", None)  # nothing waits
    run_worker(replace(told, studies=None), stubs.quick, Stop(), raise_what_is_given_up)


def test_what_is_waited_for_is_said_and_served_when_it_comes(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    create(fresh_storage, "earlier", small_study, 1)
    optuna.create_study(study_name="of another program", storage=fresh_storage)

    def show(statuses: list[Status]) -> None:
        if "later" not in study_names(fresh_storage):
            create(fresh_storage, "later", small_study, 2)

    serve(fresh_storage, tmp_path, studies=("earlier", "later"), show=show)
    assert [len(read_trials(fresh_storage, name)) for name in ("earlier", "later")] == [1, 2]
    assert "waiting for a study named 'later'; there are: earlier\n" in capfd.readouterr().err


@pytest.mark.parametrize("exists", [True, False])
def test_a_mistyped_name_is_waited_for_and_the_nearest_is_said(exists: bool, tmp_path: Path) -> None:
    if exists:
        opened = open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
        create(opened, "small", defined(SMALL_STUDY, name="small"), 1)
    waiting = Started("worker", "--workers", "1", "--study", "smal", "--exit-when-done", folder=tmp_path)
    near = "did you mean 'small'? there are: small" if exists else "there are: none"
    assert waiting.stderr.readline() == f"waiting for a study named 'smal'; {near}\n"
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=20)
    assert waiting.returncode == 130
