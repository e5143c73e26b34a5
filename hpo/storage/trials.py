"""Trials in a storage: started with their claim, written to in batches, shown to samplers or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.retry import RetryingStorage


def trial_id_of(trial: optuna.Trial) -> int:
    """Returns the id by which a storage knows a trial; Optuna has no public name for it."""
    return trial._trial_id


def enqueued_params(trial: optuna.Trial | FrozenTrial) -> dict[str, Any] | None:
    """Returns the parameters that a trial had before it was started: those that somebody has enqueued it with.

    None where they are none, for an attribute of a trial can hold anything.
    """
    fixed = trial.system_attrs.get("fixed_params", {}) if isinstance(trial, FrozenTrial) else trial._fixed_params
    return {**trial.params, **fixed} if isinstance(fixed, dict) else None


def ask(storage: RDBStorage, study: optuna.Study, claim: dict[str, Any]) -> optuna.Trial:
    """Starts a trial that carries its claim from the first, and a heartbeat; an enqueued one, if there is any.

    Not repeated while the database is away: whether the trial was started before the answer got lost the caller finds
    out.
    """
    with _ours(storage).claiming(claim):
        return study.ask()


@contextmanager
def speaking_for(storage: RDBStorage, trial_id: int, claim: str | None) -> Iterator[None]:
    """Context manager in which another worker's trial is written to only while it carries that worker's claim."""
    with _ours(storage).speaking_for(trial_id, claim):
        yield


def show_only(storage: RDBStorage, study: optuna.Study, is_shown: Callable[[FrozenTrial], bool]) -> None:
    """Hides a study's other trials from Optuna's samplers and pruners, for as long as the storage is open."""
    _ours(storage).show_only(study._study_id, is_shown)


def all_trials(study: optuna.Study, states: Collection[TrialState]) -> list[FrozenTrial]:
    """Returns a study's trials in some states; also of those that Hyperband hides from the sampler of a trial."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False, states=tuple(states))


@contextmanager
def batch_writes(trial: optuna.Trial) -> Iterator[None]:
    """Context manager in which writes to a trial are collected, and written at the end; after an error they are not."""
    cache: Any = trial.storage  # Optuna's, before the storage itself
    with _ours(cache._backend).batch_writes(trial_id_of(trial)):
        yield


def _ours(storage: RDBStorage) -> RetryingStorage:
    if not isinstance(storage, RetryingStorage):
        raise TypeError(f"a storage that open_storage returned was expected, not {type(storage).__name__}")
    return storage
