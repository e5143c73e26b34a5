"""Several trials at once in one worker process: each has its claim, its slot, its limit and its failure for itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.storage.claims import read_running
from hpo.storage.queries import read_trials
from hpo.study.definition import StudyDefinition
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Assignment
from hpo.workers.supervisor import Supervisor
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined, wait_for
from tests.workers.test_worker import assignment, counts, raise_what_is_given_up

pytestmark = pytest.mark.usefixtures("warm_workers")


def at_once(opened: RDBStorage, folder: Path, *, target: int, stub: str = "three_at_once") -> Assignment:
    return replace(assignment(opened, folder, target=target, stub=stub), at_once=None)


def work(opened: RDBStorage, folder: Path, *, target: int, stub: str = "three_at_once", **how: Any) -> None:
    """Runs a worker in this process."""
    make: Callable[..., stubs.Stub] = getattr(stubs, stub)
    run_worker(replace(at_once(opened, folder, target=target, stub=stub), **how), make, Stop(), raise_what_is_given_up)


def supervise(opened: RDBStorage, told: Assignment, workers: int = 1, look: Callable[[], None] = lambda: None) -> None:
    with Supervisor([told.device] * workers) as supervisor:
        supervisor.assign(opened, told)
        while supervisor.is_working():
            supervisor.wait(0.05)
            look()


def go_when_there_are(number: int, opened: RDBStorage, folder: Path) -> Callable[[], None]:
    """Returns what lets all trials end once so many are running."""
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, len(read_running(opened, "small")))
        if most >= number and len(list(folder.glob("here-*"))) >= number:
            (folder / "GO").touch()

    return look


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_run_as_the_task_takes_and_all_slots_are_filled_once(
    created: RDBStorage, tmp_path: Path, workers: int
) -> None:
    look = go_when_there_are(3 * workers, created, tmp_path)
    supervise(created, at_once(created, tmp_path, target=14), workers, look)
    assert counts(created) == {"COMPLETE": 14}
    trials = read_trials(created, "small")
    assert sorted(trial.attributes["slot"] for trial in trials) == list(range(14))
    assert len({trial.attributes["worker"]["claim"] for trial in trials}) == 14
    assert len({trial.attributes["worker"]["pid"] for trial in trials}) == workers


def test_a_number_of_workers_means_one_trial_at_once(created: RDBStorage, tmp_path: Path) -> None:
    work(created, tmp_path, target=3, at_once=1)
    assert counts(created) == {"COMPLETE": 3}
    assert not list(tmp_path.glob("here-*"))


def test_what_a_trial_comes_to_does_not_depend_on_its_neighbours(tmp_path: Path, fresh_storage: RDBStorage) -> None:
    definition = defined({**SMALL_STUDY, "sampler": {"name": "random"}}, name="small")
    create(fresh_storage, "small", definition, 9)
    (tmp_path / "GO").touch()
    work(fresh_storage, tmp_path, target=4)
    work(fresh_storage, tmp_path, target=9, at_once=1)
    beside = {trial.attributes["slot"]: (trial.params, trial.value) for trial in read_trials(fresh_storage, "small")}
    fresh_storage.delete_study(fresh_storage.get_study_id_from_name("small"))
    create(fresh_storage, "small", definition, 9)
    work(fresh_storage, tmp_path, target=9, at_once=1)
    alone = {trial.attributes["slot"]: (trial.params, trial.value) for trial in read_trials(fresh_storage, "small")}
    assert beside == alone


def test_a_killed_worker_gives_back_all_its_trials(created: RDBStorage, tmp_path: Path) -> None:
    killed: list[int] = []

    def look() -> None:
        running = read_running(created, "small")
        if not killed and len(list(tmp_path.glob("here-*"))) == 3 and len(running) == 3 and running[0].worker:
            killed.append(running[0].worker.pid)
            os.kill(killed[0], signal.SIGKILL)
            (tmp_path / "GO").touch()

    supervise(created, at_once(created, tmp_path, target=5), look=look)
    assert counts(created) == {"COMPLETE": 5, "FAIL": 3}
    failed = read_trials(created, "small", states=(TrialState.FAIL,))
    why = "its worker was killed by SIGKILL, perhaps for lack of memory; it ran beside"
    assert [trial.attributes["error"] for trial in failed] == [f"{why} {others}" for others in ("1, 2", "0, 2", "0, 1")]
    assert {trial.attributes["worker"]["pid"] for trial in failed} == set(killed)


def test_a_stop_gives_back_all_trials_at_once(created: RDBStorage, tmp_path: Path) -> None:
    with Supervisor(["cpu"]) as supervisor:
        supervisor.assign(created, at_once(created, tmp_path, target=9))
        wait_for(lambda: len(list(tmp_path.glob("here-*"))) == 3)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert counts(created) == {"FAIL": 3}
    assert all("error" not in trial.attributes for trial in read_trials(created, "small"))


def test_a_failure_and_a_pruned_trial_are_those_of_one(created: RDBStorage, tmp_path: Path) -> None:
    (tmp_path / "GO").touch()
    work(created, tmp_path, target=6, stub="one_of_three_fails")
    assert counts(created) == {"COMPLETE": 5, "PRUNED": 1, "FAIL": 1}
    (failed,) = read_trials(created, "small", states=(TrialState.FAIL,))
    assert (failed.number, failed.attributes["error"].partition(" (")[0]) == (1, "RuntimeError: the second fails")


@pytest.mark.parametrize(("stub", "others"), [("one_of_three_takes_too_long", 0), ("one_of_three_hangs", 2)])
def test_a_limit_is_that_of_one_trial(fresh_storage: RDBStorage, tmp_path: Path, stub: str, others: int) -> None:
    """Where a trial does not come back to its worker at all, the worker is ended, and the others are given back."""
    definition = defined({**SMALL_STUDY, "run": {"trial_timeout_seconds": 1.0}}, name="small")
    create(fresh_storage, "small", definition, 4)
    (tmp_path / "GO").touch()
    supervise(fresh_storage, at_once(fresh_storage, tmp_path, target=4, stub=stub))
    failed = read_trials(fresh_storage, "small", states=(TrialState.FAIL,))
    assert counts(fresh_storage)["COMPLETE"] == 4
    assert failed[0].number == 0
    assert failed[0].attributes["error"].startswith("it took longer than 1 s (run.trial_timeout_seconds)")
    assert len(failed) - 1 <= others


def test_a_trial_is_not_charged_for_the_work_on_another(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = defined({**SMALL_STUDY, "run": {"trial_timeout_seconds": 1.0}}, name="small")
    create(fresh_storage, "small", definition, 4)
    (tmp_path / "GO").touch()
    work(fresh_storage, tmp_path, target=4, stub="one_of_three_works_long")
    (failed,) = read_trials(fresh_storage, "small", states=(TrialState.FAIL,))
    assert (failed.number, counts(fresh_storage)["COMPLETE"]) == (1, 4)


def test_a_trial_whose_neighbours_hold_the_memory_is_given_back(created: RDBStorage, tmp_path: Path) -> None:
    (tmp_path / "GO").touch()
    work(created, tmp_path, target=5, stub="one_of_three_lacks_memory")
    assert counts(created) == {"COMPLETE": 5, "FAIL": 1}
    (failed,) = read_trials(created, "small", states=(TrialState.FAIL,))
    assert "error" not in failed.attributes


def test_a_trial_alone_that_lacks_memory_fails(created: RDBStorage, tmp_path: Path) -> None:
    (tmp_path / "GO").touch()
    for trial in (7, 8):
        (tmp_path / f"here-{trial}").touch()
    work(created, tmp_path, target=1, stub="one_of_three_lacks_memory")
    (failed,) = read_trials(created, "small", states=(TrialState.FAIL,))
    assert failed.attributes["error"].startswith("RuntimeError: CUDA error: out of memory")


def test_several_at_once_is_said_by_the_study(small_study: StudyDefinition) -> None:
    assert small_study.run.trials_per_gpu == "auto"
    assert defined({**SMALL_STUDY, "run": {"trials_per_gpu": 4}}, name="small").run.trials_per_gpu == 4
