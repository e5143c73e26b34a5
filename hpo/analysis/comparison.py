"""Compares configurations round by round: which is better, by how much, how sure.

All are measured on the same rounds, so what a round makes harder it makes harder for all. Which of several is the best
is chosen by the same numbers that are compared, so p values are corrected for all pairs that could have been chosen,
not for those that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.caveats import too_few_to_tell
from hpo.analysis.confirmation import Confirmation, read_confirmations
from hpo.analysis.contrasts import Contrast, Measured, contrasts_of, measured
from hpo.analysis.fresh_rounds import best_different
from hpo.analysis.results import read_best, read_entries, read_trial
from hpo.analysis.statistics import both_intervals
from hpo.errors import RequestError, StorageError, UnknownName
from hpo.storage.artifacts import files_of_trials
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.examples import EXAMPLES_FILE
from hpo.study.references import study_words
from hpo.text.commands import command_here
from hpo.text.formatting import count, figure, join_words, p_value, points, rounds_on

BY_LOOKING = "chosen by looking"  # of a number of rounds: why there is no interval


@dataclass(frozen=True)
class Comparison:
    """What the rounds say of some configurations, the best first.

    Attributes:
        source: the study whose rounds they are: the study itself, or a confirmation of it.
        is_biased: whether some were chosen for being good by the very rounds that they are compared on.
        winner: whom the study had first before these rounds were measured; None where they are its own.
        words: by which a command measures the study; of a series, by which it shows what it has.
        contrasts: of the best with each of the others.
        pairs: for how many the p values are corrected.
        missing: the labels of a list that is compared whole, which are not measured.
        is_series: whether they are rounds of `hpo confirm --until-sure`, of which it took more until it was sure; what
            is tested after that looks too sure, so nothing is.
    """

    study: str
    source: str
    rounds: int
    dataset: str
    metric: MetricCard
    is_biased: bool
    compared: list[Measured]
    contrasts: list[Contrast]
    pairs: int
    winner: str | None = None
    words: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    is_series: bool = False

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
        metric, examples = read_card(storage, study).metric, files_of_trials(storage, study, EXAMPLES_FILE)
        entries = read_entries(storage, study)
        found = [measured(entry.label, trial.number, trial, metric, examples) for entry, trial in entries]
        labels = [entry.label for entry in definition.trial]
        if names:
            return _comparison(storage, study, study, _choose(study, found, labels, names), is_biased=False)
        there = {one.name for one in found}
        compared = _comparison(storage, study, study, found, is_biased=False)
        return replace(compared, missing=tuple(label for label in labels if label not in there))
    numbers, best = list(map(_number, names)), read_best(storage, study).trial
    _check_differ(names, numbers)
    for confirmation in read_confirmations(storage, study, numbers or [best]):  # one of an earlier best says nothing
        if len(confirmation.confirmed) > 1:
            return _of_confirmation(storage, study, confirmation, numbers)
    if numbers:
        trials = [read_trial(storage, study, number) for number in numbers]
    else:
        trials = best_different(storage, study, 2)
    metric = read_card(storage, study).metric
    chosen = [measured(f"trial {trial.number}", trial.number, trial, metric).as_searched() for trial in trials]
    return _comparison(storage, study, study, chosen, is_biased=True)


def answer(found: Comparison) -> str:
    """Returns which configuration is better, by how much and how sure, in a sentence."""
    others = found.compared[1:]
    over = rounds_on(found.rounds, found.dataset, "fresh round" if found.source != found.study else "round")
    among = f"{found.metric.title}, {over}"
    if few := len(found.missing):
        among += f"; {few} of {len(found.compared) + few} {'is' if few == 1 else 'are'} not measured"
    said = _of_two(found, among) if len(others) == 1 else f"{_of_several(found)} ({among})"
    return f"study {found.study}: {said}"


def _of_two(found: Comparison, among: str) -> str:
    (best, other), (contrast,) = found.compared, found.contrasts
    difference, unit = contrast.difference, found.metric.unit
    by = points(figure(abs(difference.estimate), unit, difference.standard_error), unit)
    of_rates = "" if found.is_series else f" (p {p_value(contrast.diverged_p_value)})"
    apart = f"{_who_diverges(found)}{of_rates}" if contrast.diverges else ""
    if not contrast.rounds:
        return f"{apart}, and there is no round in which both converged ({among})"
    where = f"{apart}; in the {count(contrast.rounds, 'round')} in which both converged, " if apart else ""
    first, second = (best.name, other.name) if found.metric.sign * difference.estimate >= 0 else (other.name, best.name)
    if difference.estimate == 0 and best.errors == other.errors:
        return f"{where}{best.name} and {other.name} came to the very same errors ({among})"
    if untested := _why_untested(found, contrast.rounds):
        return f"{where}{first} is ahead of {second} by {by}, but {untested} ({among})"
    if contrast.is_significant:
        said = f"{first} is better than {second}, by {by}"
    elif contrast.diverges:
        said = f"their difference is {by}"
    elif difference.estimate == 0:
        said = f"{best.name} and {other.name} have the very same mean"
    else:
        said = f"{best.name} and {other.name} do not differ significantly; their difference is {by}"
    return f"{where}{said} ({_sure(contrast, found)}; {among})"


def _of_several(found: Comparison) -> str:
    best, *others = found.compared
    same = [one.name for one in others if one.mean.estimate == best.mean.estimate]
    ties = [f"{join_words([best.name, *same])} have the very same mean"] if same else []
    apart = [_who_of_several_diverges(found)] if any(contrast.diverges for contrast in found.contrasts) else []
    if untested := _why_untested(found, found.rounds):
        return "; ".join([f"{best.name} is first of {len(found.compared)}, but {untested}", *ties, *apart])
    both = list(zip(others, found.contrasts, strict=True))
    like = [one.name for one, contrast in both if not contrast.diverges and not contrast.is_significant]
    worse = sum(not contrast.diverges and contrast.is_significant for contrast in found.contrasts)
    rest = [f"{like[0]} is not significantly worse"] if len(like) == 1 else []
    rest += [f"{len(like)} are not significantly worse"] if len(like) > 1 else []
    if worse == len(others):
        return f"{best.name} is better than all {len(others)} others"
    if len(like) == len(others):
        rest = []
        first = f"{best.name} is first, but of its {len(others)} rivals none is significantly worse"
    else:
        first = f"{best.name} is better than {worse} of {len(others)} others" if worse else f"{best.name} is first"
    return "; ".join([first, *rest, *ties, *apart])


def _why_untested(found: Comparison, rounds: int) -> str:
    """Returns why nothing can be told of so many rounds; nothing where it can."""
    if found.is_series:
        return "the number of rounds was chosen by looking at them, for which p values would be too small"
    return too_few_to_tell(rounds)


def _who_diverges(found: Comparison) -> str:
    """Returns how often either of two diverges."""
    often = [
        f"{one.name} diverged in {len(one.diverged) or 'none'} of {count(found.rounds, 'round')}"
        for one in found.compared
    ]
    return join_words(often)


def _who_of_several_diverges(found: Comparison) -> str:
    """Returns how often those diverge that do, each beside the best with a p value."""
    p_values = {one.second: one.diverged_p_value for one in found.contrasts}
    often = []
    for one in found.compared:
        beside = "" if p_values.get(one.trial) is None else f" (p {p_value(p_values[one.trial])})"
        if one.diverged:
            often.append(f"{one.name} diverged in {len(one.diverged)} of {count(found.rounds, 'round')}{beside}")
    return join_words(often)


def how_compared(found: Comparison) -> str:
    """Returns how a comparison was made."""
    if found.is_series:
        until_sure = command_here("confirm", *found.words)
        return (
            f"compared round by round, without p values and intervals of differences; {until_sure} has those that hold"
        )
    if found.contrasts[0].p_value is None and not found.contrasts[0].diverges:
        return "compared round by round; a test needs three rounds"
    if found.pairs == 1:
        return "compared round by round; p by flipping the signs of the differences"
    return (
        f"differences from {found.compared[0].name}, round by round; p by flipping the signs of the differences, of "
        f"all {count(found.pairs, 'pair')} together; intervals are of each alone"
    )


def _sure(contrast: Contrast, found: Comparison) -> str:
    unit = found.metric.unit
    turned = contrast.difference.estimate < 0
    on_these, on_new = (one and one.turned() if turned else one for one in (contrast.difference, contrast.on_new))
    assert on_these is not None
    return f"{both_intervals(on_these, on_new, unit)}; p {p_value(contrast.p_value)}"


def _of_confirmation(storage: RDBStorage, study: str, confirmation: Confirmation, numbers: Sequence[int]) -> Comparison:
    chosen = [one for one in confirmation.confirmed if not numbers or one.trial in numbers]
    found = _comparison(storage, study, confirmation.name, chosen, is_biased=False)
    if confirmation.is_series:
        only_reads = ("--until-sure", "--top", str(confirmation.begun), "--rounds", str(found.rounds))
        untested = [one.untested(BY_LOOKING) for one in found.contrasts]
        return replace(found, contrasts=untested, is_series=True, words=(*found.words, *only_reads))
    return replace(found, winner=confirmation.confirmed[0].name)


def _comparison(
    storage: RDBStorage, study: str, source: str, chosen: Sequence[Measured], *, is_biased: bool
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
    pairs = [(ranked[first], ranked[second]) for first, second in combinations(range(len(ranked)), 2)]
    contrasts = contrasts_of(pairs, metric)
    return Comparison(
        study=study,
        source=source,
        rounds=len(ranked[0].errors),
        dataset=card.dataset,
        metric=metric,
        is_biased=is_biased,
        compared=ranked,
        contrasts=contrasts[: len(ranked) - 1],
        pairs=len(pairs),
        words=tuple(study_words(study, definition.references)),
    )


def _choose(study: str, found: Sequence[Measured], labels: Sequence[str], names: Sequence[str]) -> list[Measured]:
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
