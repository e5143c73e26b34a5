"""Confirms what a search has found: measures its best again, on rounds that no trial of the study has used.

The best of many measurements owes some of its place to luck, so the winner's own figure is too good (selection bias).
On fresh rounds that luck is not repeated. The headline is the search's first, confirmed; picking another of the
confirmed ones for its fresh figure is a new selection, and biases that figure again.

A confirmation is a study of listed trials like any other: any worker can help, and it resumes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.caveats import beside_search, of_intervals
from hpo.analysis.contrasts import Contrast, Measured, contrasts_of, measured, pooled
from hpo.analysis.convergence import convergence_json
from hpo.analysis.fresh_rounds import Confirms, confirming, read_confirms
from hpo.analysis.results import Best, read_best, read_entries
from hpo.analysis.statistics import DIVERGED, LOOKED, TOO_FEW, Interval, both_intervals, difference_of_means, ends_of
from hpo.errors import RequestError, UnknownName
from hpo.storage.artifacts import files_of_trials
from hpo.storage.queries import read_trials, study_attributes
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.examples import EXAMPLES_FILE
from hpo.text.formatting import rounds_on, spread

MOST_TIES = 20  # of the best that are looked at


class Before(NamedTuple):
    """The rounds of a trial in its study: their deviation, their number, and the resolution of an error there."""

    std: float
    rounds: int
    resolution: float | None


@dataclass(frozen=True, kw_only=True)
class Confirmed(Measured):
    """One of a search's best, measured again on fresh rounds.

    Attributes:
        searched: its mean error in the study.
        optimism: by how much that was too good, with its interval.
        before: of its rounds in the study, which may be of other examples.
    """

    searched: float
    optimism: Interval
    before: Before | None = None


@dataclass(frozen=True)
class Confirmation:
    """What fresh rounds say of a search's best, in the order of the search.

    Attributes:
        name: the confirmation's own study.
        metric: the objective, as the confirmation's card has it.
        contrasts: of neighbours in that order.
        is_series: whether it is of `hpo confirm --until-sure`, the rounds of all its confirmations taken together.
        begun: with how many configurations it began; a series has fewer in the end.
    """

    study: str
    name: str
    rounds: int
    dataset: str
    metric: MetricCard
    confirmed: list[Confirmed]
    contrasts: list[Contrast]
    is_series: bool = False
    begun: int = 0

    def __str__(self) -> str:
        first, unit = self.confirmed[0], self.metric.unit
        which = f"{first.name}, the list's best" if first.is_labelled else f"best {first.name}"
        diverged = f"; it {first.convergence.text(self.metric)}" if first.convergence else ""
        return (
            f"study {self.study}: {which}: {self.metric.title} {spread(first.mean.estimate, None, unit)} "
            f"({both_intervals(first.mean, first.on_new, unit)}) on "
            f"{rounds_on(self.rounds, self.dataset, 'fresh round', 'of')}{diverged}; "
            f"{beside_search(first.searched, first.optimism, unit, first.std)}"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as a notebook shows it
        printer.text(str(self))


def read_confirmations(storage: RDBStorage, study: str, among: Collection[int] = ()) -> Iterator[Confirmation]:
    """Yields the finished confirmations of a study, the latest first; a series as one, of those that it has left.

    Args:
        among: trials that all have to be measured; of a series only the confirmations that measured all of them count,
            as these are the rounds that they have in common.
    """
    ours = own_studies(storage)
    if study not in ours:
        return
    stages: dict[str, list[str]] = {}  # the first of a series, or one by itself -> all that belong to it
    for name, attributes in confirming(ours, study):
        confirms = read_confirms(attributes)
        stages.setdefault((confirms and confirms.series) or name, []).append(name)
    for names in reversed(stages.values()):
        with suppress(RequestError):  # a later version's, whose definition says more than is known here
            finished = [found for name in names if (found := read_confirmation(storage, name))]
            parts = [part for part in finished if set(among) <= {one.trial for one in part.confirmed}]
            if parts:
                yield _together(parts)


def _together(parts: Sequence[Confirmation]) -> Confirmation:
    """Returns a series of confirmations as one: what the rounds of all say of those that the last has measured.

    Without contrasts: how many rounds there are was decided by looking at them, for which until_sure.py has the tests.
    """
    last = parts[-1]
    if not last.is_series:
        return last
    confirmed = []
    for one in last.confirmed:
        same = [of for part in parts for of in part.confirmed if of.trial == one.trial]
        fresh = pooled(same, last.metric).without_intervals(LOOKED)
        optimism = _optimism(fresh, one.searched, one.before, last.metric).without_ends(LOOKED)
        confirmed.append(replace(one, **vars(fresh), optimism=optimism))
    rounds = len(confirmed[0].errors)
    return replace(
        last, name=parts[0].name, rounds=rounds, confirmed=confirmed, contrasts=[], begun=len(parts[0].confirmed)
    )


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
    measured_again = read_entries(storage, name)
    if len(measured_again) < len(definition.trial):
        return None
    examples = files_of_trials(storage, name, EXAMPLES_FILE)
    before_by_trial = _rounds_before(storage, confirms)
    confirmed = []
    for (entry, trial), number, searched in zip(measured_again, confirms.trials, confirms.searched, strict=True):
        fresh = measured(entry.label, number, trial, metric, examples)
        before = before_by_trial.get(number)
        optimism = _optimism(fresh, searched, before, metric)
        confirmed.append(Confirmed(**vars(fresh), searched=searched, optimism=optimism, before=before))
    return Confirmation(
        study=confirms.study,
        name=name,
        rounds=definition.protocol.rounds,
        dataset=card.dataset,
        metric=metric,
        confirmed=confirmed,
        contrasts=contrasts_of(list(pairwise(confirmed)), metric),
        is_series=confirms.series is not None,
    )


def _rounds_before(storage: RDBStorage, confirms: Confirms) -> dict[int, Before]:
    """Returns what the rounds of the study's own trials were.

    None of a study that is gone, nor of a trial of which rounds diverged.
    """
    try:
        trials = read_trials(storage, confirms.study, states=(TrialState.COMPLETE,))
        resolution = read_card(storage, confirms.study).metric.resolution
    except UnknownName:
        return {}
    kept = {
        trial.number: trial.attributes
        for trial in trials
        if trial.number in confirms.trials and not trial.attributes.get("diverged_rounds")
    }
    return {number: Before(one["std"] or 0.0, len(one["errors"]), resolution) for number, one in kept.items()}


def _optimism(fresh: Measured, searched: float, before: Before | None, metric: MetricCard) -> Interval:
    """Returns by how much a study's figure was too good: two means of different rounds, so by Welch's t."""
    mean, rounds = fresh.mean.estimate, len(fresh.errors)
    if before is None or fresh.diverged:
        off = metric.sign * (mean - searched)
        return Interval(off, None, None, why=DIVERGED if fresh.diverged else TOO_FEW)
    found = difference_of_means(
        mean, fresh.std or 0.0, rounds, searched, before.std, before.rounds, metric.resolution, before.resolution
    )
    return (found if metric.sign > 0 else found.turned()).within(*metric.differences)


def read_winner(storage: RDBStorage, study: str) -> Best:
    """Returns the winner of a study, and what the latest confirmation says of it.

    Raises:
        StorageError: where no trial has been measured to the end.
    """
    best, metric = read_best(storage, study), read_card(storage, study).metric
    alike = read_trials(storage, study, states=(TrialState.COMPLETE,), best=MOST_TIES)
    best = replace(
        best,
        confirmed=read_confirmed(storage, study, best.trial),
        ties=[trial.number for trial in alike if trial.value == best.value and trial.number != best.trial],
    )
    (own,) = [trial for trial in alike if trial.number == best.trial]
    is_alone = len(read_definition(storage, study).trial) == 1  # else it was chosen by these errors
    examples = files_of_trials(storage, study, EXAMPLES_FILE) if is_alone else {}
    found = measured(best.label or f"trial {best.trial}", best.trial, own, metric, examples)
    found = found if is_alone else found.as_searched()
    return replace(
        best,
        interval=ends_of(found.mean) if is_alone else None,
        on_new=ends_of(found.on_new) if found.on_new else None,
        convergence=convergence_json(found.convergence, metric) if found.convergence else None,
    )


def read_confirmed(storage: RDBStorage, study: str, trial: int) -> dict[str, Any] | None:
    """Returns what the latest confirmation of a study says of a trial, as JSON has it; None where none does."""
    confirmation = next(read_confirmations(storage, study, [trial]), None)  # of a series also where it is out by now
    if confirmation is None:
        return None
    (found,) = [one for one in confirmation.confirmed if one.trial == trial]
    return describe(found, confirmation.rounds, confirmation.metric)


def describe(found: Confirmed, rounds: int, metric: MetricCard) -> dict[str, Any]:
    """Returns a confirmed error as JSON has it."""
    return {
        "mean": found.mean.estimate,
        **ends_of(found.mean),
        "why": found.mean.why if found.mean.low is None else None,
        "caveats": of_intervals(rounds, [found], metric),
        "std": found.std,
        "rounds": rounds,
        "optimism": found.optimism.estimate,
        "optimism_interval": ends_of(found.optimism),
        "on_new": found.on_new and ends_of(found.on_new),
        "diverged_rounds": list(found.diverged),
        "convergence": found.convergence and convergence_json(found.convergence, metric),
    }
