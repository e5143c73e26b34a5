"""Files that belong to a study, kept in the study's own database: whoever shares that has them too.

Optuna keeps a file's name and kind in the study, and its bytes in a store of one's choice. A folder would be there on
one machine only; here the store is a table beside Optuna's own.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import optuna
import sqlalchemy as sa
from optuna.artifacts import upload_artifact
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage

from hpo.storage.backends import reading, start_lock
from hpo.storage.frozen_trials import read_attributes
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
        with start_lock(self._storage, FILES.name).hold():  # or two might make the table at once
            FILES.metadata.create_all(self._storage.engine)
        with self._storage.engine.begin() as connection:
            connection.execute(sa.delete(FILES).where(FILES.c.artifact_id == artifact_id))
            connection.execute(sa.insert(FILES).values(artifact_id=artifact_id, body=content_body.read()))

    def remove(self, artifact_id: str) -> None:
        """Removes a file's bytes.

        Raises:
            optuna.artifacts.exceptions.ArtifactNotFound: where there are none.
        """
        self.open_reader(artifact_id)
        with self._storage.engine.begin() as connection:
            connection.execute(sa.delete(FILES).where(FILES.c.artifact_id == artifact_id))


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
