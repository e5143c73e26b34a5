"""How often intervals on new test examples hold the truth, and what looking again and again does: by simulation.

    python -m benchmarks.images_and_looks

`benchmarks.coverage` prints these tables, too. An image is wrong in a round where its hardness, the round's bad luck
and a chance of this image in this round come to more than a threshold; so the truth is known, on the images that are
drawn and on new ones. Looks are at 10, 20 ... 100 rounds of a difference of two configurations with the same mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.analysis import sign_flips
from hpo.analysis.new_examples import difference_of, on_new_examples
from hpo.analysis.sequential import FIRST_LOOK, log_e_values
from hpo.analysis.statistics import LEVEL, Interval, mean_of, paired_difference
from hpo.study.card import MetricCard

STUDIES = 500  # of every interval
SERIES = 2000  # of looks
ROUNDS = (3, 5, 6, 10, 30, 100)
IMAGES = 1000
ALIKE = (2, 3, 5)  # configurations of a series
MOST, EVERY = 100, 10  # rounds of a series, and between two looks
FLIPS = 2**9  # fewer than the program draws, which is as right and takes less time
BEFORE = 10  # rounds by which the unit of the evidence is known
METRIC = MetricCard(
    name="error", title="test error", description="", unit="%", low=0.0, high=100.0, resolution=100 / IMAGES
)
AGREE = {  # deviations of images' hardness and of rounds' bad luck, that of chance being 1; and the share that is wrong
    "hardly agree on images": (0.5, 0.2, 0.05),
    "agree on images": (3.0, 0.3, 0.05),
    "differ, and agree on images": (1.0, 0.5, 0.05),
    "agree on images, 2 % wrong": (3.0, 0.3, 0.02),
    "agree on images, 0.6 % wrong": (3.0, 0.3, 0.006),
}

Array = npt.NDArray[Any]


def of_images(
    random: np.random.Generator, agree: tuple[float, float, float], number: int
) -> Iterator[tuple[str, Interval, float]]:
    """Yields each interval of two configurations tested on the same images, by name, and the truth in percent."""
    hard, bad, share = agree
    threshold = NormalDist().inv_cdf(1 - share) * math.sqrt(hard**2 + bad**2 + 1)
    shared = random.normal(size=IMAGES)
    hardness = [hard * (0.8 * shared + 0.6 * random.normal(size=IMAGES)) for _ in range(2)]  # two, of correlation 0.64
    luck = bad * random.normal(size=(number, 1))  # of a round, which both share
    wrong = [(random.standard_normal((number, IMAGES), np.float32) > threshold - one - luck) * 1.0 for one in hardness]
    errors = [100 * one.mean(axis=1) for one in wrong]
    chances = _above((threshold - np.stack(hardness)) / math.sqrt(bad**2 + 1))  # (2, M)
    here = 100 * chances.mean(axis=1)
    influences = [
        100 * (one - one.mean(axis=1, keepdims=True)) / IMAGES for one in wrong
    ]  # as ExampleOutcomes has them
    yield "mean, these images", mean_of(errors[0].tolist(), METRIC), here[0]
    by = paired_difference(errors[1].tolist(), errors[0].tolist(), METRIC)
    yield "difference, these images", by, here[1] - here[0]
    yield "mean, these images, taken for new ones", mean_of(errors[0].tolist(), METRIC), 100 * share
    if found := on_new_examples(errors[0].tolist(), influences[0], METRIC):
        yield "mean, new images", found, 100 * share
    apart = difference_of(influences[1], influences[0])
    if found := on_new_examples((errors[1] - errors[0]).tolist(), apart, METRIC):
        yield "difference, new images", found, 0.0


def _above(thresholds: Array) -> Array:
    """Returns the chance that a standard normal number is above each."""
    from scipy import special

    found: Array = special.ndtr(-thresholds)
    return found


def coverage(agree: str, number: int, studies: int) -> dict[str, tuple[int, int]]:
    """Returns of each interval how often it held the truth, of how many that there were."""
    random, found = np.random.default_rng([number, *agree.encode()]), dict[str, tuple[int, int]]()
    for _ in range(studies):
        for name, interval, truth in of_images(random, AGREE[agree], number):
            held, of = found.get(name, (0, 0))
            found[name] = held + interval.holds(truth), of + 1
    return found


ERRORS = {
    "normal": lambda random, size: random.normal(size=size),
    "very skewed (gamma, skewness 2)": lambda random, size: random.gamma(1.0, size=size),
}


def _normal(random: np.random.Generator, size: tuple[int, ...]) -> Array:
    return random.normal(size=size) - random.normal(size=size)


def _skewed(random: np.random.Generator, size: tuple[int, ...]) -> Array:
    return random.gamma(1.0, size=size) - random.gamma(1.0, size=size)


def _one_off(random: np.random.Generator, size: tuple[int, ...]) -> Array:
    return (random.random(size) < RARE) * 0.1 - (random.random(size) < RARE) * 0.1


def _other_shape(random: np.random.Generator, size: tuple[int, ...]) -> Array:
    return random.gamma(1.0, size=size) - random.normal(1.0, 1.0, size)


RARE = 0.05
DIFFERENCES = {
    "normal": _normal,
    "very skewed (gamma, skewness 2)": _skewed,
    "one example off in 5 %": _one_off,
    "of one mean, normal against very skewed": _other_shape,
}


def false_alarms(kind: str, series: int) -> tuple[int, int, int]:
    """Returns in how many series of rounds equals are told apart: by e-values at ten looks and at every round, by p.

    Evidence that never comes to 1 / level is the same as an anytime interval that always holds 0.
    """
    random = np.random.default_rng([7, *kind.encode()])
    drawn = DIFFERENCES[kind](random, (series, BEFORE + MOST))
    units = np.maximum(drawn[:, :BEFORE].std(axis=1, ddof=1), 1e-3)
    drawn = drawn[:, BEFORE:]
    evidence = np.array([log_e_values(one, unit) for one, unit in zip(drawn, units, strict=True)]) >= -math.log(LEVEL)
    looks = range(EVERY, MOST + 1, EVERY)
    by_p = np.array([np.less(sign_flips.sign_flip_p_values(drawn[:, :look].tolist())[0], LEVEL) for look in looks])
    at_looks, always = evidence[:, EVERY - 1 :: EVERY], evidence[:, FIRST_LOOK - 1 :]
    return int(at_looks.any(axis=1).sum()), int(always.any(axis=1).sum()), int(by_p.any(axis=0).sum())


def given_up(kind: str, alike: int, series: int) -> int:
    """Returns in how many series one of several that are alike is ever given up, as `hpo confirm --until-sure` does."""
    random = np.random.default_rng([8, alike, *kind.encode()])
    lost, looks = 0, slice(EVERY - 1, None, EVERY)
    for _ in range(series):
        errors = ERRORS[kind](random, (alike, BEFORE + MOST))
        by = errors[0] - errors[1:]  # (K - 1, rounds)
        units = by[:, :BEFORE].std(axis=1, ddof=1)
        means = by[:, BEFORE:].cumsum(axis=1)[:, looks]
        evidence = np.array([log_e_values(one, unit) for one, unit in zip(by[:, BEFORE:], units, strict=True)])
        strong = np.maximum.accumulate(evidence, axis=1)[:, looks] >= -math.log(LEVEL / (alike - 1))
        lost += bool((strong & (means > 0)).any())
    return lost


def of_hundred(number: int, of: int) -> str:
    """Returns a share in percent with its standard error: how sure the simulation is."""
    share = number / of
    return f"{100 * share:.1f} ± {100 * (share * (1 - share) / of) ** 0.5:.1f}"


def row(cells: Sequence[Any]) -> None:
    """Prints a row of a table in Markdown."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_tables(studies: int = STUDIES, series: int = SERIES) -> None:
    """Prints both tables."""
    sign_flips.PATTERNS = FLIPS
    print(f"How many of 100 intervals hold the truth ± standard error, of {studies} studies on {IMAGES} images each\n")
    row(["rounds that", "interval", *(f"{number} rounds" for number in ROUNDS)])
    row(["---"] * (2 + len(ROUNDS)))
    for agree in AGREE:
        cells = [coverage(agree, number, studies) for number in ROUNDS]
        for interval in cells[-1]:
            row([agree, interval, *(of_hundred(*one[interval]) for one in cells)])
    print(f"\nHow many of 100 series of {MOST} rounds tell equals apart, of {series} each\n")
    row(["errors", "e-value, 10 looks", f"e-value, every round from {FIRST_LOOK}", "p value at 10 looks"])
    row(["---"] * 4)
    for kind in DIFFERENCES:
        row([kind, *(of_hundred(number, series) for number in false_alarms(kind, series))])
    print(f"\nHow many of 100 series of {MOST} rounds give up one of several that are alike, of {series} each\n")
    row(["errors", *(f"{alike} alike" for alike in ALIKE)])
    row(["---"] * (1 + len(ALIKE)))
    for kind in ERRORS:
        row([kind, *(of_hundred(given_up(kind, alike, series), series) for alike in ALIKE)])


if __name__ == "__main__":
    print_tables()
