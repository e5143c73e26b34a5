"""Configurations that were measured in the same rounds, each by itself and compared two by two.

What a round makes harder it makes harder for all, so they are compared round by round. Rounds in which either of two
diverged are left out of the comparison of their errors; how often they do is compared apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import stdev
from typing import Any

import numpy as np

from hpo.analysis.convergence import Convergence, convergence_of
from hpo.analysis.new_examples import Influences, difference_of, on_new_examples
from hpo.analysis.sign_flips import sign_flip_p_values
from hpo.analysis.statistics import AS_SEARCHED, LEVEL, Interval, differences_of, interval_of_difference, mean_of
from hpo.limits import FEWEST_ROUNDS
from hpo.storage.queries import StoredTrial
from hpo.study.card import MetricCard
from hpo.study.examples import ExampleOutcomes, stacked


@dataclass(frozen=True)
class Measured:
    """A configuration's rounds, and what they say of its mean.

    Attributes:
        trial: its number in the study.
        name: its label, or `trial 3`.
        errors: of the rounds, (R,).
        diverged: which of them diverged, the first being 0.
        mean: theirs, with its interval on these test examples; without one where some diverged.
        on_new: the same on new test examples; None where it is not known what became of each, or some diverged.
        convergence: how often it diverged, and what it errs else; None where it never did.
        influences: see new_examples.py.
    """

    trial: int
    name: str
    params: dict[str, Any]
    errors: list[float]
    mean: Interval
    diverged: tuple[int, ...] = ()
    on_new: Interval | None = None
    convergence: Convergence | None = None
    influences: Influences | None = field(default=None, repr=False, compare=False)

    @property
    def std(self) -> float | None:
        """The deviation of the rounds; None of a single one."""
        return stdev(self.errors) if len(self.errors) > 1 else None

    def as_searched(self) -> Measured:
        """Returns it without intervals of its error, by which it was chosen."""
        return self.without_intervals(AS_SEARCHED)

    def without_intervals(self, why: str) -> Measured:
        """Returns it without intervals of its error, which would not hold, and why."""
        kept = self.convergence and self.convergence.without_interval(why)
        return replace(self, mean=self.mean.without_ends(why), on_new=None, convergence=kept)

    @property
    def is_labelled(self) -> bool:
        """Whether it is of a list, and has a label."""
        return self.name != f"trial {self.trial}"


def measured(
    name: str, number: int, trial: StoredTrial, metric: MetricCard, examples: Mapping[int, bytes] = {}
) -> Measured:
    """Returns what a trial measured, under a name and the number of a study's trial.

    Args:
        examples: files with what became of each test example, by the trial's own number.
    """
    errors, diverged = trial.attributes["errors"], tuple(trial.attributes.get("diverged_rounds", ()))
    influences = None if diverged else _influences(examples.get(trial.number), len(errors))
    return _measured(number, name, trial.params, errors, diverged, influences, metric)


def pooled(parts: Sequence[Measured], metric: MetricCard) -> Measured:
    """Returns what several sets of rounds say of one configuration."""
    errors, diverged = [error for part in parts for error in part.errors], []
    for at, part in enumerate(parts):
        before = sum(len(earlier.errors) for earlier in parts[:at])
        diverged += [before + r for r in part.diverged]
    known = [part.influences for part in parts if part.influences is not None]
    influences = stacked(known) if len(known) == len(parts) and not diverged else None
    return _measured(parts[0].trial, parts[0].name, parts[0].params, errors, diverged, influences, metric)


def _measured(
    trial: int,
    name: str,
    params: dict[str, Any],
    errors: list[float],
    diverged: Sequence[int],
    influences: Influences | None,
    metric: MetricCard,
) -> Measured:
    on_new = None if influences is None else on_new_examples(errors, influences, metric)
    return Measured(
        *(trial, name, params, errors, mean_of(errors, metric, diverged), tuple(diverged)),
        on_new=on_new and on_new.within(metric.low, metric.high),
        convergence=convergence_of(errors, diverged, metric),
        influences=influences,
    )


def _influences(content: bytes | None, rounds: int) -> Influences | None:
    """Returns what a file says; None where there is none, or it is of something else, as anybody may have written."""
    if content is None:
        return None
    try:
        found = ExampleOutcomes.from_bytes(content).influences()
    except ValueError:
        return None
    return found if len(found) == rounds else None


@dataclass(frozen=True)
class Contrast:
    """Two configurations, compared round by round.

    Attributes:
        first, second: their trials.
        difference: the second's error less the first's, over the rounds in which both converged.
        p_value: corrected for all contrasts; None where there are too few rounds for a test.
        on_new: the difference with its interval on new test examples, where that is known.
        rounds: in which both converged.
        diverged: in how many rounds either did.
        diverged_p_value: of one diverging more often than the other, corrected likewise; None where nothing is tested.
    """

    first: int
    second: int
    difference: Interval
    p_value: float | None
    on_new: Interval | None = None
    rounds: int = 0
    diverged: tuple[int, int] = (0, 0)
    diverged_p_value: float | None = 1.0

    @property
    def is_significant(self) -> bool:
        """Whether the rounds in which both converged tell their errors apart."""
        return self.p_value is not None and self.p_value < LEVEL

    def untested(self, why: str) -> Contrast:
        """Returns it without p values, and without intervals of the difference, which are tests too."""
        by = self.difference if self.difference == NO_DIFFERENCE else self.difference.without_ends(why)
        return replace(self, difference=by, p_value=None, on_new=None, diverged_p_value=None)

    @property
    def diverges(self) -> bool:
        """Whether one diverged in some round: then their errors are not all that there is to tell them apart by."""
        return any(self.diverged)


def contrasts_of(pairs: Sequence[tuple[Measured, Measured]], metric: MetricCard) -> list[Contrast]:
    """Returns each pair compared, its p values corrected for all of them."""
    sides = [[(one.errors, one.diverged) for one in pair] for pair in pairs]
    of_errors, of_rates = joint_p_values([(first, second) for first, second in sides])
    contrasts = []
    for (first, second), p_value, rate_p_value in zip(pairs, of_errors, of_rates, strict=True):
        left_out = {*first.diverged, *second.diverged}
        rounds = len(first.errors) - len(left_out)
        by = interval_of_difference(second.errors, first.errors, metric, left_out) if rounds else NO_DIFFERENCE
        contrasts.append(
            Contrast(
                *(first.trial, second.trial, by, p_value if rounds >= FEWEST_ROUNDS else None),
                on_new=_on_new(first, second, metric),
                rounds=rounds,
                diverged=(len(first.diverged), len(second.diverged)),
                diverged_p_value=rate_p_value,
            )
        )
    return contrasts


NO_DIFFERENCE = Interval(
    0.0, None, None, why="never converged together"
)  # of two that never converged in the same round
Rounds = tuple[Sequence[float], Collection[int]]  # errors, and which of them are of rounds that diverged


def joint_p_values(pairs: Sequence[tuple[Rounds, Rounds]]) -> tuple[list[float], list[float]]:
    """Returns the p values of pairs that share their rounds, of their errors and of how often they diverge.

    Both are corrected together, for all pairs. A round counts for the errors where both converged; and for the rates
    where one alone diverged: of a single pair that is the exact sign test (Q. McNemar, 1947).
    """
    errors = [
        differences_of(second, first, {*diverged_second, *diverged_first})
        for (first, diverged_first), (second, diverged_second) in pairs
    ]
    rates = [
        rates_of(diverged_second, diverged_first, len(first)) for (first, diverged_first), (_, diverged_second) in pairs
    ]
    _, together = sign_flip_p_values([*errors, *(rates if any(map(any, rates)) else [])])
    return together[: len(pairs)], together[len(pairs) :] or [1.0] * len(pairs)


def estimate_of(by: Interval) -> float | None:
    """Returns a difference as JSON has it; None where there is none."""
    return None if by == NO_DIFFERENCE else by.estimate


def rates_of(diverged: Collection[int], others: Collection[int], rounds: int) -> list[float]:
    """Returns round by round whether one diverged, less whether the other did."""
    return [float(r in diverged) - float(r in others) for r in range(rounds)]


def _on_new(first: Measured, second: Measured, metric: MetricCard) -> Interval | None:
    if first.influences is None or second.influences is None:
        return None
    by = np.subtract(second.errors, first.errors).tolist()
    found = on_new_examples(by, difference_of(second.influences, first.influences), metric)
    return found and found.within(*metric.differences)
