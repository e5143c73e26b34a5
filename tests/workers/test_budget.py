from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import WorkError
from hpo.search.pruners import PowerLawPruner
from hpo.search.samplers import Slot, make_pruner, make_sampler, suggest
from hpo.storage.claims import Slots, read_running, read_slots
from hpo.storage.queries import read_trials
from hpo.storage.studies import read_definition
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import ask, trial_id_of
from hpo.study.definition import StudyDefinition
from hpo.workers.budget import Heartbeats, fail_trial_of, start_trial
from hpo.workers.liveness import LivenessLock, probe
from hpo.workers.slots import NoTrial
from hpo.workers.status import read_status
from tests.conftest import SMALL_STUDY, create, defined

PIDS = count(1)


def start(
    opened: RDBStorage,
    *,
    name: str = "small",
    target: int = 3,
    since: int = 0,
    worker: Worker | None = None,
    heartbeats: Heartbeats | None = None,
) -> optuna.Trial | NoTrial:
    """Starts a trial for a worker; for one of its own on another host unless it is given."""
    study, pid = optuna.load_study(study_name=name, storage=opened), next(PIDS)
    worker = worker or Worker(host="elsewhere", pid=pid, device="cpu", file=f"/nowhere/{pid}.lock")
    definition = read_definition(opened, name)
    return start_trial(opened, study, definition, worker, target=target, run_began_at=since, heartbeats=heartbeats)


def started(opened: RDBStorage, **settings: object) -> optuna.Trial:
    trial = start(opened, **settings)  # type: ignore[arg-type]
    assert isinstance(trial, optuna.Trial)
    return trial


def finish(
    opened: RDBStorage, trial: optuna.Trial, state: TrialState = TrialState.COMPLETE, error: str | None = None
) -> None:
    if error is not None:
        trial.set_user_attr("error", error)
    if state is TrialState.COMPLETE:
        trial.set_user_attr("errors", [1.0])
    opened.set_trial_state_values(trial_id_of(trial), state, [1.0] if state == TrialState.COMPLETE else None)


def test_no_more_trials_are_started_than_asked_for(created: RDBStorage) -> None:
    trials = [started(created) for _ in range(3)]
    assert start(created) is NoTrial.TAKEN
    finish(created, trials[0])
    finish(created, trials[1], TrialState.PRUNED)
    assert start(created) is NoTrial.TAKEN
    finish(created, trials[2])
    assert start(created) is NoTrial.DONE
    assert start(created, target=2) is NoTrial.DONE


def test_a_failed_trial_gives_its_slot_back(created: RDBStorage) -> None:
    trials = [started(created) for _ in range(3)]
    finish(created, trials[1], TrialState.FAIL)
    again = started(created)
    assert again.number == 3
    assert [trial.attributes["slot"] for trial in read_trials(created, "small")] == [0, 1, 2, 1]


def test_a_slot_that_two_trials_have_counts_once(created: RDBStorage) -> None:
    """As a former holder of the lock leaves it, that does not know yet that it has lost the lock."""
    trials = [started(created, target=10) for _ in range(2)]
    study = optuna.load_study(study_name="small", storage=created)
    claim = {"slot": 1, "worker": Worker("elsewhere", 1, "cpu", "/nowhere/x.lock").as_json()}
    trials.append(ask(created, study, claim))
    assert read_slots(created, "small") == Slots(complete=0, pruned=0, running=2, lowest_free=2, trials=3)
    for trial in trials[1:]:
        finish(created, trial)
    assert read_slots(created, "small") == Slots(complete=1, pruned=0, running=1, lowest_free=2, trials=3)
    assert [started(created).number, start(created)] == [3, NoTrial.TAKEN]


def test_an_interruption_repeats_the_proposal_and_an_error_does_not(
    created: RDBStorage, small_study: StudyDefinition
) -> None:
    first = started(created)
    proposed = suggest(first, small_study)
    finish(created, first, TrialState.FAIL)
    interrupted = started(created)
    assert suggest(interrupted, small_study) == proposed
    finish(created, interrupted, TrialState.FAIL, error="training broke")
    assert suggest(started(created), small_study) != proposed


def test_workers_that_start_together_propose_differently(created: RDBStorage, small_study: StudyDefinition) -> None:
    proposals = [suggest(started(created, target=10), small_study) for _ in range(10)]
    assert len({proposal["learning_rate"] for proposal in proposals}) == 10


def test_a_listed_study_measures_each_entry_once(
    fresh_storage: RDBStorage, listed_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "listed", listed_study, 2)
    first, second = (started(fresh_storage, name="listed", target=2) for _ in range(2))
    listed = [entry.params for entry in listed_study.trial]
    assert [suggest(t, listed_study) for t in (first, second)] == listed
    finish(fresh_storage, first, TrialState.FAIL, error="training broke")
    again = started(fresh_storage, name="listed", target=2)
    assert suggest(again, listed_study) == listed[0]


def test_a_trial_of_a_dead_worker_on_this_host_is_failed_at_once(created: RDBStorage) -> None:
    started(created, target=1, worker=Worker(host="here", pid=1, device="cpu", file=file_of_a_dead_process()))
    assert started(created, target=1).number == 1
    assert "error" not in read_trials(created, "small")[0].attributes


def file_of_a_dead_process() -> str:
    script = (
        "from hpo.workers.liveness import LivenessLock; import os\n"
        "with LivenessLock() as lock: print(lock.file, flush=True); os._exit(9)"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.strip()


def test_a_worker_that_died_alone_is_left_to_its_parent_which_knows_the_cause(created: RDBStorage) -> None:
    with LivenessLock() as parent:
        worker = Worker(host="here", pid=1, device="cpu", file=file_of_a_dead_process(), parent=str(parent.file))
        started(created, target=1, worker=worker)
        assert start(created, target=1) is NoTrial.TAKEN
        fail_trial_of(created, ["small"], 2, str(parent.file), "another worker's end")
        assert start(created, target=1) is NoTrial.TAKEN
        fail_trial_of(created, ["small"], 1, str(parent.file), "its worker was killed")
        assert started(created, target=1).number == 1
    assert read_trials(created, "small")[0].attributes["error"] == "its worker was killed"


def test_a_living_worker_and_one_elsewhere_keep_their_trials(created: RDBStorage) -> None:
    with LivenessLock() as lock:
        started(created, target=2, worker=Worker("here", 1, "cpu", str(lock.file)))
        started(created, target=2)
        assert start(created, target=2) is NoTrial.TAKEN


def test_a_trial_whose_birth_got_no_answer_is_failed_when_its_worker_starts_another(created: RDBStorage) -> None:
    with LivenessLock() as lock:
        worker = Worker("here", 1, "cpu", str(lock.file))
        started(created, target=1, worker=worker)
        assert start(created, target=1) is NoTrial.TAKEN
        assert started(created, target=1, worker=worker).number == 1
    assert [trial.state for trial in read_trials(created, "small")] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_worker_elsewhere_is_given_up_after_the_grace_period(created: RDBStorage) -> None:
    started(created, target=1)
    age_heartbeats(created, seconds=299)
    assert start(created, target=1) is NoTrial.TAKEN
    age_heartbeats(created, seconds=301)
    assert started(created, target=1).number == 1


def age_heartbeats(opened: RDBStorage, *, seconds: float) -> None:
    then = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)
    with opened.engine.begin() as connection:
        connection.execute(sa.text("update trial_heartbeats set heartbeat = :then"), {"then": then})


def test_a_started_trial_has_a_heartbeat_and_a_claim(created: RDBStorage) -> None:
    worker = Worker("elsewhere", 1, "cpu", "/nowhere/1.lock")
    started(created, worker=worker)
    (running,) = read_running(created, "small")
    assert running.worker == replace(worker, claim=running.worker.claim if running.worker else "")
    assert running.worker.claim
    with created.engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from trial_heartbeats").scalar() == 1


def test_two_trials_of_one_worker_have_different_claims(created: RDBStorage) -> None:
    worker = Worker("elsewhere", 1, "cpu", "/nowhere/1.lock")
    claims = []
    for _ in range(2):
        trial = started(created, worker=worker)
        claims.append(read_running(created, "small")[0].claim)
        finish(created, trial)
    assert claims[0] != claims[1]


def test_a_heartbeat_from_the_future_is_stale_when_it_stood_still_for_the_grace_period(
    created: RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a clock was set back by an hour."""
    now, heartbeats = [1000.0], Heartbeats()
    monkeypatch.setattr("hpo.workers.budget.time.monotonic", lambda: now[0])
    started(created, target=1)
    age_heartbeats(created, seconds=-3600)
    assert start(created, target=1, heartbeats=heartbeats) is NoTrial.TAKEN
    now[0] += 299
    assert start(created, target=1, heartbeats=heartbeats) is NoTrial.TAKEN
    age_heartbeats(created, seconds=-3500)  # its worker lives
    assert start(created, target=1, heartbeats=heartbeats) is NoTrial.TAKEN
    now[0] += 2
    assert start(created, target=1, heartbeats=heartbeats) is NoTrial.TAKEN
    assert read_status(created, "small").workers[0]["heartbeat_age_seconds"] == 0.0
    now[0] += 300
    assert started(created, target=1, heartbeats=heartbeats).number == 1


def test_too_many_failed_trials_end_the_run_but_not_a_later_one(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    definition = defined({**SMALL_STUDY, "run": {"max_failed_trials": 2}}, name="small")
    create(fresh_storage, "small", definition, 10)
    for _ in range(2):
        finish(fresh_storage, started(fresh_storage), TrialState.FAIL, error="training broke")
    with pytest.raises(WorkError, match="2 trials failed by an error"):
        start(fresh_storage)
    assert started(fresh_storage, since=2).number == 2


def test_presence_is_alive_until_it_leaves() -> None:
    with LivenessLock() as lock:
        assert probe(str(lock.file)) == "alive"
    assert probe(str(lock.file)) == "unknown"  # it left nothing behind
    with pytest.raises(ArithmeticError), LivenessLock() as lock:
        raise ArithmeticError
    assert probe(str(lock.file)) == "gone"


GIVEN: list[tuple[str, dict[str, Any]]] = [
    ("TPESampler", {"name": "tpe", "n_startup_trials": 1, "n_ei_candidates": 2, "multivariate": False, "group": False}),
    ("GPSampler", {"name": "gp", "n_startup_trials": 3, "deterministic_objective": True}),
    ("PercentilePruner", {"name": "percentile", "percentile": 10.0, "n_startup_trials": 3, "n_min_trials": 4}),
    ("PercentilePruner", {"name": "percentile", "percentile": 10.0, "n_warmup_steps": 5, "interval_steps": 2}),
    ("MedianPruner", {"name": "median", "n_startup_trials": 3, "n_min_trials": 4, "n_warmup_steps": 5}),
    ("SuccessiveHalvingPruner", {"name": "successive_halving", "min_resource": 2, "reduction_factor": 3}),
    ("SuccessiveHalvingPruner", {"name": "successive_halving", "bootstrap_count": 6, "min_early_stopping_rate": 1}),
    ("HyperbandPruner", {"name": "hyperband", "min_resource": 2, "max_resource": 9, "reduction_factor": 4}),
    ("WilcoxonPruner", {"name": "wilcoxon", "p_threshold": 0.2, "n_startup_steps": 4}),
]


@pytest.mark.parametrize(("name", "settings"), GIVEN)
def test_every_argument_of_sampler_and_pruner_reaches_optuna(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    kind = "sampler" if name.endswith("Sampler") else "pruner"
    monkeypatch.setattr(getattr(optuna, f"{kind}s"), name, lambda **arguments: given.update(arguments))
    monkeypatch.setattr("hpo.search.samplers.Hyperband", optuna.pruners.HyperbandPruner)  # else it is its heir
    long = {"training": {"epochs": 10, "batch_size": 50, "evaluate_at": [1, 9]}, "protocol": {"rounds": 6}}
    definition = defined({**SMALL_STUDY, **long, kind: settings}, name="small")
    make_sampler(definition, Slot(0, failures=0)) if kind == "sampler" else make_pruner(definition)
    assert given.items() >= {key: value for key, value in settings.items() if key != "name"}.items()
    assert isinstance(given.get("seed", 0), int)


def test_a_power_law_pruner_is_ours(small_study: StudyDefinition) -> None:
    table = {**SMALL_STUDY, "training": {**SMALL_STUDY["training"], "epochs": 4, "evaluate_at": [1, 2]}}
    definition = defined({**table, "pruner": {"name": "power_law", "margin": 1.5}}, name="small")
    assert isinstance(make_pruner(definition), PowerLawPruner)
    assert isinstance(make_pruner(small_study), optuna.pruners.PercentilePruner)
