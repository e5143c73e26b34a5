"""A storage that reads in few round trips, and reads on where another program has written what cannot be read.

Overrides private methods of RDBStorage, because its cache calls them; `optuna>=5.0,<5.1` is pinned for it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.frozen_trials import STUDY, freeze, freeze_studies, select_studies, select_trials

Row = dict[str, Any]


class TrialGone(KeyError):
    """Raised when a trial is read or written to that is not in the database any more."""


class FastReads(RDBStorage):
    """RDBStorage whose studies and trials are read by one statement each.

    Args:
        reading: a connection's execution options for a statement that only reads.
    """

    def __init__(self, url: str, *, reading: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(url, **settings)
        self._reading = dict(reading)
        self._shown: dict[int, Callable[[FrozenTrial], bool]] = {}

    def show_only(self, study_id: int, is_shown: Callable[[FrozenTrial], bool]) -> None:
        """Leaves trials out wherever all of a study's are read: a sampler or pruner is not to learn from them."""
        self._shown[study_id] = is_shown

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Returns a study's directions; NOT_SET for one that Optuna has no name for."""
        return self._get_study(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Returns a study's user attributes, without those that cannot be read."""
        return self._get_study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Returns a study's system attributes, without those that cannot be read."""
        return self._get_study(study_id).system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        """Returns all studies, in order of their creation."""
        return self._read_studies()

    def _get_study(self, study_id: int) -> FrozenStudy:
        found = self._read_studies(STUDY.study_id == study_id)
        if not found:
            raise KeyError(f"there is no study of the id {study_id}")
        return found[0]

    def _read_studies(self, *chosen: sa.ColumnElement[bool]) -> list[FrozenStudy]:
        with self.engine.connect() as connection:
            statement = select_studies(*chosen)
            return freeze_studies(connection.execution_options(**self._reading).execute(statement).all())

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Returns a trial.

        Raises:
            TrialGone: where there is none, which is Optuna's KeyError.
        """
        found = self._read(select_trials(one=True), {"trial": trial_id})
        if not found:
            raise TrialGone(f"there is no trial of the id {trial_id}")
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        wanted: Row = {"study": study_id}
        newer, in_states = trial_id_greater_than > -1, isinstance(states, Iterable)
        if newer:
            included = [key for key in included_trial_ids if key <= trial_id_greater_than]
            since = min([*included, trial_id_greater_than + 1])
            wanted |= {"included": included, "after": trial_id_greater_than, "since": since}
        if isinstance(states, Iterable):
            wanted["states"] = list(states)
        found = self._read(select_trials(newer=newer, in_states=in_states), wanted)
        if not found:
            self.get_study_name_from_id(study_id)  # or raises KeyError
        is_shown = self._shown.get(study_id)
        return [trial for trial in found if is_shown is None or is_shown(trial)]

    def _read(self, statement: sa.CompoundSelect[Any], wanted: Row) -> list[FrozenTrial]:
        with self.engine.connect() as connection:
            return freeze(connection.execution_options(**self._reading).execute(statement, wanted).all())
