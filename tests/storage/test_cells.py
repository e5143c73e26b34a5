"""Whatever stands in a cell of the database, no command and no worker dies of it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import example, given, reject
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from hpo.errors import HpoError
from hpo.storage.backends import open_storage
from hpo.storage.queries import study_names
from hpo.storage.studies import own_attributes
from hpo.study.definition import StudyDefinition
from hpo.workers.status import read_status
from tests.conftest import SMALL_STUDY, create, defined, thorough, work
from tests.storage.foreign import attributes_of, foreign, hpo
from tests.storage.test_foreign import with_trial

pytestmark = pytest.mark.usefixtures("one_process")

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


@pytest.mark.slow
@thorough(8)
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
