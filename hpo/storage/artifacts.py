"""Files that belong to a study, kept in the study's own database: whoever shares that has them too.

Optuna keeps a file's name and kind in the study, and its bytes in a store of one's choice. A folder would be there on
one machine only; here the store is a table beside Optuna's own.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import optuna
import sqlalchemy as sa
from optuna.artifacts import upload_artifact
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from hpo.storage.backends import reading, start_lock
from hpo.storage.claims import id_of
from hpo.storage.frozen_trials import read_attributes
from hpo.storage.retry import retried
from hpo.text.secrets import show_url as show_url

FILES = sa.Table(
    "hpo_files",
    sa.MetaData(),
    sa.Column("artifact_id", sa.String(64), primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


class DatabaseArtifacts:
    """Optuna's artifact store in a storage's database; its table is made when the first file is written."""

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Returns a file's bytes.

        Raises:
            optuna.artifacts.exceptions.ArtifactNotFound: where there is none.
        """
        found = None
        with reading(self._storage) as connection:
            if sa.inspect(connection).has_table(FILES.name):
                query = sa.select(FILES.c.body).where(FILES.c.artifact_id == artifact_id)
                found = connection.execute(query).scalar_one_or_none()
        if found is None:
            raise ArtifactNotFound(f"no artifact {artifact_id!r}")
        return io.BytesIO(found)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keeps a file's bytes, in the place of those that it had."""
        _write(self._storage, artifact_id, content_body.read())

    def remove(self, artifact_id: str) -> None:
        """Removes a file's bytes.

        Raises:
            optuna.artifacts.exceptions.ArtifactNotFound: where there are none.
        """
        self.open_reader(artifact_id)
        with self._storage.engine.begin() as connection:
            connection.execute(sa.delete(FILES).where(FILES.c.artifact_id == artifact_id))


@retried
def _write(storage: RDBStorage, artifact_id: str, body: bytes) -> None:
    with start_lock(storage, FILES.name).hold():  # or two might make the table at once
        FILES.metadata.create_all(storage.engine)
    with storage.engine.begin() as connection:
        connection.execute(sa.delete(FILES).where(FILES.c.artifact_id == artifact_id))
        connection.execute(sa.insert(FILES).values(artifact_id=artifact_id, body=body))


def attach_to_trial(trial: optuna.Trial, name: str, content: bytes) -> None:
    """Adds a file to a trial that runs."""
    cache: Any = trial.storage  # Optuna's, before the storage itself
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        upload_artifact(artifact_store=DatabaseArtifacts(cache._backend), file_path=str(file), study_or_trial=trial)


@retried
def files_of_trials(storage: RDBStorage, study: str, name: str) -> dict[int, bytes]:
    """Returns the files of a name that a study's trials have, by the trial's number."""
    trial, attribute = models.TrialModel, models.TrialSystemAttributeModel
    query = (
        sa.select(trial.number, sa.cast(attribute.value_json, sa.Text))
        .join(attribute, attribute.trial_id == trial.trial_id)
        .where(trial.study_id == id_of(study), attribute.key.startswith(ARTIFACTS_ATTR_PREFIX))
    )
    with reading(storage) as connection:
        if not sa.inspect(connection).has_table(FILES.name):
            return {}
        entries = [(number, _entry(text)) for number, text in connection.execute(query)]
        found = {number: entry["artifact_id"] for number, entry in entries if entry.get("filename") == name}
        bodies = {number: sa.select(FILES.c.body).where(FILES.c.artifact_id == key) for number, key in found.items()}
        kept = {number: connection.execute(one).scalar_one_or_none() for number, one in bodies.items()}
    return {number: bytes(body) for number, body in kept.items() if body is not None}


def _entry(text: str) -> dict[str, Any]:
    """Returns what an attribute says of an artifact: a text that is JSON, within JSON; nothing where it is none."""
    try:
        entry = json.loads(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and isinstance(entry.get("artifact_id"), str) else {}


def attach(storage: RDBStorage, study: str, file: Path) -> None:
    """Adds a file to a study, in the place of an earlier one of the same name."""
    store, opened = DatabaseArtifacts(storage), optuna.load_study(study_name=study, storage=storage)
    known = artifact_ids(storage, opened)
    if file.name in known:
        with file.open("rb") as body:
            store.write(known[file.name], body)
    else:
        upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=opened)


def artifact_ids(storage: RDBStorage, study: optuna.Study) -> dict[str, str]:
    """Returns a study's artifacts, file name -> id; of one that was deleted in the dashboard an empty entry is left."""
    attributes = storage.get_study_system_attrs(study._study_id)
    texts = ((key, value) for key, value in attributes.items() if key.startswith(ARTIFACTS_ATTR_PREFIX))
    entries = (entry for entry in read_attributes(texts).values() if isinstance(entry, dict))
    return {entry["filename"]: entry["artifact_id"] for entry in entries if {"filename", "artifact_id"} <= entry.keys()}
