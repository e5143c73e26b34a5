"""Tables of a study file: frozen, strict, and with one clause to say where one breaks a rule."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import suggestion

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Table(BaseModel):
    """A table of the file: frozen, strictly typed, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, table: Any) -> Any:
        for key in table if isinstance(table, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"no key named {key!r}; {suggestion(key, cls.model_fields)}")
        return table


def explain(error: ValidationError) -> str:
    """Returns the first of pydantic's complaints as one clause: the key, the rule, the value."""
    first, *others = error.errors(include_url=False)
    key = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":  # the tags of our unions are names
        key, text = f"{key}.name", f"must be one of {first['ctx']['expected_tags']}, but is {first['ctx']['tag']!r}"
    elif first["type"] == "missing":
        text = "is missing"
    elif text.startswith("Input should"):
        text = f"{text.replace('Input should', 'must', 1)}, but is {first['input']!r}"
    elif key:
        key += ":"
    more = f" (and {len(others)} more)" if others else ""
    return f"{key} {text[:1].lower() + text[1:] if text.startswith('Input') else text}{more}".strip()
