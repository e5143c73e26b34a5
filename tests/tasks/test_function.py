"""A function as a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hpo.errors import StudyError
from hpo.study.task import Measurement, Round
from hpo.tasks.function import Function

ROUNDS = [Round(number, 7) for number in range(3)]
SEEDS = [one.seed("function") for one in ROUNDS]


def measured(function: Callable[..., Any], params: dict[str, Any] | None = None, **settings: Any) -> list[Measurement]:
    task, _ = Function.of(function, settings, "mine")
    task.open("cpu")
    return list(task.measure(params or {}, ROUNDS))


def test_every_round_is_a_call_with_a_seed_of_its_own() -> None:
    (one,) = measured(lambda params, seed: params["x"] + seed, {"x": 0.5})
    assert (one.step, one.fraction, one.errors) == (1, 1.0, {"error": [seed + 0.5 for seed in SEEDS]})
    assert len(set(SEEDS)) == 3


def test_a_function_may_change_what_it_is_given() -> None:
    def greedy(params: dict[str, Any], seed: int) -> float:
        return float(params.pop("x"))

    assert measured(greedy, {"x": 2.0})[0].errors == {"error": [2.0] * 3}


@pytest.mark.parametrize("number", [3, 3.0, np.float32(3), np.int64(3), np.array(3.0), torch.tensor(3.0)])
def test_a_number_is_one_of_any_library(number: Any) -> None:
    assert measured(lambda params, seed: number)[0].errors == {"error": [3.0] * 3}


@pytest.mark.parametrize(
    "result", [None, "3", True, [3.0], (1.0,), {"error": 1.0}, np.zeros(2), torch.zeros(1, 1), 1j, object()]
)
def test_what_is_no_number_is_refused(result: Any) -> None:
    with pytest.raises(TypeError, match="mine must return a number, but came to"):
        measured(lambda params, seed: result)


@pytest.mark.parametrize("result", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_counts_as_the_worst_or_fails(result: float) -> None:
    with pytest.raises(ValueError, match=r"mine came to .*; task\.worst"):
        measured(lambda params, seed: result)
    (one,) = measured(lambda params, seed: result if seed == SEEDS[1] else 1.0, worst=9.0)
    assert (one.errors, one.diverged) == ({"error": [1.0, 9.0, 1.0]}, [1])


def stages(params: dict[str, Any], seed: int) -> Iterator[float]:
    """Yields 3, 2, 1, but in its second round once less."""
    for error in range(3, 0 if seed != SEEDS[1] else 1, -1):
        yield float(error)


def test_rounds_yield_in_turn_and_one_that_ends_keeps_its_last() -> None:
    found = measured(stages)
    assert [one.errors["error"] for one in found] == [[3.0] * 3, [2.0] * 3, [1.0, 2.0, 1.0]]
    assert [(one.step, one.fraction) for one in found] == [(1, None), (2, None), (3, 1.0)]
    assert [one.fraction for one in measured(stages, steps=3)] == [1 / 3, 2 / 3, 1.0]
    assert [one.fraction for one in measured(stages, steps=10)] == [0.1, 0.2, 1.0]  # it ended earlier


def test_a_generator_that_is_left_is_closed() -> None:
    closed = []

    def endless(params: dict[str, Any], seed: int) -> Iterator[float]:
        try:
            while True:
                yield 1.0
        finally:
            closed.append(seed)

    task, _ = Function.of(endless, {}, "mine")
    steps = task.measure({}, ROUNDS)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert sorted(closed) == sorted(SEEDS)


def test_a_generator_that_says_otherwise_than_it_does_is_refused() -> None:
    with pytest.raises(ValueError, match=r"yields more often than task\.steps = 2 says"):
        measured(stages, steps=2)

    def nothing(params: dict[str, Any], seed: int) -> Iterator[float]:
        yield from ()

    with pytest.raises(ValueError, match="yields nothing"):
        measured(nothing)


def test_one_that_asks_for_the_device_is_given_it() -> None:
    task, _ = Function.of(lambda params, seed, device: len(device), {}, "mine")
    for device, length in (("cpu", 3), ("cuda:1", 6)):
        task.open(device)
        assert next(task.measure({}, ROUNDS)).errors == {"error": [length] * 3}


async def waits(params: dict[str, Any], seed: int) -> float:
    return 1.0


@pytest.mark.parametrize("function", [lambda: 1, lambda params: 1, lambda params, seed, more: 1, waits, min])
def test_what_cannot_be_called_with_params_and_seed_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(StudyError, match="mine"):
        Function.of(function, {}, "mine")
