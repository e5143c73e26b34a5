"""Looks for drift between kinds of machines: measures one trial of a study again, on each of them.

Workers of one study may run on processors and GPUs of several kinds, whose sums round differently; the same rounds then
end with slightly different errors. As long as such differences have no direction, trials of one kind can be compared
with those of another. Whether they do is measured: each repetition is the very trial, with its pairs, weights and
shuffles, so repetitions are compared round by round.

They are compared with the first repetition, not with what the study has: the study's best owes some of its figure to
the luck of its rounding, which is not repeated elsewhere.

A repetition is a study of one listed trial, which asks no worker for it: only the machine that began it works on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.results import read_trial
from hpo.analysis.sign_flips import sign_flip_p_values
from hpo.analysis.statistics import LEVEL, Interval, differences_of, paired_difference
from hpo.errors import RequestError
from hpo.storage.claims import read_slots
from hpo.storage.queries import StoredTrial, read_trials, study_attributes, study_names
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.definition import StudyDefinition, derived_table
from hpo.study.resolving import resolve_derived
from hpo.text.names import free_name

REPEATS = "repeats"  # the attribute of a repetition that says which trial it repeats, and where


@dataclass(frozen=True)
class OnMachine:
    """One trial's errors on one machine.

    Attributes:
        device: with its model, as in `cuda:0 (NVIDIA H100)`.
        precision: of products and convolutions; None for a trial from before it was recorded.
        errors: of the rounds.
    """

    host: str
    device: str
    precision: str | None
    torch: str
    errors: list[float]

    @property
    def mean(self) -> float:
        """The mean of the errors."""
        return sum(self.errors) / len(self.errors)


@dataclass(frozen=True)
class Repetition:
    """A measurement beside the first repetition.

    Attributes:
        difference: from the first, round by round; its p value is corrected for the number of repetitions, and None
            where there are too few rounds for one. None for the first itself.
    """

    measurement: OnMachine
    difference: Interval | None

    @property
    def is_significant(self) -> bool:
        """Whether it differs from the first by more than chance."""
        p_value = self.difference.p_value if self.difference else None
        return p_value is not None and p_value < LEVEL


@dataclass(frozen=True)
class Drift:
    """What machines make of one trial.

    Attributes:
        own: the study's measurement; too good where the trial was chosen for it.
        noun, unit: of the errors.
    """

    study: str
    trial: int
    noun: str
    unit: str
    params: dict[str, Any]
    own: OnMachine
    repetitions: list[Repetition]


def define_repetition(
    storage: RDBStorage, study: str, trial: StoredTrial, *, host: str, device: str
) -> tuple[str, StudyDefinition, dict[str, Any]]:
    """Returns the name and the definition of a study that repeats a trial, and what it is to remember.

    One that this machine has begun and not finished is found again.

    Raises:
        RequestError: where it has a single round, which leaves nothing to compare.
    """
    definition = read_definition(storage, study)
    if definition.protocol.rounds < 2:
        raise RequestError(f"study {study!r} has one round; to compare round by round takes two")
    table = {
        **derived_table(definition, f"Trial {trial.number} of {study}, measured again"),
        "trial": [{"label": f"trial {trial.number}", "params": trial.params}],
    }
    repeats = {**_repeats(storage, study, trial.number), "host": host, "device": device}
    ours = own_studies(storage)

    def is_unfinished(name: str) -> bool:
        return name in ours and ours[name].get(REPEATS) == repeats and not read_slots(storage, name).complete

    here = f"-drift-{host}-{device.replace(':', '')}"  # or two machines that begin together would make one study
    name = free_name(study, here, study_names(storage), is_unfinished)
    return name, resolve_derived(table, study=study), repeats


def read_drift(storage: RDBStorage, study: str, number: int | None) -> Drift:
    """Returns what has been measured of a trial; None takes the study's best.

    Raises:
        StorageError: where no such trial was measured to the end.
    """
    trial = read_trial(storage, study, number)
    wanted = _repeats(storage, study, trial.number)
    measured = [
        _measurement(found)
        for name, attributes in own_studies(storage).items()
        if _is_of(attributes.get(REPEATS), wanted)
        for found in read_trials(storage, name, states=(TrialState.COMPLETE,))
        if len(found.attributes["errors"]) == len(trial.attributes["errors"])
    ]
    metric = read_card(storage, study).metric
    others = [other.errors for other in measured[1:]]
    differences = [paired_difference(errors, measured[0].errors, metric) for errors in others]
    _, together = sign_flip_p_values([differences_of(errors, measured[0].errors) for errors in others])
    repetitions = [Repetition(first, None) for first in measured[:1]] + [
        Repetition(other, replace(difference, p_value=None if difference.p_value is None else p_value))
        for other, difference, p_value in zip(measured[1:], differences, together, strict=True)
    ]
    return Drift(study, trial.number, metric.noun, metric.unit, trial.params, _measurement(trial), repetitions)


def _repeats(storage: RDBStorage, study: str, number: int) -> dict[str, Any]:
    identity = study_attributes(storage, study).get("identity")
    return {"study": study, "identity": identity, "trial": number}


def _is_of(repeats: Any, wanted: dict[str, Any]) -> bool:
    """Says whether a study's attribute says that it repeats a trial."""
    return isinstance(repeats, dict) and wanted.items() <= repeats.items()


def _measurement(trial: StoredTrial) -> OnMachine:
    kept = trial.attributes
    return OnMachine(
        host=str(kept.get("worker", {}).get("host", "unknown")),
        device=kept.get("device", "device unknown"),
        precision=kept.get("precision"),
        torch=kept.get("versions", {}).get("torch", "unknown"),
        errors=kept["errors"],
    )
