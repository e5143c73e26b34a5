"""Configurations that would give the same numbers again, because all trials have the same rounds.

Says how many different ones a space has, and which is the nearest to a given one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import product, zip_longest
from random import Random

from hpo.study.space import Choices, IntRange, Parameter, Space, all_values, in_order, is_there
from hpo.study.task import Params, Value


def identity_of(params: Params) -> Hashable:
    """Returns what configurations have in common that give the same numbers; what has no effect is not among them."""
    return frozenset(params.items())


def can_repeat(space: Space) -> bool:
    """Says whether a configuration can be proposed twice: not where every one has a number out of a range."""
    return not any(parameter.size is None and not parameter.when for parameter in space.values())


def count_configurations(space: Space) -> int | None:
    """Returns how many configurations there are; None where they are countless."""
    deciding = sorted({key for parameter in space.values() for key in parameter.when})
    total = 0
    for values in product(*(_deciding(space[key]) for key in deciding)):
        chosen = dict(zip(deciding, values, strict=True))
        for_these = 1
        for name, parameter in space.items():
            if name not in deciding and is_there(parameter, chosen):
                if parameter.size is None:
                    return None
                for_these *= parameter.size
        total += for_these
    return total


def configurations(space: Space) -> Iterator[dict[str, Value]]:
    """Yields the configurations of a space without ranges of floats, the last parameter changing first."""
    return _combined(in_order(space), lambda name, parameter: _all_values(parameter), {})


def neighbours(space: Space, proposed: Params, random: Random) -> Iterator[dict[str, Value]]:
    """Yields the configurations of a space, the nearest to a proposed one first.

    Its last parameters change first. Of a range of floats there is one number in each, drawn afresh.
    """
    return _combined(in_order(space), lambda name, parameter: _values(parameter, proposed.get(name), random), {})


def _combined(
    parameters: Sequence[tuple[str, Parameter]],
    values_of: Callable[[str, Parameter], Iterable[Value]],
    chosen: dict[str, Value],
) -> Iterator[dict[str, Value]]:
    """Yields every combination of values, a parameter where its condition holds among those before it."""
    if not parameters:
        yield chosen
        return
    (name, parameter), *others = parameters
    if not is_there(parameter, chosen):
        yield from _combined(others, values_of, chosen)
        return
    for value in values_of(name, parameter):
        yield from _combined(others, values_of, {**chosen, name: value})


def _all_values(parameter: Parameter) -> Iterable[Value]:
    return parameter.values[:1] if parameter.size == 1 else _deciding(parameter)


def _deciding(parameter: Parameter) -> tuple[Value, ...]:
    if not isinstance(parameter, Choices | IntRange):
        raise TypeError("the values of a range of floats cannot be listed")
    return all_values(parameter)


def _values(parameter: Parameter, first: Value | None, random: Random) -> Iterator[Value]:
    """Yields all values of a parameter, that which comes first and then the others; one number of a range of floats."""
    if isinstance(parameter, Choices):
        yield from (choice for choice in parameter.choices if choice == first)
        others = [choice for choice in parameter.choices if choice != first]
        yield from random.sample(others, len(others))
    elif isinstance(parameter, IntRange):
        yield from _from_the_middle(parameter, first if isinstance(first, int) else _drawn_int(parameter, random))
    else:
        low, high = parameter.low, parameter.high
        drawn = math.exp(random.uniform(math.log(low), math.log(high))) if parameter.log else random.uniform(low, high)
        yield min(high, max(low, drawn))  # the logarithm rounds


def _drawn_int(parameter: IntRange, random: Random) -> int:
    return parameter.low + parameter.step * random.randrange(parameter.size)


def _from_the_middle(parameter: IntRange, middle: int) -> Iterator[int]:
    """Yields a number of a range, and then the others, the nearest first."""
    above = range(middle + parameter.step, parameter.high + 1, parameter.step)
    below = range(middle - parameter.step, parameter.low - 1, -parameter.step)
    yield middle
    for pair in zip_longest(below, above):
        yield from (number for number in pair if number is not None)
