from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import WorkError
from hpo.storage.backends import open_storage
from hpo.storage.queries import count_trials, read_trials
from hpo.storage.studies import read_definition
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import trial_id_of
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers import process
from hpo.workers.budget import start_trial
from hpo.workers.evaluate import Stop, run_trial
from hpo.workers.launch import run_study
from hpo.workers.liveness import LivenessLock
from hpo.workers.messages import Assignment, Began, Ended, GaveUp, StepDone
from hpo.workers.plan import Plan
from hpo.workers.status import Status
from hpo.workers.supervisor import Supervisor
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import LISTED_STUDY, create, defined

pytestmark = pytest.mark.usefixtures("warm_workers")


def assignment(opened: RDBStorage, folder: Path, *, target: int, stub: str = "quick") -> Assignment:
    return Assignment(
        url=opened.url,
        studies=("small",),
        target=target,
        device="cpu",
        sources=Sources(folder),
        make_objective=f"tests.stubs:{stub}",
    )


def work(opened: RDBStorage, folder: Path, *, target: int, stub: str = "quick", stop: Stop | None = None) -> None:
    """Runs a worker in this process."""
    make: Callable[..., stubs.Stub] = getattr(stubs, stub)
    run_worker(assignment(opened, folder, target=target, stub=stub), make, stop or Stop(), raise_what_is_given_up)


def raise_what_is_given_up(said: Began | StepDone | Ended | GaveUp) -> None:
    if isinstance(said, GaveUp):
        raise WorkError(said.message, said.exit_code)


def counts(opened: RDBStorage) -> dict[str, int]:
    return {state.name: count for state, count in count_trials(opened, "small").items() if count}


def wait_for_supervisor(opened: RDBStorage, told: Assignment) -> None:
    with Supervisor([told.device]) as supervisor:
        supervisor.assign(opened, told)
        while supervisor.is_working():
            supervisor.wait(0.1)


def run_small(
    opened: RDBStorage, folder: Path, *, target: int, workers: int, stub: str, show: Callable[[Status], None]
) -> None:
    plan = Plan("small", read_definition(opened, "small"), target)
    make = f"tests.stubs:{stub}"
    run_study(opened, plan, devices=["cpu"] * workers, sources=Sources(folder), show=show, make_objective=make)


def test_a_worker_brings_a_study_to_its_trials_and_no_further(created: RDBStorage, tmp_path: Path) -> None:
    work(created, tmp_path, target=4)
    assert counts(created) == {"COMPLETE": 4}
    work(created, tmp_path, target=4)
    assert counts(created) == {"COMPLETE": 4}
    work(created, tmp_path, target=5)
    assert counts(created) == {"COMPLETE": 5}


def test_a_pruned_trial_counts_and_has_no_value(created: RDBStorage, tmp_path: Path) -> None:
    work(created, tmp_path, target=6, stub="pruned_every_third")
    assert counts(created) == {"COMPLETE": 4, "PRUNED": 2}
    pruned = read_trials(created, "small", states=(TrialState.PRUNED,))
    assert [trial.value for trial in pruned] == [None, None]


def test_one_worker_gives_the_same_study_twice(tmp_path: Path, small_study: StudyDefinition) -> None:
    runs = []
    for name in ("first", "second"):
        opened = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        create(opened, "small", small_study, 8)
        work(opened, tmp_path, target=8)
        runs.append([(trial.params, trial.value) for trial in read_trials(opened, "small")])
    assert runs[0] == runs[1]


def test_a_study_comes_out_the_same_when_it_was_interrupted(tmp_path: Path, small_study: StudyDefinition) -> None:
    runs = []
    for name in ("whole", "interrupted"):
        opened = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        create(opened, "small", small_study, 12)
        if name == "interrupted":
            work(opened, tmp_path, target=5)
            study = optuna.load_study(study_name="small", storage=opened)
            for _ in range(3):  # workers that died at once
                study.ask()
        work(opened, tmp_path, target=12)
        finished = read_trials(opened, "small", states=(TrialState.COMPLETE,))
        runs.append([(trial.attributes["slot"], trial.params, trial.value) for trial in finished])
    assert runs[0] == runs[1]


def test_an_error_in_training_is_kept_and_the_study_goes_on(created: RDBStorage, tmp_path: Path) -> None:
    work(created, tmp_path, target=3, stub="fails_twice")
    assert counts(created) == {"COMPLETE": 3, "FAIL": 2}
    failed = read_trials(created, "small", states=(TrialState.FAIL,))
    assert re.fullmatch(r"ArithmeticError: the numbers ran out \(stubs\.py, line \d+\)", failed[0].attributes["error"])
    assert "in act" in failed[0].attributes["traceback"]


def test_a_cap_on_failures_ends_the_run(created: RDBStorage, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="20 trials failed by an error"):
        work(created, tmp_path, target=3, stub="fails_always")
    assert counts(created) == {"FAIL": 20}


def test_a_wish_to_stop_gives_the_running_trial_back(created: RDBStorage, tmp_path: Path) -> None:
    stop = Stop()

    def make(definition: StudyDefinition, device: str, sources: Sources) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            if trial.number == 2:
                stop.ask()

        return stubs.Stub(definition, sources.data, act)

    run_worker(assignment(created, tmp_path, target=5), make, stop, raise_what_is_given_up)
    assert counts(created) == {"COMPLETE": 2, "FAIL": 1}
    assert "error" not in read_trials(created, "small", states=(TrialState.FAIL,))[0].attributes
    work(created, tmp_path, target=5)
    assert counts(created) == {"COMPLETE": 5, "FAIL": 1}


def test_a_stop_at_any_moment_of_a_trial_gives_it_back_and_leaves_the_storage_usable(
    created: RDBStorage, tmp_path: Path, small_study: StudyDefinition
) -> None:
    """Also in the middle of a statement, where it would leave a transaction open."""

    def report_for_ever(trial: optuna.Trial) -> float:
        for step in count(1):
            trial.report(50.0, step)
        raise AssertionError

    study, random = optuna.load_study(study_name="small", storage=created), Random(0)
    stops = 50 * int(os.environ.get("HPO_EXAMPLES", 1))
    terms: dict[str, Any] = {"target": 10**6, "run_began_at": 0}
    handler = signal.getsignal(signal.SIGPROF)
    with ExitStack() as stack:
        lock = stack.enter_context(LivenessLock())
        stack.callback(signal.signal, signal.SIGPROF, handler)
        stack.callback(signal.setitimer, signal.ITIMER_PROF, 0)
        worker = Worker("here", os.getpid(), "cpu", str(lock.file))
        for _ in range(stops):
            trial, stop = start_trial(created, study, small_study, worker, **terms), Stop()
            assert isinstance(trial, optuna.Trial)
            signal.signal(signal.SIGPROF, stop.ask)
            signal.setitimer(signal.ITIMER_PROF, random.uniform(0.0001, 0.02))
            began = time.monotonic()
            assert run_trial(created, trial, report_for_ever, stop, 30.0)
            assert time.monotonic() - began < 10
    assert counts(created) == {"FAIL": stops}


@pytest.mark.parametrize("moment", ["before it tells", "before it reports"])
def test_a_result_that_comes_after_the_trial_was_given_up_is_dropped(
    created: RDBStorage, tmp_path: Path, capfd: pytest.CaptureFixture[str], moment: str
) -> None:
    class GivenUp:
        device = "stub"

        def __call__(self, trial: optuna.Trial, step_done: object) -> float:
            if trial.number == 0:
                created.set_trial_state_values(trial_id_of(trial), TrialState.FAIL)
                if moment == "before it reports":
                    trial.report(1.0, step=1)
            return 1.0

    run_worker(assignment(created, tmp_path, target=2), lambda *_: GivenUp(), Stop(), raise_what_is_given_up)
    assert counts(created) == {"COMPLETE": 2, "FAIL": 1}
    assert capfd.readouterr().err == "trial 0 was given up for dead meanwhile; its result is dropped\n"


def test_the_parent_is_told_of_epochs_while_a_trial_runs(created: RDBStorage, tmp_path: Path) -> None:
    seen: list[int | None] = []
    end = time.monotonic() + 60

    def show(status: Status) -> None:
        assert time.monotonic() < end
        seen.extend(one.get("step") for one in status.workers)
        if 1 in seen:
            (tmp_path / "GO").touch()

    run_small(created, tmp_path, target=2, workers=1, stub="sleeps_until_told", show=show)
    assert 1 in seen
    assert counts(created) == {"COMPLETE": 2}


def test_no_training_waits_for_a_parent_that_does_not_listen() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    sent = 0
    while process._has_room(theirs):
        theirs.send(StepDone("s", 0, sent))
        sent += 1
    for _ in range(10):  # what must be said still goes through
        theirs.send(Ended("s", 0))
    assert sent > 100
    assert [ours.recv() for _ in range(sent + 10)][-1] == Ended("s", 0)


def test_a_list_measures_all_it_can_where_one_of_its_configurations_fails(
    fresh_storage: RDBStorage, tmp_path: Path
) -> None:
    rates = [0.1, 0.2, 0.3]
    params = LISTED_STUDY["trial"][0]["params"]
    trials = [{"label": str(rate), "params": {**params, "learning_rate": rate}} for rate in rates]
    create(fresh_storage, "small", defined({**LISTED_STUDY, "trial": trials}, name="small"), 3)

    class Fails:
        device = "stub"

        def __call__(self, trial: optuna.Trial, step_done: object) -> float:
            if trial.study.sampler.params["learning_rate"] == 0.2:  # type: ignore[union-attr]
                raise ArithmeticError("this one fails")
            return 1.0

    complaint = r"'0.2' failed 3 times, the last time by ArithmeticError: this one fails"
    with pytest.raises(WorkError, match=complaint):
        run_worker(assignment(fresh_storage, tmp_path, target=3), lambda *_: Fails(), Stop(), raise_what_is_given_up)
    assert counts(fresh_storage) == {"COMPLETE": 2, "FAIL": 3}
