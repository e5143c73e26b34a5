"""How numbers are written for people: counts with their noun, errors with their spread, durations, intervals, p values.

Every function takes whatever number it is given: what a database holds may come from another program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

LONGEST_SECONDS = 1000 * 365.25 * 86_400
LONGEST = 8  # digits of a number that is written without an exponent
DUST = 1e-9  # of a number: what it varies by, where that is rounding alone
SMALLEST_P = 1e-3  # below, a p value says more of a distribution's tail than of the rounds
LEVEL = 0.05  # of a p value, which no other is printed as


def count(number: int, noun: str) -> str:
    """Returns `1 round`, `2 rounds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def join_words(words: Sequence[str]) -> str:
    """Returns `A`, `A and B`, `A, B and C`."""
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), *words[-1:]])


def progress(finished: int, target: int | None) -> str:
    """Returns `3/40`, or where more are finished than are asked for by now, `40 (30 asked)`."""
    if target is not None and finished > target:
        return f"{finished} ({target} asked)"
    return f"{finished}/{'?' if target is None else target}"


def figure(value: float, unit: str, scale: float | None = None, sign: str = "") -> str:
    """Returns `2.08`: a metric's value, without its unit.

    A percentage has two decimals; any other as many as leave two digits of its scale, or of itself four digits.

    Args:
        scale: what it varies by, as its deviation.
        sign: `+` gives positive numbers a sign too.
    """
    if unit == "%":
        return f"{_rounded(value, 2):{sign}.2f}"
    if not scale or not math.isfinite(scale) or not math.isfinite(value) or scale < DUST * abs(value):
        return f"{value:{sign}.4g}"
    decimals = 1 - math.floor(math.log10(abs(scale)))
    digits = decimals + (math.floor(math.log10(abs(value))) + 1 if value else 0)
    if value and (max(decimals, digits) > LONGEST or decimals < 1 - LONGEST):
        return f"{value:{sign}.{max(1, min(digits, LONGEST)) - 1}e}"
    decimals = min(max(0, decimals), LONGEST)
    return f"{_rounded(value, decimals):{sign}.{decimals}f}"


def _rounded(value: float, decimals: int) -> float:
    """Returns a number with so many decimals, and 0 without a sign."""
    return round(value, decimals) + 0.0 if math.isfinite(value) else value


def mean_and_deviation(mean: float, std: float | None, unit: str) -> str:
    """Returns `2.08 ± 0.56`, the unit standing elsewhere; the mean alone where there is no deviation."""
    if std is None:
        return figure(mean, unit)
    return f"{figure(mean, unit, std)} ± {figure(std, unit, std)}"


def spread(mean: float, std: float | None, unit: str) -> str:
    """Returns `2.08 ± 0.56 %`."""
    return with_unit(mean_and_deviation(mean, std, unit), unit)


def rounds_on(number: int, dataset: str, kind: str = "round", word: str = "on") -> str:
    """Returns `5 rounds on mnist`; without the dataset where a study names none."""
    return f"{count(number, kind)} {word} {dataset}" if dataset else count(number, kind)


def over_rounds(number: int, dataset: str) -> str:
    """Returns `mean and deviation of 5 rounds on mnist`, of what a figure is; of one round there is no deviation."""
    return rounds_on(number, dataset) if number == 1 else f"mean and deviation of {rounds_on(number, dataset)}"


def capitalized(text: str) -> str:
    """Returns `Test MSE`, which str.capitalize would make `Test mse`."""
    return text[:1].upper() + text[1:]


def with_unit(text: str, unit: str) -> str:
    """Returns `2.08 %`; a number without a unit as it is."""
    return f"{text} {unit}" if unit else text


def change(by: float, unit: str, scale: float | None = None) -> str:
    """Returns `+0.57`: a difference, without its unit; `scale` as in `figure`."""
    return figure(by, unit, scale, "+")


def points(difference: str, unit: str) -> str:
    """Returns a difference between two errors with its unit: `0.57 points` between percentages."""
    return with_unit(difference, "points" if unit == "%" else unit)


def duration(seconds: float) -> str:
    """Returns `0:21:07`."""
    return _no_duration(seconds) or str(timedelta(seconds=round(max(0.0, seconds))))


def clock(seconds: float) -> str:
    """Returns `4:07`, or `1:04:07`: a duration where there is little room."""
    if found := _no_duration(seconds):
        return found
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def lasted(seconds: float) -> str:
    """Returns `40 s`, `7 min`, `2.5 h`: what was measured, in a fitting unit."""
    if found := _no_duration(seconds):
        return found
    minutes = max(0.0, seconds) / 60
    if minutes < 2:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def roughly(seconds: float) -> str:
    """Returns `about 40 s`, `about 7 min`, `about 50 min`, `about 2.5 h`: no more digits than a forecast has."""
    if found := _no_duration(seconds):
        return found
    if seconds < 55:
        return f"about {10 * max(1, round(max(0.0, seconds) / 10))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {max(1, round(minutes)) if minutes < 10 else 5 * round(minutes / 5)} min"
    hours = minutes / 60
    if hours < 10:
        return f"about {round(2 * hours) / 2:g} h"
    return f"about {hours:.0f} h" if hours < 48 else f"about {hours / 24:.0f} days"


def _no_duration(seconds: float) -> str:
    """Returns what to say of a number that is no duration; nothing of one that is."""
    if seconds > LONGEST_SECONDS:
        return "over 1000 years"
    return "unknown" if math.isnan(seconds) else ""


def time_left(trials: int, trials_per_hour: float | None) -> float | None:
    """Returns the seconds that so many trials will take; None where nothing can be foretold."""
    if trials <= 0:
        return 0.0
    if not trials_per_hour:
        return None
    try:
        seconds = trials / trials_per_hour * 3600
    except OverflowError:  # an integer that no float holds
        return None
    return seconds if math.isfinite(seconds) else None


def interval(low: float | None, high: float | None, unit: str, sign: str = "") -> str:
    """Returns `1.70 to 2.23`, with a sign of `+` also `+0.91 to +1.83`; where there is none, the reason."""
    if low is None or high is None:
        return "too few rounds"
    return " to ".join(figure(end, unit, high - low, sign) for end in (low, high))


def p_value(p: float | None) -> str:
    """Returns `0.031`, or `< 0.001`; nothing where there is none. It is on the same side of 0.05 as the number."""
    if p is None:
        return ""
    if p < SMALLEST_P:
        return f"< {SMALLEST_P:g}"
    digits = 2
    while p != LEVEL and float(f"{p:.{digits}g}") == LEVEL:
        digits += 1
    return f"{p:.{digits}g}"


def text_of(value: Any) -> str:
    """Returns a parameter's value as it stands in a study's file, floats to four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
