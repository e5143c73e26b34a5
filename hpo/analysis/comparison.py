"""Compares configurations round by round: which is better, by how much, how sure.

All are measured on the same rounds, so what a round makes harder it makes harder for all. Which of several is the best
is chosen by the same numbers that are compared, so p values are corrected (Holm) for all pairs that could have been
chosen, not for those that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.confirmation import Confirmation, Contrast, read_confirmations
from hpo.analysis.fresh_rounds import best_different
from hpo.analysis.results import read_best, read_entries, read_trial
from hpo.analysis.statistics import Interval, corrected_p_values, mean_of, paired_difference
from hpo.errors import RequestError, StorageError, UnknownName
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.references import study_words
from hpo.text.commands import command_here
from hpo.text.formatting import count, figure, interval, p_value, points, rounds_on


@dataclass(frozen=True)
class Compared:
    """One of the configurations that are compared.

    Attributes:
        name: its label, or `trial 3`.
        errors: of the rounds.
        mean: theirs, with its 95 % interval.
    """

    name: str
    trial: int
    params: dict[str, Any]
    errors: list[float]
    mean: Interval


@dataclass(frozen=True)
class Comparison:
    """What the rounds say of some configurations, the best first.

    Attributes:
        source: the study whose rounds they are: the study itself, or a confirmation of it.
        is_biased: whether some were chosen for being good by the very rounds that they are compared on.
        winner: whom the study had first before these rounds were measured; None where they are its own.
        words: by which a command measures the study.
        contrasts: of the best with each of the others.
        pairs: for how many the p values are corrected.
        missing: the labels of a list that is compared whole, which are not measured.
    """

    study: str
    source: str
    rounds: int
    dataset: str
    metric: MetricCard
    is_biased: bool
    compared: list[Compared]
    contrasts: list[Contrast]
    pairs: int
    winner: str | None = None
    words: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return answer(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as a notebook shows it
        printer.text(str(self))


def compare(storage: RDBStorage, study: str, names: Sequence[str] = ()) -> Comparison:
    """Compares configurations of a study.

    Args:
        names: labels of a list, or numbers of trials. Unless given, a list is compared whole; of a search what its
            latest confirmation has measured, or else its two best.

    Raises:
        RequestError: where there is no such configuration, or one alone is named.
        StorageError: where fewer than two are measured in all rounds.
    """
    if len(names) == 1:
        raise RequestError(f"name two to compare, or none, but there is {names[0]!r} alone")
    definition = read_definition(storage, study)
    if definition.trial:
        found = [_compared(entry.label, trial) for entry, trial in read_entries(storage, study)]
        labels = [entry.label for entry in definition.trial]
        if names:
            return _comparison(storage, study, study, _choose(study, found, labels, names), is_biased=False)
        there = {one.name for one in found}
        compared = _comparison(storage, study, study, found, is_biased=False)
        return replace(compared, missing=tuple(label for label in labels if label not in there))
    numbers, best = list(map(_number, names)), read_best(storage, study).trial
    _check_differ(names, numbers)
    for confirmation in read_confirmations(storage, study):
        confirmed = {one.trial: one for one in confirmation.confirmed}
        if len(confirmed) > 1 and set(numbers or [best]) <= confirmed.keys():  # one of an earlier best says nothing
            return _of_confirmation(storage, study, confirmation, numbers or list(confirmed))
    if numbers:
        trials = [read_trial(storage, study, number) for number in numbers]
    else:
        trials = best_different(storage, study, 2)
    chosen = [_compared(f"trial {trial.number}", trial) for trial in trials]
    return _comparison(storage, study, study, chosen, is_biased=True)


def answer(found: Comparison) -> str:
    """Returns which configuration is better, by how much and how sure, in a sentence."""
    best, *others = found.compared
    over = rounds_on(found.rounds, found.dataset, "fresh round" if found.source != found.study else "round")
    where, among = f"study {found.study}: ", f"{found.metric.title}, {over}"
    if few := len(found.missing):
        among += f"; {few} of {len(found.compared) + few} {'is' if few == 1 else 'are'} not measured"
    if len(others) == 1:
        (contrast,), other = found.contrasts, others[0].name
        difference, unit = contrast.difference, found.metric.unit
        by = points(figure(abs(difference.estimate), unit, difference.standard_error), unit)
        if difference.p_value is None:
            rounds = count(found.rounds, "round")
            return f"{where}{best.name} is ahead of {other} by {by}, but {rounds} cannot say how sure that is ({among})"
        if contrast.is_significant:
            said = f"{best.name} is better than {other}, by {by}"
        else:
            said = f"{best.name} and {other} do not differ significantly; their difference is {by}"
        return f"{where}{said} ({_sure(contrast, found)}; {among})"
    like = [one.name for one, contrast in zip(others, found.contrasts, strict=True) if not contrast.is_significant]
    worse = len(others) - len(like)
    if not like:
        said = f"{best.name} is better than all {len(others)} others"
    elif not worse:
        said = f"{best.name} is first, but of its {len(others)} rivals none is significantly worse"
    else:
        rest = f"{like[0]} is not significantly worse" if len(like) == 1 else f"{len(like)} are not significantly worse"
        said = f"{best.name} is better than {worse} of {len(others)} others; {rest}"
    return f"{where}{said} ({among})"


def how_compared(found: Comparison) -> str:
    """Returns how a comparison was made."""
    if found.contrasts[0].difference.p_value is None:
        return "compared round by round; a test needs three rounds"
    if found.pairs == 1:
        return "compared round by round, by a paired t test"
    return (
        f"differences from {found.compared[0].name}, round by round, by paired t tests; p values corrected for all "
        f"{count(found.pairs, 'pair')} (Holm), intervals not"
    )


def _sure(contrast: Contrast, found: Comparison) -> str:
    by = contrast.difference
    low, high = (by.low, by.high) if by.estimate >= 0 else (_negative(by.high), _negative(by.low))
    return f"95 %: {interval(low, high, found.metric.unit)}; p {p_value(contrast.p_value)}"


def _negative(number: float | None) -> float | None:
    return None if number is None else -number


def _of_confirmation(storage: RDBStorage, study: str, confirmation: Confirmation, numbers: Sequence[int]) -> Comparison:
    chosen = [
        Compared(one.name, one.trial, one.params, one.errors, one.mean)
        for one in confirmation.confirmed
        if one.trial in numbers
    ]
    found = _comparison(storage, study, confirmation.name, chosen, is_biased=False)
    return replace(found, winner=confirmation.confirmed[0].name)


def _comparison(
    storage: RDBStorage, study: str, source: str, chosen: Sequence[Compared], *, is_biased: bool
) -> Comparison:
    if len(chosen) < 2:
        raise StorageError(
            f"study {study!r} has {count(len(chosen), 'configuration')} that {'was' if len(chosen) == 1 else 'were'} "
            f"measured in all rounds, but it takes two to compare; {command_here('status', '--study', study)} tells "
            "how far it is"
        )
    definition, card = read_definition(storage, source), read_card(storage, source)
    metric = card.metric
    ranked = sorted(chosen, key=lambda one: metric.sign * one.mean.estimate)
    differences = {
        (first, second): paired_difference(ranked[second].errors, ranked[first].errors).within(*metric.differences)
        for first, second in combinations(range(len(ranked)), 2)
    }
    corrected = dict(zip(differences, corrected_p_values(list(differences.values())), strict=True))
    return Comparison(
        study=study,
        source=source,
        rounds=definition.protocol.rounds,
        dataset=card.dataset,
        metric=metric,
        is_biased=is_biased,
        compared=ranked,
        contrasts=[
            Contrast(ranked[0].trial, ranked[place].trial, differences[0, place], corrected[0, place])
            for place in range(1, len(ranked))
        ],
        pairs=len(differences),
        words=tuple(study_words(study, definition.references)),
    )


def _compared(name: str, trial: Any) -> Compared:
    errors = trial.attributes["errors"]
    return Compared(name, trial.number, trial.params, errors, mean_of(errors))


def _choose(study: str, found: Sequence[Compared], labels: Sequence[str], names: Sequence[str]) -> list[Compared]:
    """Returns the configurations of a list that are named, by their labels or by the numbers of their trials."""
    by_name = {str(one.trial): one for one in found} | {one.name: one for one in found}  # labels may be numbers
    for name in names:
        if name in labels and not any(one.name == name for one in found):
            status = command_here("status", "--study", study)
            raise StorageError(f"study {study!r}: {name!r} is not measured yet; {status} tells how far it is")
        if name not in by_name:
            raise UnknownName("configuration", name, labels)
    chosen = [by_name[name] for name in names]
    _check_differ(names, [one.trial for one in chosen])
    return chosen


def _check_differ(names: Sequence[str], trials: Sequence[int]) -> None:
    """Makes sure that no two names are of one trial."""
    for name, trial in zip(names, trials, strict=True):
        if trials.count(trial) > 1:
            others = [other for other, its in zip(names, trials, strict=True) if its == trial and other != name]
            how = f", as {name!r} and {others[0]!r}" if others else ""
            raise RequestError(
                f"{f'trial {trial}' if others else repr(name)} is named twice{how}; name two that differ"
            )


def _number(name: str) -> int:
    number = name.removeprefix("trial ").strip()
    if not (number.isascii() and number.isdigit()):
        raise RequestError(f"a search's trials are named by their numbers, as in 3 7, but not as {name!r}")
    return int(number)
