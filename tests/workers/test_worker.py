from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import RequestError, WorkError
from hpo.storage.backends import open_storage
from hpo.storage.queries import count_trials, last_finishes, read_trials, set_study_attribute
from hpo.storage.studies import read_definition, unfinished_studies
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import ask, trial_id_of
from hpo.study.definition import StudyDefinition
from hpo.workers import launch as optimize
from hpo.workers import supervisor as supervisor
from hpo.workers.budget import NoTrial, start_trial
from hpo.workers.evaluate import Stop, run_trial
from hpo.workers.launch import begin, run_study
from hpo.workers.liveness import LivenessLock
from hpo.workers.messages import Assignment, Began, Ended, GaveUp, StepDone
from hpo.workers.plan import Plan, make_plan
from hpo.workers.status import Status
from hpo.workers.supervisor import Supervisor
from hpo.workers.worker import _Server, run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined, wait_for


def assignment(opened: RDBStorage, folder: Path, *, target: int, stub: str = "quick") -> Assignment:
    return Assignment(
        url=opened.url,
        studies=("small",),
        target=target,
        device="cpu",
        data_folder=folder,
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
    with Supervisor(opened, told, [told.device]) as supervisor:
        while supervisor.is_working():
            supervisor.wait(0.1)


def run_small(
    opened: RDBStorage, folder: Path, *, target: int, workers: int, stub: str, show: Callable[[Status], None]
) -> None:
    plan = Plan("small", read_definition(opened, "small"), target)
    make = f"tests.stubs:{stub}"
    run_study(opened, plan, devices=["cpu"] * workers, data_folder=folder, show=show, make_objective=make)


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
    assert failed[0].attributes["error"] == "ArithmeticError: the numbers ran out"
    assert "in act" in failed[0].attributes["traceback"]


def test_a_cap_on_failures_ends_the_run(created: RDBStorage, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="20 trials failed by an error"):
        work(created, tmp_path, target=3, stub="fails_always")
    assert counts(created) == {"FAIL": 20}


def test_a_wish_to_stop_gives_the_running_trial_back(created: RDBStorage, tmp_path: Path) -> None:
    stop = Stop()

    def make(definition: StudyDefinition, device: str, folder: Path) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            if trial.number == 2:
                stop.ask()

        return stubs.Stub(definition, folder, act)

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
    terms: dict[str, Any] = {"target": 10**6, "run_began_at": 0}
    handler = signal.getsignal(signal.SIGPROF)
    with ExitStack() as stack:
        lock = stack.enter_context(LivenessLock())
        stack.callback(signal.signal, signal.SIGPROF, handler)
        stack.callback(signal.setitimer, signal.ITIMER_PROF, 0)
        worker = Worker("here", os.getpid(), "cpu", str(lock.file))
        for _ in range(100):
            trial, stop = start_trial(created, study, small_study, worker, **terms), Stop()
            assert isinstance(trial, optuna.Trial)
            signal.signal(signal.SIGPROF, stop.ask)
            signal.setitimer(signal.ITIMER_PROF, random.uniform(0.0001, 0.02))
            began = time.monotonic()
            assert run_trial(created, trial, report_for_ever, stop, 30.0)
            assert time.monotonic() - began < 10
    assert counts(created) == {"FAIL": 100}


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
        seen.extend(one.get("epoch") for one in status.workers)
        if 1 in seen:
            (tmp_path / "GO").touch()

    run_small(created, tmp_path, target=2, workers=1, stub="sleeps_until_told", show=show)
    assert 1 in seen
    assert counts(created) == {"COMPLETE": 2}


def test_no_training_waits_for_a_parent_that_does_not_listen() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    sent = 0
    while supervisor._has_room(theirs):
        theirs.send(StepDone(sent))
        sent += 1
    for _ in range(10):  # what must be said still goes through
        theirs.send(Ended())
    assert sent > 100
    assert [ours.recv() for _ in range(sent + 10)][-1] == Ended()


def test_several_workers_make_exactly_the_trials_asked_for(created: RDBStorage, tmp_path: Path) -> None:
    shown: list[Status] = []
    run_small(created, tmp_path, target=20, workers=3, stub="waits_for_three", show=shown.append)
    assert counts(created) == {"COMPLETE": 20}
    assert shown[-1].finished == 20
    trials = read_trials(created, "small")
    assert len({trial.attributes["worker"]["pid"] for trial in trials}) == 3
    assert sorted(trial.attributes["slot"] for trial in trials) == list(range(20))


def test_a_killed_worker_is_replaced_and_its_trial_keeps_the_cause(created: RDBStorage, tmp_path: Path) -> None:
    wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="killed_once"))
    assert counts(created) == {"COMPLETE": 3, "FAIL": 1}
    (killed,) = read_trials(created, "small", states=(TrialState.FAIL,))
    assert killed.attributes["error"] == "its worker was killed by SIGKILL, perhaps for lack of memory"
    again = next(t for t in read_trials(created, "small") if t.number > 0 and t.attributes["slot"] == 0)
    assert again.params != killed.params  # what killed one worker is not proposed to the next


def test_workers_that_always_die_end_the_run(
    created: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.workers.supervisor.MAX_DEATHS", 1)
    complaint = "2 workers died; the last one was killed by SIGKILL, perhaps for lack of memory"
    with pytest.raises(WorkError, match=complaint):
        wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="killed_always"))


def test_the_errors_of_workers_that_always_die_are_said(
    created: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.workers.supervisor.MAX_DEATHS", 1)
    complaint = r"2 workers died; the last one ended with exit code 1 \(ArithmeticError: the numbers ran out\)$"
    with pytest.raises(WorkError, match=complaint):
        wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="cannot_be_made"))


def test_a_trial_that_hangs_is_ended_and_its_place_taken_again(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = defined({**SMALL_STUDY, "run": {"trial_timeout_seconds": 1.0}}, name="small")
    create(fresh_storage, "small", definition, 3)
    wait_for_supervisor(fresh_storage, assignment(fresh_storage, tmp_path, target=3, stub="hangs_once"))
    assert counts(fresh_storage) == {"COMPLETE": 3, "FAIL": 1}
    (hung,) = read_trials(fresh_storage, "small", states=(TrialState.FAIL,))
    assert hung.attributes["error"] == "it took longer than 1 s (run.trial_timeout_seconds)"


def test_a_worker_serves_every_unfinished_study_the_oldest_first(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    for name, target in (("first", 3), ("second", 2), ("third", 1)):
        create(fresh_storage, name, small_study, target)
    seen: list[list[Status]] = []
    serve(fresh_storage, tmp_path, show=seen.append)
    assert [(status.study, status.finished) for status in seen[-1]] == [("first", 3), ("second", 2), ("third", 1)]
    ends = [last_finishes(fresh_storage, name, 1)[0] for name in ("first", "second", "third")]
    assert ends == sorted(ends)


def test_a_target_that_is_lowered_ends_who_serves_the_study(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "small", small_study, 2000)

    def lower(statuses: list[Status]) -> None:
        if statuses[0].finished >= 3 and statuses[0].total == 2000:
            plan = make_plan(fresh_storage.url, "small", trials=3, lower=True)
            assert plan.notes == ()
            begin(fresh_storage.url, plan, tmp_path)

    serve(fresh_storage, tmp_path, show=lower)
    assert 3 <= counts(fresh_storage)["COMPLETE"] < 2000
    assert unfinished_studies(fresh_storage) == []


def test_a_target_that_is_lowered_ends_the_run_that_was_asked_for_more(
    created: RDBStorage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def lower(status: Status) -> None:
        if status.finished and status.total == 10:
            set_study_attribute(created, "small", "target", 1)

    run_small(created, tmp_path, target=100, workers=1, stub="takes_a_moment", show=lower)
    assert 1 <= counts(created)["COMPLETE"] < 100
    assert "study 'small': its target was lowered to 1 trial" in capfd.readouterr().err


def test_who_asks_for_fewer_trials_than_before_is_told_how_to_lower_the_target(
    created: RDBStorage, tmp_path: Path
) -> None:
    plan = make_plan(created.url, "small", trials=3)
    assert (plan.target, plan.lower) == (3, False)
    assert plan.notes == ("study 'small' is to come to 10 trials, asked for earlier; --lower-target makes it 3",)
    assert make_plan(created.url, "small", trials=10).notes == ()
    set_study_attribute(created, "small", "target", 10**30)  # by a version that had no limit
    assert make_plan(created.url, "small", trials=3).notes[0].endswith("--lower-target makes it 3")


def test_a_worker_picks_up_a_study_that_comes_later(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def show(statuses: list[Status]) -> None:
        if not statuses:
            create(fresh_storage, "later", small_study, 2)
        elif statuses[0].finished == 2:
            raise Enough

    with pytest.raises(Enough):
        serve(fresh_storage, tmp_path, show=show, exit_when_done=False)


def test_a_worker_serves_the_studies_it_is_told_to(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        create(fresh_storage, name, small_study, 1)
    serve(fresh_storage, tmp_path, studies=("second",))
    assert [(study.name, study.target) for study in unfinished_studies(fresh_storage)] == [("first", 1)]


def test_a_study_that_cannot_be_served_is_given_up_and_the_others_are_not(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = defined({**SMALL_STUDY, "title": "broken", "run": {"max_failed_trials": 1}}, name="broken")
    create(fresh_storage, "broken", broken, 2)
    create(fresh_storage, "small", small_study, 2)
    with pytest.raises(WorkError, match="given up: broken"):
        serve(fresh_storage, tmp_path, stub="fails_where_broken", workers=2)
    assert counts(fresh_storage) == {"COMPLETE": 2}
    assert capfd.readouterr().err.count("study 'broken': 1 trial failed by an error") == 1


def test_a_study_that_is_deleted_ends_its_run_in_one_line(created: RDBStorage, tmp_path: Path) -> None:
    def delete(status: Status) -> None:
        if (tmp_path / "STARTED-0").exists():
            optuna.delete_study(study_name="small", storage=created)
            (tmp_path / "GO").touch()

    with pytest.raises(WorkError, match="study 'small' was deleted while it was worked on"):
        run_small(created, tmp_path, target=3, workers=1, stub="sleeps_until_told", show=delete)


def test_a_worker_tells_a_study_from_its_successor_of_the_same_name(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "small", small_study, 1)
    successor = defined({**SMALL_STUDY, "title": "the successor"}, name="small")
    served: list[str] = []

    def make(definition: StudyDefinition, device: str, folder: Path) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            served.append(definition.title)
            if len(served) == 1:
                optuna.delete_study(study_name="small", storage=fresh_storage)
                create(fresh_storage, "small", successor, 1)

        return stubs.Stub(definition, folder, act)

    said: list[Began | StepDone | Ended | GaveUp] = []
    told = replace(assignment(fresh_storage, tmp_path, target=1), studies=None, target=None)
    run_worker(told, make, Stop(), said.append)
    assert served == ["A small study", "the successor"]
    assert counts(fresh_storage) == {"COMPLETE": 1}
    assert not any(isinstance(what, GaveUp) for what in said)


def test_an_objective_is_made_only_where_there_is_something_to_do(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path
) -> None:
    names = [f"study-{number}" for number in range(6)]
    stop = Stop()
    made = 0

    def make(definition: StudyDefinition, device: str, folder: Path) -> stubs.Stub:
        nonlocal made
        made += 1
        return stubs.Stub(definition, folder, lambda trial, folder: None)

    with LivenessLock() as other:
        for name in names:
            create(fresh_storage, name, small_study, 1)
            claim = {"worker": Worker("host", 1, "cpu", str(other.file)).as_json(), "slot": 0}
            ask(fresh_storage, optuna.load_study(study_name=name, storage=fresh_storage), claim)
        told = replace(assignment(fresh_storage, tmp_path, target=1), studies=None, target=None)
        server = _Server(fresh_storage, told, make, "", stop, raise_what_is_given_up)
        assert [server.work() for _ in range(3)] == [NoTrial.TAKEN] * 3
    assert made == 0


def serve(
    opened: RDBStorage,
    folder: Path,
    *,
    studies: tuple[str, ...] | None = None,
    show: Callable[[list[Status]], None] = lambda statuses: None,
    exit_when_done: bool = True,
    stub: str = "quick",
    workers: int = 1,
) -> None:
    optimize.serve(
        opened,
        studies,
        devices=["cpu"] * workers,
        data_folder=folder,
        exit_when_done=exit_when_done,
        show=show,
        make_objective=f"tests.stubs:{stub}",
    )


def test_leaving_the_crew_stops_its_workers_at_once(created: RDBStorage, tmp_path: Path) -> None:
    with Supervisor(created, assignment(created, tmp_path, target=3, stub="sleeps_until_told"), ["cpu"]) as supervisor:
        wait_for(lambda: (tmp_path / "STARTED-0").exists())
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not supervisor.is_working()
    assert counts(created) == {"FAIL": 1}


def test_a_worker_is_deaf_to_ctrl_c_from_its_first_moment(
    created: RDBStorage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Supervisor(created, assignment(created, tmp_path, target=2), ["cpu"]) as supervisor:
        for child in multiprocessing.active_children():
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(child.pid or 0, number)
        while supervisor.is_working():
            supervisor.wait(0.1)
    assert counts(created) == {"COMPLETE": 2}
    assert capfd.readouterr().err == ""


def test_a_signal_to_the_whole_group_gives_the_trials_back(created: RDBStorage, tmp_path: Path) -> None:
    parent = start_parent(assignment(created, tmp_path, target=3, stub="sleeps_until_told"), tmp_path)
    wait_for(lambda: (tmp_path / "STARTED-0").exists())
    os.killpg(parent.pid, signal.SIGTERM)
    assert parent.wait(10) == 130
    assert counts(created) == {"FAIL": 1}


def start_parent(told: Assignment, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a parent process with one worker, in a process group of its own; it ends with 130 when interrupted."""
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from hpo.storage import backends as storage; from hpo.workers.supervisor import Supervisor\n"
        "from hpo.workers.messages import Assignment\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"    told = Assignment(url={told.url!r}, studies=('small',), target=3, device='cpu',\n"
        f"        data_folder=Path({str(folder)!r}), make_objective={told.make_objective!r})\n"
        "    try:\n"
        "        with Supervisor(storage.open_storage(told.url), told, ['cpu']) as supervisor:\n"
        "            while supervisor.is_working(): supervisor.wait(1)\n"
        "    except KeyboardInterrupt: sys.exit(130)\n"
    )
    file = folder / "parent.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.Popen([sys.executable, str(file)], env=environment, start_new_session=True)


def test_a_parent_that_dies_takes_its_workers_along(created: RDBStorage, tmp_path: Path) -> None:
    parent = start_parent(assignment(created, tmp_path, target=3, stub="sleeps_until_told"), tmp_path)
    try:
        wait_for(lambda: (tmp_path / "STARTED-0").exists())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: counts(created) == {"FAIL": 1})


def test_workers_that_were_stopped_one_by_one_end_the_run_unfinished(created: RDBStorage, tmp_path: Path) -> None:
    stopped = set()

    def stop_the_worker(status: Status) -> None:
        for worker in status.workers:
            if (tmp_path / f"STARTED-{worker['trial']}").exists() and worker["pid"] not in stopped:
                stopped.add(worker["pid"])
                os.kill(worker["pid"], signal.SIGTERM)

    with pytest.raises(WorkError, match="every worker was stopped; 0 of 3 trials are finished"):
        run_small(created, tmp_path, target=3, workers=1, stub="sleeps_until_told", show=stop_the_worker)
    assert counts(created) == {"FAIL": 1}


def test_what_a_worker_cannot_do_is_said_once(created: RDBStorage, tmp_path: Path) -> None:
    told = replace(assignment(created, tmp_path, target=3), device="cuda:99", make_objective=Assignment.make_objective)
    with pytest.raises(WorkError, match="device 'cuda:99' is not here") as raised:
        wait_for_supervisor(created, told)
    assert raised.value.exit_code == 2


def test_a_storage_that_fails_is_one_line(created: RDBStorage, tmp_path: Path) -> None:
    (tmp_path / "URL").write_text(created.url)
    with pytest.raises(WorkError, match=r"failed: .*trial_heartbeats") as raised:
        wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="drops_a_table"))
    assert raised.value.exit_code == 1


def test_a_request_error_in_an_objective_gives_the_trial_back(created: RDBStorage, tmp_path: Path) -> None:
    def make(definition: StudyDefinition, device: str, folder: Path) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            raise RequestError("the dataset went away")

        return stubs.Stub(definition, folder, act)

    with pytest.raises(WorkError, match="went away") as raised:
        run_worker(assignment(created, tmp_path, target=1), make, Stop(), raise_what_is_given_up)
    assert raised.value.exit_code == RequestError.exit_code
    assert counts(created) == {"FAIL": 1}
