from __future__ import annotations

import io
import json
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import download_artifact, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage

from hpo.storage.artifacts import DatabaseArtifacts, artifact_ids, attach


def test_bytes_come_back_as_they_were_written_and_the_last_ones_count(fresh_storage: RDBStorage) -> None:
    store = DatabaseArtifacts(fresh_storage)
    with pytest.raises(ArtifactNotFound):  # not even the table is there
        store.open_reader("a")
    for body in (b"first", bytes(range(256)) * 5000):
        store.write("a", io.BytesIO(body))
        assert store.open_reader("a").read() == body
    store.write("b", io.BytesIO(b"other"))
    store.remove("a")
    for act in (store.open_reader, store.remove):
        with pytest.raises(ArtifactNotFound):
            act("a")
    assert store.open_reader("b").read() == b"other"


def test_a_file_of_a_study_is_optunas_artifact_and_takes_the_place_of_its_predecessor(
    created: RDBStorage, tmp_path: Path
) -> None:
    study, store = optuna.load_study(study_name="small", storage=created), DatabaseArtifacts(created)
    file, back = tmp_path / "winner.json", tmp_path / "back"
    for text in ("{}", '{"trial": 3}'):
        file.write_text(text)
        attach(created, "small", file)
        (meta,) = get_all_artifact_meta(study)
        assert (meta.filename, meta.mimetype) == ("winner.json", "application/json")
        download_artifact(artifact_store=store, artifact_id=meta.artifact_id, file_path=str(back))
        assert back.read_text() == text
        back.unlink()


def test_a_file_that_was_deleted_in_the_dashboard_can_be_added_again(created: RDBStorage, tmp_path: Path) -> None:
    study, file = optuna.load_study(study_name="small", storage=created), tmp_path / "winner.json"
    file.write_text("{}")
    attach(created, "small", file)
    (meta,) = get_all_artifact_meta(study)
    DatabaseArtifacts(created).remove(meta.artifact_id)  # these two lines are what the dashboard does
    created.set_study_system_attr(study._study_id, f"artifacts:{meta.artifact_id}", json.dumps(None))
    assert artifact_ids(created, study) == {}
    attach(created, "small", file)
    assert list(artifact_ids(created, study)) == ["winner.json"]
