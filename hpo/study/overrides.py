"""Settings of a study that a command changes, as `--set protocol.seed=1` does.

Whoever changes what a result depends on makes a study of its own, whose name says so: `quickstart-seed-1`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpo.errors import RequestError
from hpo.study.definition import Protocol, Training, parse
from hpo.study.run import Run
from hpo.study.schema import Table, shown
from hpo.text.names import derived_name

Override = tuple[str, Any]
"""A key of the study's file, with points, and its value: `("space.architecture", "fnn")`."""
NAMED = ("name", "dataset")  # keys whose values speak for themselves
UNNAMED = ("title", "run")  # tables on which no result depends


def parse_override(text: str) -> Override:
    """Returns what a text like `space.architecture=fnn` says; its value is TOML's, or a text as it stands.

    Raises:
        RequestError: where it is none, or its key has no point.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise RequestError(f"--set must be KEY=VALUE, as in --set protocol.seed=1, but is {text!r}")
    if "." not in key:
        tables: dict[str, type[Table]] = {"protocol": Protocol, "training": Training, "run": Run}
        table = next((name for name, kind in tables.items() if key in kind.model_fields), "space")
        raise RequestError(f"--set needs a key with a point: --set {table}.{text}, as in --set protocol.seed=1")
    if not all(key.split(".")):
        raise RequestError(f"--set must name a key of the study's file, as in protocol.seed, but names {key!r}")
    try:
        return key, parse(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value


def override(table: Mapping[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """Returns a study's table with some of its settings changed.

    A sampler or pruner of another name begins with that name alone, for the settings of the one before are not its own.

    Raises:
        RequestError: where a key leads through what is no table, is set to two values, or has nothing to change.
    """
    changed = copy.deepcopy(dict(table))
    asked: dict[str, Any] = {}
    for key, value in overrides:
        if asked.setdefault(key, value) != value:
            raise RequestError(f"{key} is to be {shown(asked[key])} and {shown(value)}; give it once")
        *path, last = key.split(".")
        if table.get("trial") and path[:1] == ["sampler"]:
            raise RequestError(f"{key} is to be {shown(value)}, but the study lists its trials: there is no sampler")
        if path in (["sampler"], ["pruner"]) and last == "name" and _value_at(changed, key) != value:
            changed[path[0]] = {}
        place = changed
        for step in path:
            inner = place.get(step)
            if inner is None:
                inner = place[step] = {}
            if not isinstance(inner, dict):
                raise RequestError(f"--set {key}: {step} is no table, so nothing in it can be set")
            place = inner
        place[last] = value
    return changed


def overridden_name(name: str, table: Mapping[str, Any], overrides: Iterable[Override]) -> str:
    """Returns the name of a study with some of its settings changed; its own where none really is."""
    for key, value in overrides:
        first, _, last = key.rpartition(".")
        if first.partition(".")[0] in UNNAMED or key in UNNAMED or _value_at(table, key) == value:
            continue
        said = re.sub(r"[^\w.]+", "-", value if isinstance(value, str) else json.dumps(value)).strip("-")
        if last == "rounds":
            name = derived_name(name, f"-{said}-rounds")
        else:
            name = derived_name(name, f"-{said}" if last in NAMED else f"-{last}-{said}")
    return name


def _value_at(table: Any, key: str) -> Any:
    for step in key.split("."):
        table = table.get(step) if isinstance(table, dict) else None
    return table
