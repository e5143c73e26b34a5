"""Looks for drift between kinds of machines: measures one configuration of a study again, on each of them.

Workers of one study may run on processors and GPUs of several kinds, whose sums round differently; the same rounds then
end with slightly different errors. As long as such differences are small and have no direction, trials of one kind can
be compared with those of another. Whether they do is measured: each measurement is the very trial, the same pairs,
weights and shuffles, so it is compared with the study's own round by round.

A measurement is a study of one listed trial; any number of machines make theirs in one storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from . import records
from .errors import RequestError
from .results import read_definition, read_trial
from .statistics import Interval, paired_difference
from .study import StudyDefinition, define_study

REPEATS = "repeats"  # the attribute of a measurement's study that says which trial it repeats


@dataclass(frozen=True)
class Measurement:
    """One configuration's errors on one machine.

    Attributes:
        device: with its model, as in `cuda:0 (NVIDIA H100)`.
        precision: of products and convolutions; None for a trial from before it was recorded.
        errors: of the rounds, in percent.
        difference: from the study's own, round by round; None for the study's own.
    """

    host: str
    device: str
    precision: str | None
    torch: str
    errors: list[float]
    difference: Interval | None

    @property
    def mean(self) -> float:
        """The mean of the errors, in percent."""
        return sum(self.errors) / len(self.errors)


@dataclass(frozen=True)
class Drift:
    """What machines make of one trial, the study's own measurement first."""

    study: str
    trial: int
    params: dict[str, Any]
    measurements: list[Measurement]


def define_repetition(
    storage: RDBStorage, study: str, number: int | None
) -> tuple[str, StudyDefinition, dict[str, Any]]:
    """Returns the name and the definition of a study that measures a trial again, and what it is to remember.

    One that was begun and not finished is found again.

    Args:
        number: of the trial; None takes the study's best.

    Raises:
        StorageError: where no such trial was measured to the end.
        RequestError: where it has a single round, which leaves nothing to compare.
    """
    trial, definition = read_trial(storage, study, number), read_definition(storage, study)
    if definition.protocol.rounds < 2:
        raise RequestError(f"study {study!r} has one round; a comparison round by round needs two")
    table = {
        "title": f"Trial {trial.number} of {study}, measured again",
        "protocol": {**definition.protocol.model_dump(mode="json"), "evaluate_at": []},
        "trial": [{"label": f"trial {trial.number}", "params": trial.params}],
        "run": definition.run.model_dump(mode="json"),
    }
    repeats = {
        "study": study,
        "identity": records.study_attributes(storage, study).get("identity"),
        "trial": trial.number,
    }
    known = records.study_names(storage)
    for n in count(1):
        name = f"{study}-drift-{n}"
        if name not in known or (
            records.study_attributes(storage, name).get(REPEATS, repeats) == repeats
            and not records.count_trials(storage, name)[TrialState.COMPLETE]
        ):
            return name, define_study(table, name=name), repeats
    raise AssertionError  # the numbers do not end


def read_drift(storage: RDBStorage, study: str, number: int | None) -> Drift:
    """Returns what has been measured of a trial; None takes the study's best.

    Raises:
        StorageError: where no such trial was measured to the end.
    """
    trial = read_trial(storage, study, number)
    own = _measurement(trial, None)
    identity = records.study_attributes(storage, study).get("identity")
    repeats = {"study": study, "identity": identity, "trial": trial.number}
    again = [
        _measurement(found, own)
        for name in records.study_names(storage)
        if records.study_attributes(storage, name).get(REPEATS) == repeats
        for found in records.read_trials(storage, name, states=(TrialState.COMPLETE,))
    ]
    return Drift(study, trial.number, trial.params, [own, *again])


def _measurement(trial: records.StoredTrial, own: Measurement | None) -> Measurement:
    kept = trial.attributes
    return Measurement(
        host=kept.get("worker", {}).get("host", "unknown"),
        device=kept["device"],
        precision=kept.get("precision"),
        torch=kept["versions"]["torch"],
        errors=kept["errors"],
        difference=paired_difference(kept["errors"], own.errors) if own else None,
    )
