"""Arguments of `hpo.Study`, checked, and as a study's file would have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hpo.errors import HpoError, RequestError
from hpo.study.overrides import Override
from hpo.study.references import Reference
from hpo.study.schema import plain, shown

OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")


P = ParamSpec("P")
R = TypeVar("R")


def in_python(method: Callable[P, R]) -> Callable[P, R]:
    """Lets errors speak of arguments where they speak of options: of `lower_target`, and not of `--lower-target`."""

    @wraps(method)
    def reworded(*arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return method(*arguments, **keywords)
        except HpoError as error:
            said = OPTION.sub(lambda found: found[1].replace("-", "_"), str(error).replace("--set ", ""))
            error.args = (said, *error.args[1:])
            raise

    return reworded


def check_given(study: Any, space: Any, configurations: Any, settings: Any, name: Any) -> None:
    """Makes sure that what is given to a study is of the kinds that it takes.

    Raises:
        RequestError: that says what is not.
    """
    for key, value in (("space", space), ("configurations", configurations), ("settings", settings)):
        if value is not None and not isinstance(value, Mapping):
            raise RequestError(f"{key} must be a dictionary, but is {shown(value)}")
    for key, value in (space or {}).items():
        if isinstance(value, tuple):
            raise RequestError(
                f"space[{key!r}] must be a list of values, or a range as {{'low': 0.0, 'high': 1.0}}, but is a tuple"
            )
    if name is not None and not isinstance(name, str):
        raise RequestError(f"name must be a text, but is {shown(name)}")
    for label, params in (configurations or {}).items():
        if not isinstance(params, Mapping):
            raise RequestError(f"configurations[{label!r}] must be a dictionary, but is {shown(params)}")
    if not (callable(study) or isinstance(study, str | Path | Mapping)):
        raise RequestError(f"a study is a function, a name, a file or a dictionary, but not {shown(study)}")


def check_of_function(metric: Any, unit: Any, direction: Any) -> None:
    """Makes sure that a function's number has a name, a unit and a direction that it can have.

    Raises:
        RequestError: that says what is not.
    """
    if metric is not None and not (isinstance(metric, str) and metric.strip()):
        raise RequestError(f"metric must be a text, but is {shown(metric)}")
    if unit is not None and not isinstance(unit, str):
        raise RequestError(f"unit must be a text, but is {shown(unit)}")
    if direction not in (None, "minimize", "maximize"):
        raise RequestError(f"direction must be 'minimize' or 'maximize', but is {shown(direction)}")


def whole(name: str, value: object, least: int, most: int) -> int:
    """Returns an argument that must be a whole number between two limits; NumPy's becomes Python's.

    Raises:
        RequestError: where it is none.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise RequestError(f"{name} must be a whole number from {least} to {most}, but is {shown(value)}")
    return number


def overrides_of(
    rounds: int | None,
    seed: int | None,
    sampler: str | Mapping[str, Any] | None,
    pruner: str | Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> list[Override]:
    """Returns the settings that are to differ from a study's file, as often as they are given."""
    found: dict[str, Any] = {"protocol.rounds": rounds, "protocol.seed": seed}
    for key, value in (("sampler", sampler), ("pruner", pruner)):
        if isinstance(value, Mapping) and set(value) == {"name"}:
            value = value["name"]
        found[key if isinstance(value, Mapping) else f"{key}.name"] = value
    return [*((key, value) for key, value in found.items() if value is not None), *settings.items()]


def table_of(
    reference: Reference,
    space: Mapping[str, Any] | None,
    configurations: Mapping[str, Mapping[str, Any]] | None,
    task: Mapping[str, str | None],
) -> dict[str, Any]:
    """Returns what a study's file would say of a function."""
    if (space is None) == (configurations is None):
        raise RequestError("a function needs a space to search, or configurations to measure, and not both")
    listed = [{"label": label, "params": dict(params)} for label, params in (configurations or {}).items()]
    return {
        "task": {"name": str(reference), **{key: value for key, value in task.items() if value is not None}},
        **({"space": dict(space)} if space is not None else {"trial": listed}),
    }
