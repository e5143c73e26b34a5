"""What a trial can be: a configuration, and the space that a sampler searches for one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from hpo import limits
from hpo.errors import suggestion
from hpo.study.schema import Factor, Table, explain, shown

Value = bool | int | float | str
Condition = tuple[str, Value]
ONLY_WITH: Mapping[str, Condition] = {"elu_alpha": ("activation", "elu"), "auxiliary_share": ("auxiliary_loss", True)}
"""What else must be so for a parameter to have an effect."""


def _is_value(given: Any) -> Any:
    if isinstance(given, bool | int | str) or (isinstance(given, float) and math.isfinite(given)):
        return given
    raise ValueError(f"must be a finite number, a text, true or false, but is {shown(given)}")


Given = Annotated[Value, PlainValidator(_is_value)]  # pydantic's own check would complain once for each of the four


class Setup(Table):
    """A configuration but for its learning rate: what a range test is made of.

    Attributes:
        architecture: the name of a function in `models/`.
        auxiliary_share: report B's α (equation 1): with auxiliary loss the loss is (1 - α) L1 + α (L2 + L3); None
            leaves the weights to the protocol.
        elu_alpha: ELU's alpha; without effect for other activations.
    """

    architecture: str
    weight_sharing: bool
    auxiliary_loss: bool
    auxiliary_share: Annotated[float | None, Field(ge=0, le=1)] = None
    activation: Literal["relu", "leaky_relu", "elu", "selu"]
    elu_alpha: Factor = 1.0
    optimizer: Literal["sgd", "rmsprop", "adam"]


class Configuration(Setup):
    """One configuration: what a trial measures."""

    learning_rate: Factor


RANGE_TEST: Literal["range_test"] = "range_test"


class ListedConfiguration(Setup):
    """A configuration as a list of trials has it: its rate may be left to a range test, which is made when it runs."""

    learning_rate: float | Literal["range_test"]

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _is_rate(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == RANGE_TEST or (number and limits.SMALLEST <= value <= limits.LARGEST):
            return float(value) if number else value
        raise ValueError(
            f"must be a number from {limits.SMALLEST:g} to {limits.LARGEST:g} or {RANGE_TEST!r}, but is {shown(value)}"
        )


def short_name(params: Mapping[str, Any]) -> str:
    """Returns `cnn_bn+ws+al leaky_relu sgd 0.1383`: flags by their initials, the rest by value."""
    flags = [initials for name, initials in (("weight_sharing", "ws"), ("auxiliary_loss", "al")) if params.get(name)]
    share = f"({params['auxiliary_share']:.3g})" if params.get("auxiliary_share") is not None else ""
    elu = f"({params['elu_alpha']:.2f})" if params.get("activation") == "elu" and "elu_alpha" in params else ""
    rate = params.get("learning_rate")
    parts = [
        "+".join([str(params.get("architecture", "")), *flags]) + share,
        f"{params.get('activation', '')}{elu}",
        str(params.get("optimizer", "")),
        f"{rate:.4g}" if isinstance(rate, float) else str(rate or ""),
    ]
    return " ".join(part for part in parts if part)


class Choices(Table):
    """A parameter that takes one of some values, where the condition `when` holds."""

    choices: Annotated[tuple[Given, ...], Field(min_length=1, strict=False)]
    when: dict[str, Given] = {}

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: tuple[Value, ...]) -> tuple[Value, ...]:
        seen = set()
        for choice in choices:
            kind = isinstance(choice, bool), choice  # 1 and 1.0 are one number, but no truth value
            if kind in seen:
                raise ValueError(f"its values must differ, but {shown(choice)} stands twice")
            seen.add(kind)
        return choices

    @property
    def values(self) -> tuple[Value, ...]:
        """What a value must pass as: here, every choice."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Says whether a value is one of the choices; 1 is not true."""
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.choices))


class Range(Table):
    """A number between low and high, both included; uniform, or uniform in its logarithm.

    Where the condition `when` holds.
    """

    low: float
    high: float
    log: bool = False
    when: dict[str, Given] = {}

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, but low is {self.low:g} and high is {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 on a log scale, but is {self.low:g}")
        return self

    @property
    def values(self) -> tuple[Value, ...]:
        """What a value must pass as: here, both ends."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Says whether a value is a number in the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


def _parameter(given: Any) -> Any:
    """Reads the short forms of a parameter: a list is choices, a bare value the only choice."""
    if isinstance(given, Table):
        return given
    if isinstance(given, dict):
        return Choices(**given) if "choices" in given else Range(**given)
    return Choices(choices=tuple(given) if isinstance(given, list | tuple) else (given,))


Parameter = Choices | Range
GivenParameter = Annotated[Parameter, BeforeValidator(_parameter)]


def check_space(space: Mapping[str, Parameter]) -> None:
    """Holds every parameter of a space against the rules of a configuration.

    Raises:
        ValueError: that names the parameter.
    """
    fields = Configuration.model_fields
    for name, parameter in space.items():
        if name not in fields:
            raise ValueError(f"space: no parameter named {name!r}; {suggestion(name, fields)}")
        kind: Any = Annotated[fields[name].annotation, Field(), *fields[name].metadata]
        rule: TypeAdapter[Any] = TypeAdapter(kind)
        for value in parameter.values:
            try:
                rule.validate_python(value, strict=True)
            except ValidationError as error:
                raise ValueError(f"space.{name}: {explain(error)}") from error
        if isinstance(parameter, Range) and float not in (fields[name].annotation, *get_args(fields[name].annotation)):
            raise ValueError(f"space.{name} must be a list of choices, but is a range")
        _check_condition(name, parameter, space)
    if space and (
        missing := sorted(name for name, field in fields.items() if field.is_required() and name not in space)
    ):
        raise ValueError(f"space lacks {', '.join(missing)}; a fixed value will do, as in {missing[0]} = …")


def _check_condition(name: str, parameter: Parameter, space: Mapping[str, Parameter]) -> None:
    if parameter.when and Configuration.model_fields[name].is_required():
        raise ValueError(f"space.{name} is needed in every trial, so it can have no 'when'")
    for key, value in parameter.when.items():
        condition = space.get(key)
        if not isinstance(condition, Choices) or condition.when or key in ONLY_WITH:
            raise ValueError(
                f"space.{name}.when must name a parameter with choices and no condition of its own, but names {key!r}"
            )
        if value not in condition.choices:
            raise ValueError(
                f"space.{name}.when: {key} is never {value!r}; {suggestion(str(value), map(str, condition.choices))}"
            )
