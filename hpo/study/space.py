"""The space that a sampler searches: parameters by name, each with its choices or its range, and its condition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainValidator, field_validator, model_validator

from hpo.errors import suggestion
from hpo.study.schema import ABOVE_ZERO_ON_LOG, Table, shown
from hpo.study.task import Params, Value

RANGE_TEST = "range_test"
"""What a listed trial says for a learning rate that a range test is to find when it runs."""
LEARNING_RATE = "learning_rate"


def _is_value(given: Any) -> Any:
    if isinstance(given, bool | int | str) or (isinstance(given, float) and math.isfinite(given)):
        return given
    raise ValueError(f"must be a finite number, a text, true or false, but is {shown(given)}")


Values = Annotated[list[Value], Field(min_length=1)]
Given = Annotated[
    Value, PlainValidator(_is_value, json_schema_input_type=Value)
]  # pydantic's own check would complain once for each of the four


def _is_wanted(given: Any) -> Any:
    if not isinstance(given, list | tuple):
        return _is_value(given)
    if not given:
        raise ValueError("must name a value, but names none")
    return tuple(map(_is_value, given))


Wanted = Annotated[
    Any, PlainValidator(_is_wanted, json_schema_input_type=Value | Values)
]  # Value | tuple[Value, ...], which pydantic would try in turn
When = dict[str, Wanted]
"""The value that other parameters must have for a parameter to be there; or several, of which they must have one."""
MOST_DECIDING = 100  # values of a whole number that decides which parameters there are

COLUMNS = (
    *("number", "state", "value", "std", "label", "published_mean", "published_std"),
    *("seconds", "device", "precision", "error"),
    *("diverged_percent", "diverged_percent_low", "diverged_percent_high"),
    *("converged_mean", "converged_mean_low", "converged_mean_high"),
)
"""What stands beside the parameters in a row of a trial, besides its rounds."""


class Choices(Table):
    """A parameter that takes one of some values."""

    choices: Annotated[tuple[Given, ...], Field(min_length=1, strict=False)]
    when: When = {}

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: tuple[Value, ...]) -> tuple[Value, ...]:
        seen = set()
        for choice in choices:
            kind = isinstance(choice, bool), choice  # 1 and 1.0 are one number, but no truth value
            if kind in seen:
                raise ValueError(f"its values must differ, but {shown(choice)} stands twice")
            seen.add(kind)
        if {isinstance(choice, bool) for choice in choices if not isinstance(choice, str)} == {True, False}:
            raise ValueError(f"its values must not be truth values and numbers, but are {shown(choices)}")
        return choices

    @property
    def values(self) -> tuple[Value, ...]:
        """What a value must pass as: here, every choice."""
        return self.choices

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.choices)

    def holds(self, value: Any) -> bool:
        """Says whether a value is one of the choices; 1 is not true."""
        return any(isinstance(value, bool) == isinstance(choice, bool) and value == choice for choice in self.choices)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.choices))


class FloatRange(Table):
    """A number between low and high, both included; uniform, or uniform in its logarithm."""

    model_config = ABOVE_ZERO_ON_LOG

    low: float
    high: float
    log: bool = False
    when: When = {}

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self

    @property
    def values(self) -> tuple[Value, Value]:
        """What a value must pass as: here, both ends."""
        return (self.low, self.high)

    @property
    def size(self) -> int | None:
        """1 where there is one number, else None: they are countless."""
        return 1 if self.low == self.high else None

    def holds(self, value: Any) -> bool:
        """Says whether a value is a number in the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


class IntRange(Table):
    """A whole number: low, low + step, low + 2 step …, up to high; uniform, or uniform in its logarithm."""

    model_config = ABOVE_ZERO_ON_LOG

    low: int
    high: int
    step: Annotated[int, Field(ge=1)] = 1
    log: bool = False
    when: When = {}

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError(f"step must be 1 on a log scale, but is {self.step}")
        if (self.high - self.low) % self.step:
            raise ValueError(
                f"high must be low plus some steps, but low is {shown(self.low)}, step {shown(self.step)} and high "
                f"{shown(self.high)}"
            )
        return self

    @property
    def values(self) -> tuple[Value, Value]:
        """What a value must pass as: here, both ends."""
        return (self.low, self.high)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return (self.high - self.low) // self.step + 1

    def holds(self, value: Any) -> bool:
        """Says whether a value is one of the numbers."""
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and self.low <= value <= self.high and not (value - self.low) % self.step

    def __str__(self) -> str:
        steps = "" if self.step == 1 else f" in steps of {self.step}"
        return f"a whole number between {self.low} and {self.high}{steps}"


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"low must not be above high, but low is {_number(low)} and high is {_number(high)}")
    if log and low <= 0:
        raise ValueError(f"low must be above 0 on a log scale, but is {_number(low)}")


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


Parameter = Choices | FloatRange | IntRange
Space = Mapping[str, Parameter]


def _parameter(given: Any) -> Any:
    """Reads the short forms of a parameter: a list is choices, a bare value the only choice."""
    if isinstance(given, Table):
        return given
    if not isinstance(given, dict):
        return Choices(choices=tuple(given) if isinstance(given, list | tuple) else (given,))
    if "choices" in given:
        return Choices(**given)
    ends = (given.get("low"), given.get("high"))
    return (IntRange if all(type(end) is int for end in ends) else FloatRange)(**given)


GivenParameter = Annotated[
    Parameter, BeforeValidator(_parameter, json_schema_input_type=Value | Values | Choices | FloatRange | IntRange)
]


def in_order(space: Space) -> list[tuple[str, Parameter]]:
    """Returns the parameters in the order of their being chosen: those with a condition after those that it names."""

    def place(parameter: Parameter) -> int:
        return max((1 + place(space[key]) for key in parameter.when if key in space), default=0)

    return sorted(space.items(), key=lambda item: place(item[1]))


def is_there(parameter: Parameter, params: Params) -> bool:
    """Says whether a parameter's condition holds among parameters that are chosen before."""
    return all(key in params and meets(wanted, params[key]) for key, wanted in parameter.when.items())


def is_always_there(parameter: Parameter, space: Space) -> bool:
    """Says whether a parameter is there whatever values the others have."""
    deciding = ((wanted, space[key]) for key, wanted in parameter.when.items())
    return all(
        isinstance(other, Choices) and not other.when and all(meets(wanted, choice) for choice in other.choices)
        for wanted, other in deciding
    )


def one_of(wanted: Value | tuple[Value, ...]) -> str:
    """Returns `'elu'`, or `2 or 3`: what a condition wants, as it stands in a sentence."""
    return " or ".join(map(shown, wanted)) if isinstance(wanted, tuple) else shown(wanted)


def meets(wanted: Value | tuple[Value, ...], value: Value) -> bool:
    """Says whether a value is the one that a condition wants, or one of those."""
    return value in wanted if isinstance(wanted, list | tuple) else value == wanted


def possible(wanted: Any, parameter: Parameter | None) -> Any:
    """Returns those of the values that a task's condition wants which a study's parameter can have, if it can have any.

    So a study may name some of the architectures that have a width, say, and need not name all.
    """
    if parameter is None or not isinstance(wanted, tuple):
        return wanted
    known = tuple(value for value in wanted if parameter.holds(value))
    return known[0] if len(known) == 1 else known or wanted


def is_within(wanted: Value | tuple[Value, ...], other: Value | tuple[Value, ...]) -> bool:
    """Says whether all that one condition wants meets another."""
    return all(meets(other, value) for value in (wanted if isinstance(wanted, tuple) else (wanted,)))


def check_names(parameters: Iterable[str]) -> None:
    """Makes sure that no parameter has the name of something else that stands beside it in a row of a trial.

    Raises:
        ValueError: that names the parameter.
    """
    for name in parameters:
        if name in COLUMNS or name.startswith("round "):
            raise ValueError(f"a parameter cannot be called {name!r}, for every table of trials has that column")


def check_conditions(space: Space) -> None:
    """Makes sure that every condition names values of a parameter that is always there, and has few.

    Raises:
        ValueError: that names the parameter.
    """
    for name, parameter in space.items():
        for key, wanted in parameter.when.items():
            condition = space.get(key)
            if not isinstance(condition, Choices | IntRange) or condition.size > MOST_DECIDING:
                raise ValueError(
                    f"space.{name}.when must name a parameter with choices, or with at most {MOST_DECIDING} whole "
                    f"numbers, but names {key!r}"
                )
            if not all(of in space for of in condition.when) or not is_always_there(condition, space):
                there = " and ".join(f"{of} is {one_of(value)}" for of, value in condition.when.items())
                raise ValueError(
                    f"space.{name}.when must name a parameter that is always there, but {key!r} is there only where "
                    f"{there}"
                )
            values = wanted if isinstance(wanted, tuple) else (wanted,)
            if never := [value for value in values if not condition.holds(value)]:
                known = suggestion(str(never[0]), map(str, all_values(condition)))
                of = one_of(tuple(never) if len(never) > 1 else never[0])
                raise ValueError(f"space.{name} is there only where {key} is {of}, which it never is; {known}")


def all_values(parameter: Choices | IntRange) -> tuple[Value, ...]:
    """Returns every value that a parameter can have."""
    if isinstance(parameter, Choices):
        return parameter.choices
    return tuple(range(parameter.low, parameter.high + 1, parameter.step))
