"""How often the intervals that are printed hold the truth, and how often the tests raise a false alarm: by simulation.

Errors of many studies are drawn, of which the truth is known, and given to the program's own functions. See
docs/statistics.md; the test of this file does the same with fewer studies.

    python -m benchmarks.coverage
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from benchmarks.images_and_looks import of_hundred, print_tables, row
from hpo.analysis import sign_flips
from hpo.analysis.contrasts import Rounds, joint_p_values
from hpo.analysis.convergence import share_of
from hpo.analysis.effects import family_p_values
from hpo.analysis.statistics import (
    LEVEL,
    Interval,
    difference_of_means,
    differences_of,
    interval_of_difference,
    mean_of,
)
from hpo.study.card import MetricCard

STUDIES = 2000  # of every interval
TESTED = 1000  # of every family
ROUNDS = (3, 5, 6, 10, 30, 100)
TESTED_ROUNDS = (6, 10, 30, 100)  # of fewer none can be significant
FLIPS = 2**9  # of 30 and 100 rounds: fewer than the program draws, which is as right and takes less time
EXAMPLES = 1000  # that a round is tested on
WORST, RARE = 100.0, 0.05  # what a diverged round counts as, and the share of rounds that diverge
METRIC = MetricCard(
    name="error", title="test error", description="", unit="%", low=0.0, high=100.0, resolution=100 / EXAMPLES
)

Array = npt.NDArray[np.floating[Any]]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Errors:
    """How errors are distributed.

    Attributes:
        draw: so many, rounded to what a test of `EXAMPLES` can show.
        mean: what they come to, of rounds that converge.
        diverges: the share of rounds that do not.
    """

    draw: Callable[[np.random.Generator, Shape], Array]
    mean: float
    diverges: float = 0.0

    def rounds(self, random: np.random.Generator, shape: Shape) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Returns errors, and which of them are of rounds that diverged."""
        drawn = np.round(self.draw(random, shape) / METRIC.resolution) * METRIC.resolution  # type: ignore[operator]
        diverged = random.random(shape) < self.diverges
        return np.where(diverged, WORST, drawn), diverged


def _gamma(shape: float) -> Callable[[np.random.Generator, Shape], Array]:
    return lambda random, size: np.asarray(2.0 + 0.5 * random.gamma(shape, shape**-0.5, size))


def _normal(random: np.random.Generator, size: Shape) -> Array:
    return random.normal(10.0, 0.5, size)


KINDS = {
    "normal": Errors(_normal, 10.0),
    "skewed (gamma, skewness 1)": Errors(_gamma(4.0), 2.0 + 0.5 * 2.0),
    "very skewed (gamma, skewness 2)": Errors(_gamma(1.0), 2.0 + 0.5),
    "coin-like (at chance)": Errors(lambda random, size: np.asarray(random.binomial(EXAMPLES, 0.5, size) / 10.0), 50.0),
    "5 % of rounds diverge": Errors(_normal, 10.0, RARE),
    "one example off in 5 %": Errors(lambda random, size: 2.0 + 0.1 * (random.random(size) < 0.05), 2.005),
    "one example off in 10 %": Errors(lambda random, size: 2.0 + 0.1 * (random.random(size) < 0.1), 2.01),
    "one example off in 30 %": Errors(lambda random, size: 2.0 + 0.1 * (random.random(size) < 0.3), 2.03),
}
TESTED_KINDS = ("normal", "very skewed (gamma, skewness 2)", "5 % of rounds diverge", "one example off in 30 %")


def intervals(kind: Errors, random: np.random.Generator, number: int) -> Iterator[tuple[str, Interval, float]]:
    """Yields each interval that is printed of a study of so many rounds, by name, and the truth."""
    errors, diverged = kind.rounds(random, (2, number))
    before, _ = kind.rounds(random, (10,))
    kept = [one[~out].tolist() for one, out in zip(errors, diverged, strict=True)]
    out = set(np.flatnonzero(diverged.any(axis=0)).tolist())
    if kept[0]:
        name = "error where it converged" if kind.diverges else "mean"
        yield name, mean_of(kept[0], METRIC), kind.mean
    if len(out) < number:
        yield "paired difference", interval_of_difference(errors[1].tolist(), errors[0].tolist(), METRIC, out), 0.0
    if kind is KINDS["normal"]:
        yield "best of 60, as searched (not printed)", mean_of(_best_of_alike(random, number), METRIC), kind.mean
    if kind.diverges:
        counted = mean_of(errors[0].tolist(), METRIC)
        yield "mean that counts all (not printed)", counted, (1 - RARE) * kind.mean + RARE * WORST
        yield "share that diverges", share_of(int(diverged[0].sum()), number), 100 * kind.diverges
    else:
        deviations = errors[0].std(ddof=1), before.std(ddof=1)
        resolutions = METRIC.resolution, METRIC.resolution
        by = difference_of_means(
            *(errors[0].mean(), deviations[0], number, before.mean(), deviations[1], len(before), *resolutions)
        )
        yield "Welch's difference, optimism", by, 0.0


def _best_of_alike(random: np.random.Generator, number: int) -> list[float]:
    """Returns the rounds of the best of 60 configurations that are alike; its rounds have a correlation of 0.3."""
    errors = 10.0 + 0.5 * (0.7**0.5 * random.normal(size=(60, number)) + 0.3**0.5 * random.normal(size=number))
    best: list[float] = errors[errors.mean(axis=1).argmin()].tolist()
    return best


def coverage(kind: str, number: int, studies: int) -> dict[str, tuple[int, int]]:
    """Returns of each interval how often it held the truth, of how many that there were."""
    random, found = np.random.default_rng([number, *kind.encode()]), dict[str, tuple[int, int]]()
    for _ in range(studies):
        for name, interval, truth in intervals(KINDS[kind], random, number):
            if interval.low is not None:
                held, of = found.get(name, (0, 0))
                found[name] = held + (interval.low - 1e-9 <= truth <= (interval.high or 0.0) + 1e-9), of + 1
    return found


def _drawn(kind: Errors, random: np.random.Generator, configurations: int, number: int) -> list[Rounds]:
    """Returns configurations of one distribution whose rounds have a part in common."""
    errors, diverged = kind.rounds(random, (configurations, number))
    common = np.round(random.normal(0.0, 0.3, number), 1)  # what makes a round harder makes it so for all
    errors = np.where(diverged, WORST, errors + common)
    return [(e.tolist(), np.flatnonzero(d).tolist()) for e, d in zip(errors, diverged, strict=True)]


def _worse(one: Rounds) -> Rounds:
    return [error if r in one[1] else error + 1.0 for r, error in enumerate(one[0])], one[1]


def _smallest(pairs: Sequence[tuple[Rounds, Rounds]]) -> float:
    return min(map(min, joint_p_values(pairs)))


def _pairs(drawn: list[Rounds]) -> float:
    return _smallest(list(combinations(drawn, 2)))


def _others_worse(drawn: list[Rounds]) -> float:
    """The last three of them are worse, so that only pairs of the others can raise a false alarm."""
    alike = len(drawn) - 3
    configurations = [*drawn[:alike], *map(_worse, drawn[alike:])]
    places = list(combinations(range(len(drawn)), 2))
    found = joint_p_values([(configurations[one], configurations[other]) for one, other in places])
    return min(p for of in found for (_, other), p in zip(places, of, strict=True) if other < alike)


def _effects(drawn: list[Rounds]) -> float:
    """Three of five effects are measured, each of two matched pairs."""
    sides: list[list[float]] = [(np.add(drawn[i][0], drawn[i + 1][0]) / 2).tolist() for i in (0, 2, 4, 6)]
    out = [{*drawn[i][1], *drawn[i + 1][1]} for i in (0, 2, 4, 6)]
    often = [[(r in drawn[i][1]) + (r in drawn[i + 1][1]) for r in range(len(sides[0]))] for i in (0, 2, 4, 6)]
    by = [differences_of(sides[i], sides[0], out[i] | out[0]) for i in (1, 2, 3)]
    rates = [np.subtract(often[i], often[0]).tolist() for i in (1, 2, 3)]
    return min(map(min, family_p_values(by, rates, 5)))


def _t_test(drawn: list[Rounds]) -> float:
    """A paired t test, which the program does not make, of all rounds."""
    by = np.subtract(drawn[1][0], drawn[0][0])
    error = by.std(ddof=1) / len(by) ** 0.5
    if error == 0:
        return float(by[0] == 0)
    return float(2 * special.stdtr(len(by) - 1, -abs(by.mean()) / error))


FAMILIES: dict[str, tuple[int, Callable[[list[Rounds]], float]]] = {
    "two configurations": (2, lambda drawn: _smallest([(drawn[0], drawn[1])])),
    "the same by a t test (not made)": (2, _t_test),
    "all pairs of 4": (4, _pairs),
    "all pairs of 10": (10, _pairs),
    "pairs of 7 alike, of 10": (10, _others_worse),
    "neighbours of 3 confirmed": (3, lambda drawn: _smallest([(drawn[0], drawn[1]), (drawn[1], drawn[2])])),
    "5 effects, 3 measured": (8, _effects),
    "drift of 3 machines": (4, lambda drawn: _smallest([(drawn[0], other) for other in drawn[1:]])),
}


def false_alarms(kind: str, family: str, number: int, studies: int) -> int:
    """Returns in how many of so many studies, in which all are alike, some difference is significant."""
    random = np.random.default_rng([number, *f"{kind}, {family}".encode()])
    configurations, smallest_p = FAMILIES[family]
    return sum(smallest_p(_drawn(KINDS[kind], random, configurations, number)) < LEVEL for _ in range(studies))


def _cell(job: tuple[Any, ...]) -> Any:
    function, *arguments = job
    return function(*arguments)


def main(studies: int = STUDIES, tested: int = TESTED) -> None:
    """Prints the tables, and those of `images_and_looks`."""
    sign_flips.PATTERNS = FLIPS  # before processes begin that inherit it
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        found = pool.map(_cell, [(coverage, kind, number, studies) for kind in KINDS for number in ROUNDS])
        alarms = pool.map(
            _cell,
            [(false_alarms, *which, n, tested) for which in product(TESTED_KINDS, FAMILIES) for n in TESTED_ROUNDS],
        )
        print(f"How many of 100 intervals hold the truth ± standard error, of {studies} studies each\n")
        row(["errors", "interval", *(f"{number} rounds" for number in ROUNDS)])
        row(["---"] * (2 + len(ROUNDS)))
        for name in KINDS:
            cells = [next(found) for _ in ROUNDS]
            for interval in cells[-1]:
                row([name, interval, *(of_hundred(*one[interval]) for one in cells)])
        print(f"\nHow many of 100 studies of alike configurations raise a false alarm, of {tested} each\n")
        row(["errors", "family", *(f"{number} rounds" for number in TESTED_ROUNDS)])
        row(["---"] * (2 + len(TESTED_ROUNDS)))
        for name, family in product(TESTED_KINDS, FAMILIES):
            row([name, family, *(of_hundred(next(alarms), tested) for _ in TESTED_ROUNDS)])
    print()
    print_tables()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
