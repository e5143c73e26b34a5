"""What a trial can be: a configuration, and the space that a sampler searches for one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from itertools import product
from random import Random
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

from . import limits
from .errors import suggestion
from .tables import Factor, Table, explain, shown

Value = bool | int | float | str


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
ONLY_WITH: Mapping[str, tuple[str, Value]] = {
    "elu_alpha": ("activation", "elu"),
    "auxiliary_share": ("auxiliary_loss", True),
}
"""What else must hold for a parameter to have an effect."""


def what_matters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters that have an effect: configurations that agree in them give the same numbers."""
    return {name: value for name, value in params.items() if _has_effect(name, params)}


def identity_of(params: Mapping[str, Any]) -> Hashable:
    """Returns what two sets of parameters have in common if their rounds give the same numbers."""
    return frozenset(what_matters(params).items())


def _has_effect(name: str, params: Mapping[str, Any]) -> bool:
    key, needed = ONLY_WITH.get(name, ("", None))
    return params.get(key) == needed


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

    @property
    def size(self) -> int | None:
        """How many values it takes."""
        return len(self.choices)

    def ordered(self, first: Value | None, random: Random) -> Iterator[Value]:
        """Yields every value in a random order, but for the one that comes first, if it is one."""
        others = [choice for choice in self.choices if choice != first]
        yield from (choice for choice in self.choices if choice == first)
        yield from random.sample(others, len(others))


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

    @property
    def size(self) -> int | None:
        """How many values it takes; None where they are countless."""
        return 1 if self.low == self.high else None

    def ordered(self, first: Value | None, random: Random) -> Iterator[Value]:
        """Yields one value, drawn afresh: it is new, as far as floats can be."""
        if self.log:
            drawn = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = random.uniform(self.low, self.high)
        yield min(self.high, max(self.low, drawn))


def _parameter(given: Any) -> Any:
    """Reads the short forms of a parameter: a list is choices, a bare value the only choice."""
    if isinstance(given, Table):
        return given
    if isinstance(given, dict):
        return Choices(**given) if "choices" in given else Range(**given)
    return Choices(choices=tuple(given) if isinstance(given, list | tuple) else (given,))


Parameter = Annotated[Choices | Range, BeforeValidator(_parameter)]


def check_space(space: Mapping[str, Choices | Range]) -> None:
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


def _check_condition(name: str, parameter: Choices | Range, space: Mapping[str, Choices | Range]) -> None:
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


Space = Mapping[str, Choices | Range]


def in_order(space: Space) -> list[tuple[str, Choices | Range]]:
    """Returns the parameters in the order of their being chosen: those with a condition last."""
    return sorted(space.items(), key=lambda item: bool(item[1].when))


def can_repeat(space: Space) -> bool:
    """Says whether a configuration can be proposed twice: not where every one has a number out of a range."""
    return not any(parameter.size is None and not _conditions(name, parameter) for name, parameter in space.items())


def count_configurations(space: Space) -> int | None:
    """Returns how many configurations differ in what matters; None where they are countless."""
    deciding = sorted({key for name, parameter in space.items() for key, _ in _conditions(name, parameter)})
    total = 0
    for values in product(*(space[key].values for key in deciding)):
        chosen = dict(zip(deciding, values, strict=True))
        for_these = 1
        for name, parameter in space.items():
            if name not in deciding and all(chosen[key] == value for key, value in _conditions(name, parameter)):
                if parameter.size is None:
                    return None
                for_these *= parameter.size
        total += for_these
    return total


def _conditions(name: str, parameter: Choices | Range) -> list[tuple[str, Value]]:
    """Returns all that must hold for a parameter to be chosen and to have an effect."""
    return [*parameter.when.items(), *([ONLY_WITH[name]] if name in ONLY_WITH else [])]


def neighbours(space: Space, proposed: Mapping[str, Any], random: Random) -> Iterator[dict[str, Value]]:
    """Yields the configurations of a space that differ in what matters, the nearest to a proposed one first.

    Its last parameters change first. Of a range there is one number in each, drawn afresh.
    """

    def choose(chosen: dict[str, Value], parameters: list[tuple[str, Choices | Range]]) -> Iterator[dict[str, Value]]:
        if not parameters:
            yield chosen
            return
        (name, parameter), *others = parameters
        if any(chosen[key] != value for key, value in parameter.when.items()):
            yield from choose(chosen, others)
            return
        for value in parameter.ordered(proposed.get(name), random):
            yield from choose({**chosen, name: value}, others)
            if not _has_effect(name, chosen):
                break

    yield from choose({}, sorted(space.items(), key=lambda item: bool(_conditions(*item))))
