"""A storage that changes while it is worked on: its file goes, a backup is restored, an administrator sets limits."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import RequestError, StorageGone
from hpo.storage.backends import open_storage
from hpo.storage.fast_reads import TrialGone
from hpo.storage.queries import read_trials
from hpo.storage.studies import read_definition
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import trial_id_of
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers.budget import start_trial
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Assignment
from hpo.workers.status import read_status
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import create, wait_for, work
from tests.program import write_quick
from tests.started import Started


def start(opened: RDBStorage, host: str) -> optuna.Trial:
    """Starts a trial of the study 'small' for a worker on a host."""
    study, definition = optuna.load_study(study_name="small", storage=opened), read_definition(opened, "small")
    worker = Worker(host, 1, "cpu", f"/nowhere/{host}.lock")
    trial = start_trial(opened, study, definition, worker, target=10, run_began_at=0)
    assert isinstance(trial, optuna.Trial)
    return trial


def remove(folder: Path) -> None:
    for name in ("studies.db", "studies.db-wal", "studies.db-shm"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_that_goes_away_is_found_out_and_what_it_held_is_saved(
    change: str, tmp_path: Path, small_study: StudyDefinition
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    opened = create(open_storage(url, create=True), "small", small_study, 10)
    work(opened, tmp_path, target=3)
    place = tmp_path / f"studies.db.rescued-{(tmp_path / 'studies.db').stat().st_ino}"
    place.write_text("saved before, of another file with this number")
    os.utime(place, (1e9, 1e9))
    backup = shutil.copy(tmp_path / "studies.db", tmp_path / "backup.db")
    work(opened, tmp_path, target=5)
    remove(tmp_path)
    if change == "replaced":
        Path(backup).rename(tmp_path / "studies.db")
    with pytest.raises(StorageGone, match=f"its file was {change}.*what it held is saved in") as raised:
        read_status(opened, "small")
    saved = str(raised.value).rpartition(" ")[2]
    assert saved == f"{place}-2"
    assert read_status(open_storage(f"sqlite:///{saved}"), "small").finished == 5
    with pytest.raises(StorageGone, match=re.escape(saved)):  # whoever finds out later says the same
        opened.get_study_id_from_name("small")


def test_a_log_that_goes_away_is_found_out_and_what_was_held_is_saved(
    tmp_path: Path, small_study: StudyDefinition
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    opened = create(open_storage(url, create=True), "small", small_study, 10)
    work(opened, tmp_path, target=3)
    for name in ("studies.db-wal", "studies.db-shm"):
        (tmp_path / name).unlink()
    with pytest.raises(StorageGone, match=r"its log, studies.db-wal, was removed or replaced meanwhile") as raised:
        read_status(opened, "small")
    saved = str(raised.value).rpartition(" ")[2]
    assert read_status(open_storage(f"sqlite:///{saved}"), "small").finished == 3


def test_a_file_that_is_overwritten_is_found_out(tmp_path: Path, small_study: StudyDefinition) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    opened = create(open_storage(url, create=True), "small", small_study, 10)
    work(opened, tmp_path, target=3)
    with (tmp_path / "studies.db").open("wb"):
        pass  # cut short, as by `> studies.db`, or by `cp` of a smaller one
    with pytest.raises(StorageGone, match=r"its file was overwritten meanwhile, or cut short; what it held"):
        read_status(opened, "small")


def test_a_run_whose_file_is_removed_ends_at_once_and_says_where_its_trials_are(tmp_path: Path) -> None:
    write_quick(tmp_path)
    running = Started(
        *("optimize", "--study", "quick.toml", "--trials", "4000", "--workers", "1"),
        *("--storage", "sqlite:///studies.db"),
        folder=tmp_path,
    )
    try:
        wait_for(lambda: (tmp_path / "studies.db").exists() and finished(tmp_path) >= 3, 120)
        remove(tmp_path)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 1, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert "its file was removed meanwhile; what it held is saved in" in last
    assert "goes on" not in said
    (saved,) = tmp_path.glob("studies.db.rescued-*")
    assert finished(tmp_path, saved.name) >= 3
    assert not (tmp_path / "studies.db").exists()


def finished(folder: Path, name: str = "studies.db") -> int:
    try:
        return read_status(open_storage(f"sqlite:///{folder}/{name}"), "quick").finished
    except (RequestError, sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError):
        return 0


def forget_trials(opened: RDBStorage) -> None:
    """Makes the database what it was before its first trial, so that ids come again, as a restored backup does."""
    tables = ("trial_heartbeats", "trial_params", "trial_values", "trial_intermediate_values")
    with opened.engine.begin() as connection:
        for table in (*tables, "trial_user_attributes", "trial_system_attributes", "trials"):
            connection.execute(sa.text(f"delete from {table}"))
        if opened.engine.name == "postgresql":
            connection.execute(sa.text("alter sequence trials_trial_id_seq restart"))


def test_a_result_goes_to_no_trial_that_has_only_its_id(created: RDBStorage) -> None:
    first = start(created, "a")
    forget_trials(created)
    other = open_storage(created.engine.url.render_as_string(False), write=True)
    second = start(other, "b")
    assert trial_id_of(first) == trial_id_of(second)
    writes: list[Any] = [
        lambda: first.report(1.0, step=1),
        lambda: first.set_user_attr("errors", [1.0]),
        lambda: first.suggest_float("learning_rate", 0.1, 0.2),
        lambda: created.set_trial_state_values(trial_id_of(first), TrialState.COMPLETE, [1.0]),
        lambda: created.set_trial_state_values(trial_id_of(first), TrialState.FAIL),
    ]
    for write in writes:
        with pytest.raises(UpdateFinishedTrialError):
            write()
    (kept,) = read_trials(created, "small")
    assert (kept.state, kept.params, set(kept.attributes)) == (TrialState.RUNNING, {}, {"slot", "worker"})
    assert kept.attributes["worker"]["host"] == "b"


def test_a_trial_that_is_gone_is_one_line_and_the_worker_goes_on(
    created: RDBStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forgotten = threading.Event()

    def forget_the_first(definition: StudyDefinition, device: str, sources: Sources) -> stubs.Stub:
        def act(trial: optuna.Trial, folder: Path) -> None:
            if not forgotten.is_set():
                forgotten.set()
                forget_trials(created)

        return stubs.Stub(definition, sources.data, act)

    told = Assignment(url=created.url, studies=("small",), target=3, device="cpu", sources=Sources(tmp_path))
    run_worker(told, forget_the_first, Stop(), lambda said: None)
    assert capsys.readouterr().err.strip() == "trial 0 was deleted meanwhile; its result is dropped"
    assert [trial.attributes["slot"] for trial in read_trials(created, "small")] == [0, 1, 2]
    with pytest.raises(TrialGone):
        created.set_trial_user_attr(10**6, "x", 1)
