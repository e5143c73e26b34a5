"""Confirms what a search has found: measures its best again, on rounds that no trial of the study has used.

The best of many measurements owes some of its place to luck, so the winner's own figure is too good (selection bias).
On fresh rounds that luck is not repeated. The headline is the search's first, confirmed; picking another of the
confirmed ones for its fresh figure is a new selection, and biases that figure again.

A confirmation is a study of listed trials like any other: any worker can help, and it resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import stdev
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.caveats import beside_search
from hpo.analysis.fresh_rounds import read_confirms
from hpo.analysis.results import Best, read_best, read_entries
from hpo.analysis.statistics import LEVEL, Interval, corrected_p_values, mean_of, paired_difference
from hpo.errors import RequestError, UnknownName
from hpo.storage.queries import study_attributes
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.card import MetricCard
from hpo.text.formatting import interval, rounds_on, spread


@dataclass(frozen=True)
class Confirmed:
    """One of a search's best, measured again.

    Attributes:
        trial: its number in the study.
        name: `trial 3`, or its label in a list.
        searched: its mean error there.
        optimism: by how much that was too good.
        errors: of the fresh rounds.
        mean: theirs, with its 95 % interval.
    """

    trial: int
    name: str
    params: dict[str, Any]
    searched: float
    optimism: float
    errors: list[float]
    mean: Interval

    @property
    def std(self) -> float:
        """The deviation of the fresh rounds."""
        return stdev(self.errors)

    @property
    def is_labelled(self) -> bool:
        """Whether it is of a list, and has a label."""
        return self.name != f"trial {self.trial}"


@dataclass(frozen=True)
class Contrast:
    """Two of them, compared round by round.

    Attributes:
        difference: the second less the first.
        p_value: corrected for the number of contrasts; None where there are too few rounds for a test.
    """

    first: int
    second: int
    difference: Interval
    p_value: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the rounds tell them apart."""
        return self.p_value is not None and self.p_value < LEVEL


@dataclass(frozen=True)
class Confirmation:
    """What fresh rounds say of a search's best, in the order of the search.

    Attributes:
        name: the confirmation's own study.
        metric: the objective, as the confirmation's card has it.
        contrasts: of neighbours in that order.
    """

    study: str
    name: str
    rounds: int
    dataset: str
    metric: MetricCard
    confirmed: list[Confirmed]
    contrasts: list[Contrast]

    def __str__(self) -> str:
        first, unit = self.confirmed[0], self.metric.unit
        which = f"{first.name}, the list's best" if first.is_labelled else f"best {first.name}"
        return (
            f"study {self.study}: {which}: {self.metric.title} {spread(first.mean.estimate, None, unit)} "
            f"(95 %: {interval(first.mean.low, first.mean.high, unit)}) on "
            f"{rounds_on(self.rounds, self.dataset, 'fresh round', 'of')}; "
            f"{beside_search(first.searched, first.optimism, unit, first.std)}"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as a notebook shows it
        printer.text(str(self))


def read_confirmations(storage: RDBStorage, study: str) -> Iterator[Confirmation]:
    """Yields the finished confirmations of a study, the latest first."""
    ours = own_studies(storage)
    identity = ours[study]["identity"] if study in ours else None
    for name, attributes in reversed(ours.items()):
        confirms = read_confirms(attributes)
        if confirms and (confirms.study, confirms.identity) == (study, identity):
            with suppress(RequestError):  # a later version's, whose definition says more than is known here
                found = read_confirmation(storage, name)
                if found:
                    yield found


def read_confirmation(storage: RDBStorage, name: str) -> Confirmation | None:
    """Returns what a confirmation has found; None while some of its trials are missing.

    Raises:
        UnknownName: where there is no such study, or it confirms none.
    """
    definition, confirms = read_definition(storage, name), read_confirms(study_attributes(storage, name))
    card = read_card(storage, name)
    metric = card.metric
    if confirms is None:
        raise UnknownName("confirmation", name, [])
    measured = read_entries(storage, name)
    if len(measured) < len(definition.trial):
        return None
    confirmed = []
    for (entry, trial), number, searched in zip(measured, confirms.trials, confirms.searched, strict=True):
        errors = trial.attributes["errors"]
        mean = mean_of(errors).within(metric.low, metric.high)
        optimism = metric.sign * (mean.estimate - searched)
        confirmed.append(Confirmed(number, entry.label, trial.params, searched, optimism, errors, mean))
    pairs = list(pairwise(confirmed))
    differences = [
        paired_difference(second.errors, first.errors).within(*metric.differences) for first, second in pairs
    ]
    corrected = corrected_p_values(differences)
    return Confirmation(
        study=confirms.study,
        name=name,
        rounds=definition.protocol.rounds,
        dataset=card.dataset,
        metric=metric,
        confirmed=confirmed,
        contrasts=[
            Contrast(first.trial, second.trial, difference, p_value)
            for (first, second), difference, p_value in zip(pairs, differences, corrected, strict=True)
        ],
    )


def read_winner(storage: RDBStorage, study: str) -> Best:
    """Returns the winner of a study, and what the latest confirmation says of it.

    Raises:
        StorageError: where no trial has been measured to the end.
    """
    best = read_best(storage, study)
    return replace(best, confirmed=read_confirmed(storage, study, best.trial))


def read_confirmed(storage: RDBStorage, study: str, trial: int) -> dict[str, Any] | None:
    """Returns what the latest confirmation of a study says of a trial, as JSON has it; None where none does."""
    for confirmation in read_confirmations(storage, study):
        for found in confirmation.confirmed:
            if found.trial == trial:
                return describe(found, confirmation.rounds)
    return None


def describe(found: Confirmed, rounds: int) -> dict[str, Any]:
    """Returns a confirmed error as JSON has it."""
    interval = {key: value for key, value in asdict(found.mean).items() if key in ("low", "high")}
    return {"mean": found.mean.estimate, **interval, "std": found.std, "rounds": rounds, "optimism": found.optimism}
