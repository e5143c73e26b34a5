"""Configurations that would give the same numbers again, because all trials have the same rounds.

Says what makes two of them the same, how many different ones a space has, and which is the nearest to a given one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from itertools import product
from random import Random
from typing import Any

from hpo.study.space import ONLY_WITH, Choices, Condition, Parameter, Value

Space = Mapping[str, Parameter]


def what_matters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters that have an effect: configurations that agree in them give the same numbers."""
    return {name: value for name, value in params.items() if _has_effect(name, params)}


def identity_of(params: Mapping[str, Any]) -> Hashable:
    """Returns what configurations have in common that give the same numbers."""
    return frozenset(what_matters(params).items())


def _has_effect(name: str, params: Mapping[str, Any]) -> bool:
    key, needed = ONLY_WITH.get(name, ("", None))
    return params.get(key) == needed


def in_order(space: Space) -> list[tuple[str, Parameter]]:
    """Returns the parameters in the order of their being chosen: those with a condition last."""
    return sorted(space.items(), key=lambda item: bool(item[1].when))


def size_of(parameter: Parameter) -> int | None:
    """Returns how many values a parameter takes; None where they are countless."""
    if isinstance(parameter, Choices):
        return len(parameter.choices)
    return 1 if parameter.low == parameter.high else None


def can_repeat(space: Space) -> bool:
    """Says whether a configuration can be proposed twice: not where every one has a number out of a range."""
    return not any(size_of(parameter) is None and not _conditions(name, parameter) for name, parameter in space.items())


def count_configurations(space: Space) -> int | None:
    """Returns how many configurations differ in what matters; None where they are countless."""
    deciding = sorted({key for name, parameter in space.items() for key, _ in _conditions(name, parameter)})
    total = 0
    for values in product(*(space[key].values for key in deciding)):
        chosen = dict(zip(deciding, values, strict=True))
        for_these = 1
        for name, parameter in space.items():
            if name not in deciding and all(chosen[key] == value for key, value in _conditions(name, parameter)):
                size = size_of(parameter)
                if size is None:
                    return None
                for_these *= size
        total += for_these
    return total


def _conditions(name: str, parameter: Parameter) -> list[Condition]:
    """Returns all that must hold for a parameter to be chosen and to have an effect."""
    return [*parameter.when.items(), *([ONLY_WITH[name]] if name in ONLY_WITH else [])]


def neighbours(space: Space, proposed: Mapping[str, Any], random: Random) -> Iterator[dict[str, Value]]:
    """Yields the configurations of a space that differ in what matters, the nearest to a proposed one first.

    Its last parameters change first. Of a range there is one number in each, drawn afresh.
    """

    def choose(chosen: dict[str, Value], parameters: list[tuple[str, Parameter]]) -> Iterator[dict[str, Value]]:
        if not parameters:
            yield chosen
            return
        (name, parameter), *others = parameters
        if any(chosen[key] != value for key, value in parameter.when.items()):
            yield from choose(chosen, others)
            return
        for value in _values(parameter, proposed.get(name), random):
            yield from choose({**chosen, name: value}, others)
            if not _has_effect(name, chosen):
                break

    yield from choose({}, sorted(space.items(), key=lambda item: bool(_conditions(*item))))


def _values(parameter: Parameter, first: Value | None, random: Random) -> Iterator[Value]:
    """Yields all choices in a random order, but for the one that comes first; or one number of a range."""
    if isinstance(parameter, Choices):
        yield from (choice for choice in parameter.choices if choice == first)
        others = [choice for choice in parameter.choices if choice != first]
        yield from random.sample(others, len(others))
        return
    low, high = parameter.low, parameter.high
    drawn = math.exp(random.uniform(math.log(low), math.log(high))) if parameter.log else random.uniform(low, high)
    yield min(high, max(low, drawn))  # the logarithm rounds
