"""Confirms until it is sure: fresh rounds for the best that are still close, until one stays or all will do.

A series of confirmations, each of the configurations that could not be told from the best, on rounds that no earlier
one has had. Evidence is by e-values (sequential.py), so it may be looked at after each. A configuration leaves where
another is better at 1 - 5 % / (K - 1), of K that were begun with: so the chance that the best of them ever leaves is at
most 5 %, however long one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.fresh_rounds import Batch, Confirms, best_different, define_fresh, name_of, read_confirms
from hpo.analysis.results import read_entries
from hpo.analysis.sequential import anytime_interval
from hpo.analysis.statistics import ALIKE, CONFIDENCE, Interval
from hpo.errors import RequestError
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.card import MetricCard
from hpo.text.formatting import count, figure, points, rounds_on

BATCH = 10  # rounds of a confirmation: fewer could not tell even the clearest
LEAST_UNIT = 1e-9  # of the errors: differences that were all the same say nothing of what another round's may be


@dataclass(frozen=True)
class Contender:
    """A configuration of the series.

    Attributes:
        errors: of its fresh rounds; of one that has left, of those that it was measured in.
        rounds: how many these are.
        against: its error less the best's, over the rounds of both, with an interval that holds at any time; None for
            the best itself.
        better: the probability that the best is better, and `within` that the difference is within the margin: of a
            normal error, whose mean and deviation nothing was known of before; None where a round of either diverged.
        is_out: whether another is better.
        diverged: how many of its rounds diverged.
    """

    trial: int
    name: str
    params: dict[str, Any]
    errors: list[float]
    diverged: int
    against: Interval | None = None
    better: float | None = None
    within: float | None = None
    is_out: bool = False

    @property
    def mean(self) -> float:
        """The mean of its errors."""
        return fmean(self.errors)


@dataclass(frozen=True)
class Series:
    """What a series of confirmations has come to.

    Attributes:
        names: of the confirmations' studies, in their order.
        contenders: the best first, then those that cannot be told from it, then those that have left.
        rounds: fresh ones that the best has had.
        margin: a difference that does not matter; None for none.
        most: rounds after which it ends in any case.
    """

    study: str
    names: list[str]
    contenders: list[Contender]
    rounds: int
    margin: float | None
    most: int
    dataset: str
    metric: MetricCard

    @property
    def left(self) -> list[Contender]:
        """Those that cannot be told from the best, itself among them."""
        return [one for one in self.contenders if not one.is_out]

    @property
    def will_do(self) -> bool:
        """Whether all that are left differ from the best by no more than the margin.

        Their intervals are for the best against each. Any may be the best, so by those of K it may be untrue in K / 2
        times the share in which leaving is wrong.
        """
        if self.margin is None:
            return False
        of_all = [one.against for one in self.left if one.against]
        ends = [(by.estimate, by.estimate) if by.why == ALIKE else (by.low, by.high) for by in of_all]
        return all(
            low is not None and high is not None and -self.margin <= low and high <= self.margin for low, high in ends
        )

    @property
    def is_over(self) -> bool:
        """Whether no further rounds are to be measured."""
        return len(self.left) == 1 or self.will_do or self.rounds >= self.most

    def __str__(self) -> str:
        best, *others = self.left
        often = [
            f"{one.name} diverged in {one.diverged} of {count(len(one.errors), 'round')}"
            for one in self.left
            if one.diverged
        ]
        over = "; ".join([*often, rounds_on(self.rounds, self.dataset, "fresh round")])
        where, every = f"study {self.study}: ", len(self.contenders)
        if not others:
            return f"{where}{best.name} is the {'better of both' if every == 2 else f'best of all {every}'} ({over})"
        names = ", ".join(one.name for one in others)
        if self.will_do:
            by = points(figure(self.margin or 0.0, self.metric.unit), self.metric.unit)
            verb = "differs" if len(others) == 1 else "differ"
            return f"{where}{best.name} will do: {names} {verb} from it by at most {by} ({over})"
        lost = [one.name for one in self.contenders if one.is_out]
        out = f"; {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} out" if lost else ""
        return f"{where}{best.name} is first, but cannot be told from {names}{out} ({over})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as a notebook shows it
        printer.text(str(self))


def next_batch(storage: RDBStorage, study: str, *, top: int, margin: float | None, most: int) -> Batch | None:
    """Returns the next confirmation to be measured, as `define_confirmation` does; None where the series is over.

    One that was begun and stopped is gone on with.

    Raises:
        RequestError: where there is one configuration alone: nothing can be told from it.
    """
    begun = best_different(storage, study, top)
    if len(begun) < 2:
        raise RequestError(
            f"study {study!r} has {count(len(begun), 'configuration')} to confirm; it takes two to compare"
        )
    found = read_series(storage, study, top=top, margin=margin, most=most)
    if found is None:
        return define_fresh(storage, study, begun, min(BATCH, most), series="")
    if found.is_over:
        return None
    numbers = {one.trial for one in found.left}
    close = [trial for trial in begun if trial.number in numbers]
    return define_fresh(storage, study, close, min(BATCH, most - found.rounds), series=found.names[0])


def read_series(storage: RDBStorage, study: str, *, top: int, margin: float | None, most: int) -> Series | None:
    """Returns what the series of a study's best has come to; None where no confirmation of it is finished."""
    begun = best_different(storage, study, top)
    numbers = tuple(trial.number for trial in begun)
    stages = list(_stages(storage, study, numbers))
    if not stages:
        return None
    names = [name for name, _ in stages]
    definition, card = read_definition(storage, study), read_card(storage, names[0])
    listed = definition.trial
    measured = {trial.number: _Measured([], 0) for trial in begun}
    for name, confirms in stages:
        for number, (_, trial) in zip(confirms.trials, read_entries(storage, name), strict=True):
            measured[number].errors += trial.attributes["errors"]
            measured[number].diverged += len(trial.attributes.get("diverged_rounds", []))
    contenders = [
        Contender(
            one.number, name_of(one, listed), one.params, measured[one.number].errors, measured[one.number].diverged
        )
        for one in begun
    ]
    return Series(
        study=study,
        names=names,
        contenders=_judged(contenders, [trial.attributes["errors"] for trial in begun], card.metric, margin),
        rounds=max(len(one.errors) for one in contenders),
        margin=margin,
        most=most,
        dataset=card.dataset,
        metric=card.metric,
    )


@dataclass
class _Measured:
    errors: list[float]
    diverged: int


def _stages(storage: RDBStorage, study: str, numbers: tuple[int, ...]) -> Iterator[tuple[str, Confirms]]:
    """Yields the finished confirmations of the series that began with some trials, in their order."""
    ours = own_studies(storage)
    series = None
    for name, attributes in ours.items():
        confirms = read_confirms(attributes)
        if confirms is None or confirms.series is None:
            continue
        if (confirms.study, confirms.identity) != (study, ours[study]["identity"]):
            continue
        if series is None and confirms.series == "" and confirms.trials == numbers:
            series = name
        elif confirms.series != series or series is None:
            continue
        if len(read_entries(storage, name)) == len(confirms.trials):
            yield name, confirms


def _judged(
    contenders: Sequence[Contender], searched: Sequence[Sequence[float]], metric: MetricCard, margin: float | None
) -> list[Contender]:
    """Returns contenders, each against the best, in the order of a series.

    Args:
        searched: their errors in the study's own rounds, which tell how far differences lie apart.
    """
    level = (1 - CONFIDENCE) / (len(contenders) - 1)

    def against(one: int, other: int) -> tuple[list[float], Interval]:
        """Returns the first's errors less the other's, in the rounds of both, and what they say."""
        by = [ours - theirs for ours, theirs in zip(contenders[one].errors, contenders[other].errors, strict=False)]
        before = [ours - theirs for ours, theirs in zip(searched[one], searched[other], strict=True)]
        known = stdev(before) if len(before) > 1 else abs(before[0])  # of one round: as far as they lay apart
        unit = max(known, least(one, other))
        return by, anytime_interval(by, unit, level).within(*metric.differences)

    def least(one: int, other: int) -> float:
        """Returns the smallest deviation that is believed: no difference shows less than the errors' resolution."""
        size = max(map(abs, [*contenders[one].errors, *contenders[other].errors]))
        return metric.resolution or LEAST_UNIT * (size or 1.0)

    def has_lost(one: int, other: int) -> bool:
        """Says whether the first is worse: by the evidence, the strongest that there was, and by the mean now."""
        _, found = against(one, other)
        worse_by = found if metric.sign > 0 else found.turned()
        return worse_by.estimate > 0 and worse_by.low is not None and worse_by.low > 0

    places = range(len(contenders))
    out = {one for one in places for other in places if one != other and has_lost(one, other)}
    ranked = sorted(places, key=lambda place: (place in out, metric.sign * contenders[place].mean, place))
    judged = [contenders[ranked[0]]]
    for place in ranked[1:]:
        by, found = against(place, ranked[0])
        is_normal = not (contenders[place].diverged or contenders[ranked[0]].diverged)
        worse_by, believed = [metric.sign * one for one in by], least(place, ranked[0])
        better, within = _probabilities(worse_by, margin, believed) if is_normal else (None, None)
        if not metric.resolution and max(by) - min(by) <= believed:
            found = found.without_ends(ALIKE)
        judged.append(replace(contenders[place], against=found, better=better, within=within, is_out=place in out))
    return judged


def _probabilities(worse_by: Sequence[float], margin: float | None, least: float) -> tuple[float, float | None]:
    """Returns the probabilities that a mean difference is above 0, and that it is within the margin of it.

    By Student's t, which is what is known of a normal mean after n rounds where nothing was known before.

    Args:
        least: the smallest deviation that is believed.
    """
    from scipy import stats

    mean, error = fmean(worse_by), max(stdev(worse_by), least) / len(worse_by) ** 0.5
    known = stats.t(len(worse_by) - 1, mean, error)
    return float(known.sf(0)), None if margin is None else float(known.cdf(margin) - known.cdf(-margin))
