"""What other programs keep in our database, or add to our studies, is never adopted, counted, ranked or believed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from hypothesis import example, given, reject
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial

from hpo.analysis.results import read_best, read_rows
from hpo.cli.main import main
from hpo.errors import HpoError, StorageError
from hpo.report.report import read_report
from hpo.storage.backends import open_storage
from hpo.storage.claims import read_slots
from hpo.storage.queries import count_trials, read_trials, study_names
from hpo.storage.studies import own_attributes, unfinished_studies
from hpo.study.definition import StudyDefinition
from hpo.workers.evaluate import Stop
from hpo.workers.launch import begin, serve
from hpo.workers.messages import Assignment
from hpo.workers.plan import make_plan
from hpo.workers.status import read_status
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined, thorough, work
from tests.program import Alone


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes, and the Chromium that draws a report's pictures, take seconds to start."""
    monkeypatch.setattr("hpo.workers.launch.Supervisor", Alone)
    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: ({}, ""))


def hpo(opened: RDBStorage, *arguments: str) -> Result:
    """Runs a command in this process; an exception that is no exit is raised."""
    done = CliRunner().invoke(main, [*arguments, "--storage", opened.engine.url.render_as_string(False)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def foreign(opened: RDBStorage, name: str = "theirs", **settings: Any) -> optuna.Study:
    """Returns a study that plain Optuna has made in the same database."""
    return optuna.create_study(study_name=name, storage=opened, **settings)


def attributes_of(opened: RDBStorage, name: str) -> list[dict[str, Any]]:
    key = opened.get_study_id_from_name(name)
    return [opened.get_study_user_attrs(key), opened.get_study_system_attrs(key)]


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


def test_an_enqueued_configuration_outside_the_space_is_refused(created: RDBStorage, tmp_path: Path) -> None:
    faults: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 5.0}, "learning_rate must be between 0.0001 and 1, but is 5.0"),
        ({"learning_rate": "fast"}, "learning_rate must be between 0.0001 and 1, but is 'fast'"),
        ({"architecture": "cnn"}, "architecture must be one of 'fnn', 'fully_connected', but is 'cnn'"),
        ({"weight_sharing": 1}, "weight_sharing must be one of True, False, but is 1"),
        ({"dropout": 0.5}, "there is no parameter named 'dropout'"),
        ({"activation": "relu", "elu_alpha": 1.0}, "elu_alpha is there only where activation is 'elu'"),
    ]
    study = optuna.load_study(study_name="small", storage=created)
    for params, _ in faults:
        study.enqueue_trial(params)
    work(created, tmp_path, target=2)
    rows = read_rows(created, "small")
    for row, (_, fault) in zip(rows, faults, strict=False):
        assert (row.state, row.value) == ("REFUSED", None)
        assert fault in str(row.error)
    assert [row.state for row in rows[len(faults) :]] == ["COMPLETE"] * 2
    status = read_status(created, "small")
    assert (status.finished, status.failed, status.interrupted, status.foreign) == (2, 0, 0, 0)
    assert "refused" in hpo(created, "trials", "--study", "small").stdout


def test_an_enqueued_configuration_of_the_space_is_measured(created: RDBStorage, tmp_path: Path) -> None:
    optuna.load_study(study_name="small", storage=created).enqueue_trial({"learning_rate": 0.25})
    work(created, tmp_path, target=2)
    assert [trial.params["learning_rate"] == 0.25 for trial in read_trials(created, "small")] == [True, False]


def test_an_enqueued_trial_brings_nothing_but_its_configuration(created: RDBStorage, tmp_path: Path) -> None:
    pretended = {
        "refused": "no",
        "error": "broken",
        "errors": [0.0],
        "std": 0.0,
        "slot": 7,
        "seconds": 1.0,
        "memo": "mine",
    }
    study = optuna.load_study(study_name="small", storage=created)
    study.enqueue_trial({"learning_rate": 0.25}, user_attrs=pretended)
    with created.engine.begin() as connection:
        for statement in (
            "insert into trial_values (trial_id, objective, value, value_type) values (1, 1, 0.0, 'FINITE')",
            "insert into trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
            "values (1, 99, 0.0, 'FINITE')",
        ):
            connection.execute(sa.text(statement))
    work(created, tmp_path, target=1)
    (trial,) = optuna.load_study(study_name="small", storage=created).trials
    assert (len(trial.values), 99 in trial.intermediate_values, trial.user_attrs["memo"]) == (1, False, "mine")
    (row,) = read_rows(created, "small")
    assert (row.state, row.error, row.params["learning_rate"]) == ("COMPLETE", None, 0.25)
    assert row.errors not in (None, [0.0])


@pytest.mark.parametrize("fixed", ["[1]", "3", '"text"', "null"])
def test_what_is_enqueued_and_no_configuration_is_refused(fixed: str, created: RDBStorage, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    study.enqueue_trial({"learning_rate": 0.25})
    with created.engine.begin() as connection:
        connection.execute(sa.text("update trial_system_attributes set value_json = :text"), {"text": fixed})
    work(created, tmp_path, target=1)
    refused, measured = read_rows(created, "small")
    assert (refused.state, refused.error) == ("REFUSED", "enqueued, but its parameters cannot be read")
    assert measured.state == "COMPLETE"


@pytest.mark.parametrize(
    "distribution", [CategoricalDistribution([0.25, 0.5]), FloatDistribution(0.1, 0.9)], ids=["choices", "range"]
)
def test_what_is_enqueued_with_another_distribution_is_refused(
    distribution: BaseDistribution, created: RDBStorage, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"params": {"learning_rate": 0.25}, "distributions": {"learning_rate": distribution}}
    study = optuna.load_study(study_name="small", storage=created)
    study.add_trial(create_trial(state=TrialState.WAITING, **given))
    work(created, tmp_path, target=2)
    refused, *measured = read_rows(created, "small")
    assert (refused.state, [row.state for row in measured]) == ("REFUSED", ["COMPLETE", "COMPLETE"])
    assert "learning_rate was added with another distribution than between 0.0001 and 1" in str(refused.error)


def test_a_list_measures_no_enqueued_configuration(
    fresh_storage: RDBStorage, listed_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "small", listed_study, 2)
    study = optuna.load_study(study_name="small", storage=fresh_storage)
    study.enqueue_trial({"learning_rate": 0.1})
    work(fresh_storage, tmp_path, target=2)
    rows = read_rows(fresh_storage, "small")
    assert [(row.state, row.label) for row in rows] == [
        ("REFUSED", "FNN"),
        ("COMPLETE", "FNN"),
        ("COMPLETE", "FNN + WS"),
    ]


CLAIMS: list[Any] = [
    "x", {}, [], None, 3, {"host": 1, "pid": "x", "file": 3}, {"host": "a", "pid": 1, "device": "cpu", "file": "a\0b"},
    {"host": "a", "pid": 1, "file": "/dev/zero"}, {"host": "a", "pid": 1, "device": "d", "file": "/x", "later": [1]},
]  # fmt: skip


def test_whatever_a_running_trial_has_for_a_claim_no_command_dies_of_it(created: RDBStorage, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    for odd in CLAIMS:
        trial = study.ask()
        trial.set_user_attr("slot", 0)
        trial.set_user_attr("worker", odd)
    assert hpo(created, "status").exit_code == 0
    work(created, tmp_path, target=3)
    assert read_status(created, "small").finished == 3


CELLS = [
    f"{table.name}.{column.name}"
    for table in models.BaseModel.metadata.sorted_tables
    for column in table.columns
    if not column.primary_key and table.name not in ("version_info", "alembic_version")
]
DELETED = "its row is deleted"
ODD_CELLS: list[Any] = [
    *(DELETED, None, "", "nothing", -1, 0, 7, 10**18, 1e9, 1e400, "NaN", b"\xff\xfe", "\x00", "{no json", "{}", "[]"),
    *("[1]", "null", "RUNNING", "COMPLETE", "MAXIMIZE", "INF_POS", "NAN", "tomorrow", '"' * 5, "[" * 100_000, "1e999"),
    '{"name": "CategoricalDistribution", "attributes": {"choices": [[1], {"a": 2}]}}',
    '{"name": "FloatDistribution", "attributes": {"low": 0, "high": Infinity, "log": false, "step": null}}',
]


@pytest.fixture(scope="module")
def measured_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with trials that are complete, pruned, running, enqueued, and another program's."""
    folder, small_study = tmp_path_factory.mktemp("cells"), defined(SMALL_STUDY, name="small")
    opened = open_storage(f"sqlite:///{folder}/studies.db", create=True)
    create(opened, "small", small_study, 6)
    work(opened, folder, target=5)
    study = foreign(opened)
    with_trial(study)
    for one in (study, optuna.load_study(study_name="small", storage=opened)):
        trial = one.ask()
        trial.report(0.5, 1)
        one.enqueue_trial({"learning_rate": 0.25}, user_attrs={"memo": "mine"})
    with closing(sqlite3.connect(folder / "studies.db")) as connection:  # so that one file holds everything
        connection.execute("vacuum into ?", [str(folder / "whole.db")])
    return folder / "whole.db"


@thorough(15)
@given(cell=st.sampled_from(CELLS), value=st.sampled_from(ODD_CELLS), everywhere=st.booleans())
@example(cell="trial_values.value_type", value="INF_POS", everywhere=True)
@example(cell="trial_values.value", value=None, everywhere=False)
@example(cell="trial_user_attributes.value_json", value="[" * 100_000, everywhere=True)
@example(cell="trial_params.distribution_json", value=ODD_CELLS[-2], everywhere=False)
@example(cell="studies.study_name", value=b"\xff\xfe", everywhere=False)
@example(cell="study_directions.direction", value="BOGUS", everywhere=False)
@example(cell="study_user_attributes.value_json", value="{no json", everywhere=False)
@example(cell="trial_params.param_value", value=DELETED, everywhere=True)
@example(cell="trials.number", value="nothing", everywhere=False)
@example(cell="trials.datetime_complete", value=None, everywhere=True)
def test_whatever_stands_in_a_cell_no_reading_command_and_no_worker_dies_of_it(
    measured_database: Path, cell: str, value: Any, everywhere: bool
) -> None:
    """SQLite takes any value in any column."""
    table, _, column = cell.partition(".")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(measured_database, folder / "studies.db")
        opened = open_storage(f"sqlite:///{folder}/studies.db", write=True)
        try:
            with opened.engine.begin() as connection:
                where = "" if everywhere else f" where rowid = (select max(rowid) / 2 + 1 from {table})"
                connection.execute(sa.text("pragma ignore_check_constraints = on"))
                change = f"delete from {table}" if value == DELETED else f"update {table} set {column} = :value"
                connection.execute(sa.text(change + where), {} if value == DELETED else {"value": value})
        except sa.exc.IntegrityError:
            reject()
        is_there = _is_ours(opened, "small")
        for command in (["status"], ["status", "--json"], *([one, "--study", "small"] for one in READING)):
            more = ["-o", str(folder / command[0])] if command[0] in ("report", "export") else []
            done = hpo(opened, *command, *more)
            assert done.exit_code in (0, 2), (command, done.stderr)
            assert len(done.stderr.splitlines()) <= 2, (command, done.stderr)
        for study in opened.get_all_studies():  # as the dashboard does
            opened.get_all_trials(study._study_id, deepcopy=False)
        if is_there:
            work(opened, folder, target=6)
            assert read_status(opened, "small").finished == 6
        opened.engine.dispose()


READING = ("trials", "best", "report", "export")


def _is_ours(opened: RDBStorage, name: str) -> bool:
    try:
        return own_attributes(opened, name) is not None
    except HpoError:
        return False


def test_whatever_is_changed_in_a_list_no_reading_command_dies_of_it(
    fresh_storage: RDBStorage, listed_study: StudyDefinition, tmp_path: Path
) -> None:
    create(fresh_storage, "small", listed_study, 2)
    work(fresh_storage, tmp_path, target=2)
    for key, text in (
        *(("slot", text) for text in ("99", "01", "-1", "1.0", "null")),
        *(("errors", text) for text in ("[1.0]", "[1.0, 2.0, 3.0, 4.0]", "[]")),
        *((key, "null") for key in ("device", "versions", "seconds", "std", "worker")),
    ):
        with fresh_storage.engine.begin() as connection:
            connection.execute(
                sa.text("update trial_user_attributes set value_json = :text where trial_id = 2 and key = :key"),
                {"text": text, "key": key},
            )
        report = ["report", "-o", str(tmp_path / f"{key}{text}")]
        for command in (["trials"], ["best"], ["drift", "--only-show"], report):
            done = hpo(fresh_storage, *command, "--study", "small")
            assert done.exit_code == 0, (command, key, text, done.output)
        assert hpo(fresh_storage, "reproduce", "--only-show").exit_code in (0, 2)


def test_whatever_a_confirmation_says_no_command_dies_of_it(created: RDBStorage, tmp_path: Path) -> None:
    work(created, tmp_path, target=3)
    assert hpo(created, "confirm", "--study", "small", "--top", "2", "--rounds", "5", "--workers", "1").exit_code == 0
    name = next(name for name in study_names(created) if name != "small")
    kept = attributes_of(created, name)[0]["confirms"]
    confirmation = optuna.load_study(study_name=name, storage=created)
    for changed in ({"trials": [0, 1, 2]}, {"searched": [1.0]}, {"trials": [0], "searched": [1.0]}, {"trials": "x"}):
        confirmation.set_user_attr("confirms", {**kept, **changed})
        for command in (["best", "--study", "small"], ["best", "--study", name], ["report", "--study", name]):
            more = ["-o", str(tmp_path / "report")] if "report" in command else []
            assert hpo(created, *command, *more).exit_code == 0, (command, changed)


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
            data_folder=tmp_path,
            exit_when_done=False,
            show=lambda statuses: None,
        )


def test_a_worker_told_of_a_study_of_another_program_serves_the_others(created: RDBStorage, tmp_path: Path) -> None:
    foreign(created)
    heard: list[Any] = []
    told = Assignment(url=created.url, studies=("theirs",), target=2, device="cpu", data_folder=tmp_path)
    run_worker(told, stubs.quick, Stop(), heard.append)
    assert [said.message for said in heard if hasattr(said, "message")] != []


def test_joining_names_a_study_that_is_not_ours_before_anything_is_written(fresh_storage: RDBStorage) -> None:
    study = foreign(fresh_storage, "quickstart", direction="maximize")
    plan = make_plan(fresh_storage.url, "quickstart", trials=3)
    with pytest.raises(StorageError, match="was not made by hpo"):
        begin(fresh_storage.url, plan, Path())
    assert study.user_attrs == {}
