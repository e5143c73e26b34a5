from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.text.formatting import (
    clock,
    count,
    duration,
    figure,
    interval,
    lasted,
    p_value,
    progress,
    roughly,
    spread,
    time_left,
)
from tests.conftest import thorough


def test_one_of_a_thing_has_no_plural() -> None:
    assert [count(n, "round") for n in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]


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


def test_a_duration_where_there_is_little_room_has_no_hours_that_are_none() -> None:
    assert [clock(s) for s in (0.9, 61, 3600, 100_000)] == ["0:00", "1:01", "1:00:00", "27:46:40"]


def test_a_forecast_has_no_more_digits_than_it_deserves() -> None:
    seconds = (0, 3, 12, 54, 55, 100, 500, 3010, 5000, 5500, 7000, 86400, 400_000)
    assert [roughly(s).removeprefix("about ") for s in seconds] == [
        "10 s", "10 s", "10 s", "50 s", "1 min", "2 min", "8 min", "50 min", "85 min", "1.5 h", "2 h", "24 h", "5 days",
    ]  # fmt: skip


def test_what_was_measured_is_said_in_a_fitting_unit() -> None:
    assert [lasted(s) for s in (0, 53.4, 180, 5000, 9000)] == ["0 s", "53 s", "3 min", "83 min", "2.5 h"]


@pytest.mark.parametrize("written", [duration, clock, lasted, roughly])
def test_a_duration_can_be_written_of_any_number(written: Callable[[float], str]) -> None:
    numbers = (math.inf, 1e308, 10**400, math.nan, 4e18)
    assert [written(number) for number in numbers] == [*["over 1000 years"] * 3, "unknown", "over 1000 years"]
    assert written(-math.inf) == written(-1) == written(0)


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
    assert [p_value(p) for p in (0.031, 1e-3, 9.9e-4, 1.5e-32, 0.0)] == ["0.031", "0.001"] + ["< 0.001"] * 3
    assert p_value(None) == ""


def test_a_p_value_is_printed_on_its_own_side_of_the_level() -> None:
    assert [p_value(p) for p in (0.0496, 0.04998, 0.05, 0.0504)] == ["0.0496", "0.04998", "0.05", "0.0504"]


def test_an_interval_that_is_not_there_says_why() -> None:
    assert interval(1.7, 2.23, "%") == "1.70 to 2.23"
    assert interval(-0.5, 1.0, "%", "+") == "-0.50 to +1.00"
    assert interval(None, None, "%") == "too few rounds"


@pytest.mark.parametrize(
    ("mean", "std", "unit", "text"),
    [
        (2.083, 0.56, "%", "2.08 ± 0.56 %"),
        (99.123, 12.0, "%", "99.12 ± 12.00 %"),
        (0.97312, 0.0042, "", "0.9731 ± 0.0042"),
        (0.97312, None, "", "0.9731"),
        (0.97312, 0.0, "", "0.9731 ± 0"),
        (123456.7, 1234.5, "ms", "123457 ± 1234 ms"),
        (4.5, 11.2, "", "4 ± 11"),
        (0.0, 0.01, "", "0.000 ± 0.010"),
        (3.2e-9, 1e-10, "", "3.20e-09 ± 1.0e-10"),
        (-3.2e12, 1e10, "", "-3.200e+12 ± 1.0e+10"),
        (math.nan, 1.0, "", "nan ± 1.0"),
        (math.inf, math.inf, "", "inf ± inf"),
        (1e-320, 1e-320, "", "1.0e-320 ± 1.0e-320"),
    ],
)
def test_what_is_no_percentage_has_the_digits_that_its_deviation_leaves_it(
    mean: float, std: float | None, unit: str, text: str
) -> None:
    assert spread(mean, std, unit) == text


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["%", "", "ms"]),
)
@thorough(300)
def test_any_number_is_a_figure_and_a_finite_one_not_far_from_itself(
    value: float, scale: float | None, unit: str
) -> None:
    shown = figure(value, unit, scale)
    if abs(value) < 1e300 and unit != "%" and scale and math.isfinite(scale):
        assert abs(float(shown) - value) <= max(abs(scale), abs(value) * 1e-3)


def test_no_zero_has_a_sign_of_its_own() -> None:
    assert [figure(-0.001, unit, 0.72) for unit in ("", "%")] == ["0.00", "0.00"]
    assert figure(-0.001, "", 0.72, "+") == "+0.00"
