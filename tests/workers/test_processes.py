"""Worker processes and who looks after them: what happens where one dies, hangs or is told to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import RequestError, WorkError
from hpo.storage.queries import read_trials
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers import supervisor as supervisor
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Assignment
from hpo.workers.status import Status
from hpo.workers.supervisor import Supervisor
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined, on_sqlite, wait_for
from tests.workers.test_worker import assignment, counts, raise_what_is_given_up, run_small, wait_for_supervisor


@pytest.mark.usefixtures("warm_workers")
def test_several_workers_make_exactly_the_trials_asked_for(created: RDBStorage, tmp_path: Path) -> None:
    shown: list[Status] = []
    run_small(created, tmp_path, target=20, workers=3, stub="waits_for_three", show=shown.append)
    assert counts(created) == {"COMPLETE": 20}
    assert shown[-1].finished == 20
    trials = read_trials(created, "small")
    assert len({trial.attributes["worker"]["pid"] for trial in trials}) == 3
    assert sorted(trial.attributes["slot"] for trial in trials) == list(range(20))


@pytest.mark.usefixtures("warm_workers")
def test_a_killed_worker_is_replaced_and_its_trial_keeps_the_cause(created: RDBStorage, tmp_path: Path) -> None:
    wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="killed_once"))
    assert counts(created) == {"COMPLETE": 3, "FAIL": 1}
    (killed,) = read_trials(created, "small", states=(TrialState.FAIL,))
    assert killed.attributes["error"] == "its worker was killed by SIGKILL, perhaps for lack of memory"
    again = next(t for t in read_trials(created, "small") if t.number > 0 and t.attributes["slot"] == 0)
    assert again.params != killed.params  # what killed one worker is not proposed to the next


@on_sqlite
@pytest.mark.usefixtures("warm_workers")
def test_workers_that_always_die_end_the_run(
    created: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.workers.supervisor.MAX_DEATHS", 1)
    complaint = "2 workers died; the last one was killed by SIGKILL, perhaps for lack of memory"
    with pytest.raises(WorkError, match=complaint):
        wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="killed_always"))


@on_sqlite
@pytest.mark.usefixtures("warm_workers")
def test_the_errors_of_workers_that_always_die_are_said(
    created: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.workers.supervisor.MAX_DEATHS", 1)
    complaint = r"2 workers died; the last one ended with exit code 1 \(ArithmeticError: the numbers ran out\)$"
    with pytest.raises(WorkError, match=complaint):
        wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="cannot_be_made"))


@pytest.mark.usefixtures("warm_workers")
def test_a_trial_that_hangs_is_ended_and_its_place_taken_again(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = defined({**SMALL_STUDY, "run": {"trial_timeout_seconds": 1.0}}, name="small")
    create(fresh_storage, "small", definition, 3)
    wait_for_supervisor(fresh_storage, assignment(fresh_storage, tmp_path, target=3, stub="hangs_once"))
    assert counts(fresh_storage) == {"COMPLETE": 3, "FAIL": 1}
    (hung,) = read_trials(fresh_storage, "small", states=(TrialState.FAIL,))
    assert hung.attributes["error"] == "it took longer than 1 s (run.trial_timeout_seconds)"


@on_sqlite
def test_leaving_the_supervisor_stops_its_workers_at_once(created: RDBStorage, tmp_path: Path) -> None:
    with Supervisor(["cpu"]) as supervisor:
        supervisor.assign(created, assignment(created, tmp_path, target=3, stub="sleeps_until_told"))
        wait_for(lambda: (tmp_path / "STARTED-0").exists())
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not supervisor.is_working()
    assert counts(created) == {"FAIL": 1}


@on_sqlite
def test_a_worker_is_deaf_to_ctrl_c_from_its_first_moment(
    created: RDBStorage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Supervisor(["cpu"]) as supervisor:
        supervisor.assign(created, assignment(created, tmp_path, target=2))
        for child in multiprocessing.active_children():
            for number in (signal.SIGINT, signal.SIGHUP):
                os.kill(child.pid or 0, number)
        while supervisor.is_working():
            supervisor.wait(0.1)
    assert counts(created) == {"COMPLETE": 2}
    assert capfd.readouterr().err == ""


@on_sqlite
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
        "from hpo.study.references import Sources; from hpo.workers.messages import Assignment\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"    told = Assignment(url={told.url!r}, studies=('small',), target=3, device='cpu',\n"
        f"        sources=Sources(Path({str(folder)!r})), make_objective={told.make_objective!r})\n"
        "    try:\n"
        "        with Supervisor(['cpu']) as supervisor:\n"
        "            supervisor.assign(storage.open_storage(told.url), told)\n"
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


@on_sqlite
@pytest.mark.usefixtures("warm_workers")
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


@on_sqlite
@pytest.mark.usefixtures("warm_workers")
def test_what_a_worker_cannot_do_is_said_once(created: RDBStorage, tmp_path: Path) -> None:
    told = replace(assignment(created, tmp_path, target=3), device="cuda:99", make_objective=Assignment.make_objective)
    with pytest.raises(WorkError, match="device 'cuda:99' is not here") as raised:
        wait_for_supervisor(created, told)
    assert raised.value.exit_code == 2


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_storage_that_fails_is_one_line(created: RDBStorage, tmp_path: Path) -> None:
    (tmp_path / "URL").write_text(created.url)
    with pytest.raises(WorkError, match=r"failed: .*trial_heartbeats") as raised:
        wait_for_supervisor(created, assignment(created, tmp_path, target=3, stub="drops_a_table"))
    assert raised.value.exit_code == 1


@on_sqlite
def test_a_request_error_in_an_objective_gives_the_trial_back(created: RDBStorage, tmp_path: Path) -> None:
    def make(definition: StudyDefinition, device: str, sources: Sources) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            raise RequestError("the dataset went away")

        return stubs.Stub(definition, sources.data, act)

    with pytest.raises(WorkError, match="went away") as raised:
        run_worker(assignment(created, tmp_path, target=1), make, Stop(), raise_what_is_given_up)
    assert raised.value.exit_code == RequestError.exit_code
    assert counts(created) == {"FAIL": 1}
