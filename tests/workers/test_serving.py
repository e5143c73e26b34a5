"""Workers that serve several studies: in which order, until when, and which they give up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from hpo.errors import WorkError
from hpo.storage.queries import last_finishes, set_study_attribute
from hpo.storage.studies import unfinished_studies
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import ask
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers import launch as optimize
from hpo.workers import supervisor as supervisor
from hpo.workers.evaluate import Stop
from hpo.workers.launch import begin
from hpo.workers.liveness import LivenessLock
from hpo.workers.messages import Began, Ended, GaveUp, StepDone
from hpo.workers.plan import find_study, make_plan
from hpo.workers.slots import NoTrial
from hpo.workers.status import Status
from hpo.workers.worker import _Server, run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined
from tests.workers.test_worker import assignment, counts, raise_what_is_given_up, run_small

pytestmark = pytest.mark.usefixtures("warm_workers")


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
            plan = make_plan(fresh_storage.url, find_study(fresh_storage.url, "small", trials=3), lower=True)
            assert plan.notes == ()
            begin(fresh_storage.url, plan, Sources(tmp_path))

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
    plan = make_plan(created.url, find_study(created.url, "small", trials=3))
    assert (plan.target, plan.lower) == (3, False)
    assert plan.notes == ("study 'small' is to come to 10 trials, asked for earlier; --lower-target makes it 3",)
    assert make_plan(created.url, find_study(created.url, "small", trials=10)).notes == ()
    set_study_attribute(created, "small", "target", 10**30)  # by a version that had no limit
    notes = make_plan(created.url, find_study(created.url, "small", trials=3)).notes
    assert notes[0].endswith("--lower-target makes it 3")


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


@pytest.mark.spawned
def test_a_study_that_cannot_be_served_is_given_up_and_the_others_are_not(
    fresh_storage: RDBStorage, small_study: StudyDefinition, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = defined({**SMALL_STUDY, "title": "broken", "run": {"max_failed_trials": 1}}, name="broken")
    create(fresh_storage, "broken", broken, 2)
    create(fresh_storage, "small", small_study, 2)
    with pytest.raises(WorkError, match="given up: broken"):
        serve(fresh_storage, tmp_path, stub="fails_where_broken", workers=2)
    assert counts(fresh_storage) == {"COMPLETE": 2}
    said = capfd.readouterr().err  # by one worker, or by both at once
    assert len(re.findall(r"study 'broken': [12] trials? failed by an error", said)) in (1, 2)


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

    def make(definition: StudyDefinition, device: str, sources: Sources) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            served.append(definition.title)
            if len(served) == 1:
                optuna.delete_study(study_name="small", storage=fresh_storage)
                create(fresh_storage, "small", successor, 1)

        return stubs.Stub(definition, sources.data, act)

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

    def make(definition: StudyDefinition, device: str, sources: Sources) -> stubs.Stub:
        nonlocal made
        made += 1
        return stubs.Stub(definition, sources.data, lambda trial, folder: None)

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
        sources=Sources(folder),
        exit_when_done=exit_when_done,
        show=show,
        make_objective=f"tests.stubs:{stub}",
    )
