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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.contrasts import NO_DIFFERENCE, joint_p_values
from hpo.analysis.results import read_trial
from hpo.analysis.statistics import LEVEL, Interval, interval_of_difference
from hpo.errors import RequestError
from hpo.limits import FEWEST_ROUNDS
from hpo.storage.claims import read_slots
from hpo.storage.queries import StoredTrial, read_trials, study_attributes, study_names
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.card import MetricCard
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
        diverged: which of them diverged, the first being 0.
    """

    host: str
    device: str
    precision: str | None
    torch: str
    errors: list[float]
    diverged: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """The mean of the errors."""
        return sum(self.errors) / len(self.errors)


@dataclass(frozen=True)
class Repetition:
    """A measurement beside the first repetition.

    Attributes:
        difference: from the first, over the rounds in which both converged; its p value is corrected for all
            repetitions, and None where there are too few rounds for one. None for the first itself.
        diverged_p_value: of one diverging more often than the other, corrected likewise.
    """

    measurement: OnMachine
    difference: Interval | None
    diverged_p_value: float = 1.0

    @property
    def is_significant(self) -> bool:
        """Whether it differs from the first by more than chance, in its errors or in how often it diverges."""
        p_value = self.difference.p_value if self.difference else None
        return min(1.0 if p_value is None else p_value, self.diverged_p_value) < LEVEL


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
    repetitions = _beside_the_first(measured, metric)
    return Drift(study, trial.number, metric.noun, metric.unit, trial.params, _measurement(trial), repetitions)


def _beside_the_first(measured: Sequence[OnMachine], metric: MetricCard) -> list[Repetition]:
    """Returns each measurement compared with the first, over the rounds in which both converged."""
    if not measured:
        return []
    first, *others = measured
    pairs = [((first.errors, first.diverged), (other.errors, other.diverged)) for other in others]
    repetitions = [Repetition(first, None)]
    for other, p_value, rate_p_value in zip(others, *joint_p_values(pairs), strict=True):
        out = {*first.diverged, *other.diverged}
        rounds = len(first.errors) - len(out)
        by = interval_of_difference(other.errors, first.errors, metric, out) if rounds else NO_DIFFERENCE
        by = replace(by, p_value=p_value if rounds >= FEWEST_ROUNDS else None)
        repetitions.append(Repetition(other, by, rate_p_value))
    return repetitions


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
        diverged=tuple(kept.get("diverged_rounds", ())),
    )
