"""Tables of a study file: frozen, strict, and with one clause to say where one breaks a rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from hpo import limits
from hpo.errors import suggestion

Count = Annotated[int, Field(ge=1, le=limits.COUNT)]
CountOrNone = Annotated[int, Field(ge=0, le=limits.COUNT)]
Rounds = Annotated[int, Field(ge=1, le=limits.ROUNDS)]
Factor = Annotated[float, Field(ge=limits.SMALLEST, le=limits.LARGEST)]
Weight = Annotated[
    float,
    Field(ge=0, le=limits.LARGEST),
    AfterValidator(lambda weight: _no_trace(weight)),
    WithJsonSchema(
        {"anyOf": [{"const": 0}, {"type": "number", "minimum": limits.SMALLEST, "maximum": limits.LARGEST}]}
    ),
]
Words = Annotated[
    str, AfterValidator(lambda text: _not_blank(text)), WithJsonSchema({"type": "string", "pattern": r"\S"})
]
Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=limits.SHORTEST_SECONDS, le=limits.LONGEST_SECONDS)]

ABOVE_ZERO_ON_LOG = ConfigDict(
    json_schema_extra={
        "if": {"properties": {"log": {"const": True}}, "required": ["log"]},
        "then": {"properties": {"low": {"exclusiveMinimum": 0}}},
    }
)
"""Of a range, for editors: `low` must be above 0 where `log` is true."""

RULES = {  # by pydantic's type of error, where its own sentence speaks of Python, or spells out 1e-30
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "too_short": "must name at least one value",
    "union_tag_not_found": "must have a name",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
}
LONGEST_VALUE = 80  # characters of it that a message shows


class Table(BaseModel):
    """A table of the file: frozen, strictly typed, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, table: Any) -> Any:
        for key in table if isinstance(table, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"no key named {shown(key)}; {suggestion(str(key), cls.model_fields)}")
        return table


def plain(value: Any) -> Any:
    """Returns a value with Python's own numbers and texts in place of NumPy's, in tables and lists too."""
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.item() if getattr(value, "shape", None) == () else value


def _no_trace(weight: float) -> float:
    if 0 < weight < limits.SMALLEST:
        raise ValueError(f"must be 0 or at least {limits.SMALLEST:g}, but is {shown(weight)}")
    return weight


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError(f"must not be blank, but is {shown(text)}")
    return text


def explain(error: ValidationError, *, within: str = "") -> str:
    """Returns the first of pydantic's complaints as one clause: the key, the rule, the value.

    Args:
        within: the key of what was validated.
    """
    first, *others = _joined(error.errors(include_url=False))
    below = [str(part) for part in first["loc"] if part != "choices"]  # a file has the list by itself
    key = ".".join([within, *below] if within else below)
    limits_of = first.get("ctx", {})
    context = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in limits_of.items()}
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":  # the tags of our unions are names
        key, text = f"{key}.name", f"must be one of {context['expected_tags']}, but is {shown(context['tag'])}"
    elif first["type"] == "missing":
        text = "is missing"
    elif first["type"] in RULES:
        text = f"{RULES[first['type']].format(**context)}, but is {shown(first['input'])}"
    elif text.startswith("Input should"):
        text = f"{text.replace('Input should', 'must', 1)}, but is {shown(first['input'])}"
    elif key:
        key += ":"
    more = f" (and {len(others)} more)" if others else ""
    return f"{key} {text[:1].lower() + text[1:] if text.startswith('Input') else text}{more}".strip()


def _joined(errors: Sequence[Any]) -> list[Any]:
    """Returns the complaints with those of a number or a word, one for each of the two, as a single one."""
    joined: list[Any] = []
    for error in errors:
        *path, branch = error["loc"] or ("",)
        if not re.fullmatch(r"literal\[.*\]|constrained-int", str(branch)):
            joined.append(error)
            continue
        said = RULES[error["type"]].format(**error.get("ctx", {})) if error["type"] in RULES else error["msg"]
        rule = said.replace("must", "Input should", 1)
        if joined and joined[-1]["loc"] == tuple(path):
            joined[-1]["msg"] += f" or {rule.removeprefix('Input should be ')}"
        else:
            joined.append({"type": "union", "loc": tuple(path), "msg": rule, "input": error["input"]})
    return joined


def shown(value: Any) -> str:
    """Returns a value for a message: on one line, cut where it is long."""
    value = list(value) if isinstance(value, tuple) else value
    try:
        text = repr(value).replace("\n", " ")  # an array has several lines
    except ValueError:  # Python spells out no integer of more than 4300 digits
        return "a number of over 4300 digits"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
