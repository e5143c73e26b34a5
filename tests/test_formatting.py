from __future__ import annotations

import math

import pytest

from hpo.formatting import count, duration, interval, p_value, progress, time_left


def test_one_of_a_thing_has_no_plural() -> None:
    assert [count(n, "round") for n in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]
    assert count(3, "batch", "batches") == "3 batches"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1267, "0:21:07"),
        (90_061.4, "1 day, 1:01:01"),
        (-1, "0:00:00"),
        (-math.inf, "0:00:00"),
        (math.nan, "unknown"),
        (math.inf, "over 1000 years"),
        (1e308, "over 1000 years"),
        (10**400, "over 1000 years"),
        (31_557_600_000, "365250 days, 0:00:00"),
    ],
)
def test_any_number_of_seconds_is_a_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("trials", "per_hour", "seconds"),
    [
        (30, 60.0, 1800.0),
        (0, None, 0.0),
        (-5, 60.0, 0.0),
        (5, None, None),
        (5, 0.0, None),
        (10**15, 30.0, 1.2e17),
        (10**400, 1.0, None),
        (10**300, 1e-10, None),
    ],
)
def test_the_time_that_is_left_is_a_number_or_unknown(
    trials: int, per_hour: float | None, seconds: float | None
) -> None:
    assert time_left(trials, per_hour) == seconds


def test_more_trials_than_are_asked_for_are_no_fraction() -> None:
    assert progress(3, 40) == "3/40"
    assert progress(40, 30) == "40 (30 asked)"
    assert progress(3, None) == "3/?"


def test_a_p_value_is_never_printed_as_zero() -> None:
    assert [p_value(p) for p in (0.031, 1e-4, 9.9e-5, 1.5e-32, 0.0)] == ["0.031", "0.0001"] + ["< 0.0001"] * 3
    assert p_value(None) == ""


def test_an_interval_that_is_not_there_says_why() -> None:
    assert interval(1.7, 2.23) == "1.70 to 2.23"
    assert interval(-0.5, 1.0, "+") == "-0.50 to +1.00"
    assert interval(None, None) == "too few rounds"
