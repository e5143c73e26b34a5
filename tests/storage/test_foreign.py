"""What other programs keep in our database, or add to our studies, is never adopted, counted, ranked or believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from hpo.analysis.results import read_best, read_rows
from hpo.errors import StorageError
from hpo.report.report import read_report
from hpo.storage.backends import open_storage
from hpo.storage.claims import read_slots
from hpo.storage.queries import count_trials, read_trials
from hpo.storage.studies import unfinished_studies
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.evaluate import Stop
from hpo.workers.launch import begin, serve
from hpo.workers.messages import Assignment
from hpo.workers.plan import find_study, make_plan
from hpo.workers.status import read_status
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import create, work
from tests.storage.foreign import attributes_of, foreign, hpo
from tests.storage.test_enqueued import CLAIMS

pytestmark = pytest.mark.usefixtures("one_process")


NOT_OURS: dict[str, Callable[[RDBStorage], optuna.Study]] = {
    "maximises": lambda opened: foreign(opened, direction="maximize"),
    "has two objectives": lambda opened: foreign(opened, directions=["minimize", "minimize"]),
    "has an attribute": lambda opened: with_attribute(foreign(opened), "note", "mine"),
    "has an attribute by one of our names": lambda opened: with_attribute(foreign(opened), "target", 7),
    "has a trial": lambda opened: with_trial(foreign(opened)),
}


def with_attribute(study: optuna.Study, key: str, value: Any) -> optuna.Study:
    study.set_user_attr(key, value)
    return study


def with_trial(study: optuna.Study) -> optuna.Study:
    study.add_trial(create_trial(value=0.5))
    return study


@pytest.mark.parametrize("kind", NOT_OURS)
def test_a_study_of_another_program_is_not_adopted_and_stays_as_it_is(
    kind: str, fresh_storage: RDBStorage, small_study: StudyDefinition
) -> None:
    NOT_OURS[kind](fresh_storage)
    before = attributes_of(fresh_storage, "theirs")
    with pytest.raises(StorageError, match=r"'theirs' in .* was not made by hpo; --name NAME starts one beside it"):
        create(fresh_storage, "theirs", small_study, 5)
    assert attributes_of(fresh_storage, "theirs") == before


def test_an_empty_study_that_minimises_is_taken_over(fresh_storage: RDBStorage, small_study: StudyDefinition) -> None:
    foreign(fresh_storage, "small")
    create(fresh_storage, "small", small_study, 5)
    assert read_status(fresh_storage, "small").total == 5


ODD: list[Any] = ["many", -3, 2.5, True, None, [], {}, {"study": "small", "identity": 1, "trials": "x"}, 10**30]

OUR_NAMES = [
    *("target", "definition", "definition_sha256", "card", "identity", "versions"),
    *("confirms", "repeats", "range_test {}"),
]


def test_whatever_another_study_has_by_our_names_no_command_dies_of_it(created: RDBStorage, tmp_path: Path) -> None:
    work(created, tmp_path, target=2)
    study = with_trial(foreign(created))
    for odd in ODD:
        for key in OUR_NAMES:
            study.set_user_attr(key, odd)
        statuses = {status["study"]: status for status in json.loads(hpo(created, "status", "--json").stdout)}
        assert (statuses["theirs"]["is_ours"], statuses["theirs"]["best"]) == (False, None)
        assert statuses["small"]["is_ours"]
        for command in ("best", "trials", "drift"):
            more = ["--only-show"] if command == "drift" else []
            assert hpo(created, command, "--study", "small", *more).exit_code == 0, (command, odd)
            refused = hpo(created, command, "--study", "theirs")
            assert (refused.exit_code, "was not made by hpo" in refused.stderr) == (2, True), (command, odd)
        work(created, tmp_path, target=None, studies=None)  # serves ours alone, and ends
    assert "not made by hpo" in hpo(created, "status").stdout
    assert count_trials(created, "theirs")[TrialState.COMPLETE] == 1


def test_whatever_stands_in_an_attribute_of_our_own_study_no_command_dies_of_it(
    created: RDBStorage, tmp_path: Path
) -> None:
    work(created, tmp_path, target=2)
    study = optuna.load_study(study_name="small", storage=created)
    for odd in ODD:
        for key in ("target", "confirms", "repeats", "range_test {}"):
            study.set_user_attr(key, odd)
        for command in (["status"], ["best", "--study", "small"], ["trials", "--study", "small"]):
            assert hpo(created, *command).exit_code == 0, (command, odd)
        read_report(created, "small")


def test_trials_that_another_program_adds_do_not_count_and_are_not_ranked(created: RDBStorage, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    study.add_trial(create_trial(value=0.5))
    study.add_trial(create_trial(value=0.4, user_attrs={"errors": [0.4, 0.4], "std": 0.0}))
    study.add_trial(create_trial(value=0.3, user_attrs={"slot": 0, "worker": "me", "errors": [0.3], "std": 0.0}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"error": "theirs"}))
    study.ask()
    work(created, tmp_path, target=3)
    status = read_status(created, "small")
    assert (status.finished, status.running, status.failed, status.foreign, status.trials) == (3, 0, 0, 5, 8)
    assert read_slots(created, "small").lowest_free == 3
    assert read_best(created, "small").trial in (5, 6, 7)
    assert [row.state for row in read_rows(created, "small")] == ["FOREIGN"] * 5 + ["COMPLETE"] * 3
    for command in ("best", "trials", "confirm", "report", "drift"):
        more = {"confirm": ["--rounds", "5", "--workers", "1"], "report": ["-o", str(tmp_path / "report")]}
        more["drift"] = ["--only-show"]
        done = hpo(created, command, "--study", "small", *more.get(command, []))
        assert done.exit_code == 0, (command, done.stderr)
    assert "small: 5 trials of other programs in it, not counted" in hpo(created, "status").stdout


def test_foreign_trials_take_no_entry_of_a_list(
    fresh_storage: RDBStorage, listed_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "small", listed_study, 2)
    optuna.load_study(study_name="small", storage=fresh_storage).add_trial(create_trial(value=0.5))
    work(fresh_storage, tmp_path, target=2)
    assert [row.label for row in read_rows(fresh_storage, "small")] == [None, "FNN", "FNN + WS"]


def test_a_sampler_and_a_pruner_do_not_see_what_another_program_adds(
    tmp_path: Path, small_study: StudyDefinition
) -> None:
    runs = []
    for name, claim in (("alone", {}), ("beside another", {}), ("another with a claim", {"slot": "x", "worker": "me"})):
        opened = open_storage(f"sqlite:///{tmp_path}/{name}.db", create=True)
        create(opened, "small", small_study, 12)
        study = optuna.load_study(study_name="small", storage=opened)
        for _ in range(6 if name != "alone" else 0):
            study.add_trial(
                create_trial(
                    value=0.1,
                    user_attrs=claim,
                    params={"learning_rate": 0.5},
                    distributions={"learning_rate": FloatDistribution(1e-4, 1.0, log=True)},
                    intermediate_values={1: 0.1},
                )
            )
        work(opened, tmp_path, target=12)
        ours = read_trials(opened, "small")
        runs.append([(trial.state, trial.params, trial.value) for trial in ours])
    assert runs[0] == runs[1] == runs[2]


def test_whatever_a_running_trial_has_for_a_claim_no_command_dies_of_it(created: RDBStorage, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    for odd in CLAIMS:
        trial = study.ask()
        trial.set_user_attr("slot", 0)
        trial.set_user_attr("worker", odd)
    assert hpo(created, "status").exit_code == 0
    work(created, tmp_path, target=3)
    assert read_status(created, "small").finished == 3


def test_a_study_with_some_of_our_attributes_is_served_by_nobody(created: RDBStorage, tmp_path: Path) -> None:
    for key, value in (("target", 5), ("identity", "x"), ("definition", {})):
        if key == "target":
            foreign(created)
        with_attribute(optuna.load_study(study_name="theirs", storage=created), key, value)
        assert [study.name for study in unfinished_studies(created)] == ["small"]
    with pytest.raises(StorageError, match=r"'theirs' in .* was not made by hpo"):
        serve(
            created,
            ("theirs",),
            devices=["cpu"],
            sources=Sources(tmp_path),
            exit_when_done=False,
            show=lambda statuses: None,
        )


def test_a_worker_told_of_a_study_of_another_program_serves_the_others(created: RDBStorage, tmp_path: Path) -> None:
    foreign(created)
    heard: list[Any] = []
    told = Assignment(url=created.url, studies=("theirs",), target=2, device="cpu", sources=Sources(tmp_path))
    run_worker(told, stubs.quick, Stop(), heard.append)
    assert [said.message for said in heard if hasattr(said, "message")] != []


def test_joining_names_a_study_that_is_not_ours_before_anything_is_written(fresh_storage: RDBStorage) -> None:
    study = foreign(fresh_storage, "quickstart", direction="maximize")
    plan = make_plan(fresh_storage.url, find_study(fresh_storage.url, "quickstart", trials=3))
    with pytest.raises(StorageError, match="was not made by hpo"):
        begin(fresh_storage.url, plan, Sources(Path()))
    assert study.user_attrs == {}
