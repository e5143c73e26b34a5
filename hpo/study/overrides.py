"""Settings of a study that a command changes, as `--set protocol.seed=1` does.

Whoever changes what a result depends on makes a study of its own, whose name says so: `quickstart-seed-1`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from hpo.errors import RequestError
from hpo.study.definition import Protocol, StudyDefinition, parse
from hpo.study.run import Run
from hpo.study.schema import plain, shown
from hpo.study.search import Pruner, Race, Sampler
from hpo.study.space import Choices
from hpo.study.training import Training
from hpo.text.names import derived_name

Override = tuple[str, Any]
"""A key of the study's file, with points, and its value: `("space.architecture", "fnn")`."""
NAMED = ("name", "dataset")  # keys whose values speak for themselves
FIXED = (
    "training",
    "protocol",
    "sampler",
    "pruner",
    "race",
)  # tables whose numbers are of known kinds, in the order of a file
MOST_DIGITS = 1e15
WHEN = "when"  # the table of a parameter's conditions
TABLES = {
    **{
        name: set(table.model_fields)
        for name, table in (("protocol", Protocol), ("training", Training), ("race", Race), ("run", Run))
    },
    **{
        name: {key for one in get_args(get_args(kind)[0]) for key in one.model_fields}
        for name, kind in (("sampler", Sampler), ("pruner", Pruner))
    },
}
"""The keys of the tables that are the same in every study."""


def parse_override(text: str) -> Override:
    """Returns what a text like `space.architecture=fnn` says; its value is TOML's, or a text as it stands.

    Raises:
        RequestError: where it is none, or its key has no point.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise RequestError(f"--set must be KEY=VALUE, as in --set protocol.seed=1, but is {text!r}")
    if "." not in key:
        raise RequestError(f"--set needs a key with a point{_hint(key, value)}, as in --set protocol.seed=1")
    if not all(key.split(".")):
        raise RequestError(f"--set must name a key of the study's file, as in protocol.seed, but names {key!r}")
    try:
        return key, parse(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value


def _hint(key: str, value: str) -> str:
    """Returns what to write in place of a key without a point, where that can be told."""
    if key in ("sampler", "pruner", "dataset"):
        return f": --{key} {value}"
    if key in StudyDefinition.model_fields:
        return f", but {key!r} has none"
    return f": --set {next((name for name, keys in TABLES.items() if key in keys), 'space')}.{key}={value}"


def override(table: Mapping[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """Returns a study's table with some of its settings changed.

    A sampler or pruner of another name begins with that name alone, for the settings of the one before are not its own.

    Args:
        overrides: in any order: whole tables are changed before what is in them, and names before other settings.

    Raises:
        RequestError: where a key leads through what is no table, is set to two values, or has nothing to change; or a
            value is of no kind that a file has.
    """
    changed = copy.deepcopy(dict(table))
    for key, value in _once(overrides):
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


def _once(overrides: Iterable[Override]) -> list[Override]:
    """Returns each setting once, its value as a file has it, in the order in which they are to be changed."""
    asked: dict[str, Any] = {}
    for key, given in overrides:
        if not isinstance(key, str):
            raise RequestError(f"settings must be named by texts, as 'protocol.seed', but one is by {shown(key)}")
        value = plain(given)
        if not _is_of_file(value):
            raise RequestError(f"{key} must be a number, a text, true or false, a list or table, but is {shown(value)}")
        for other, before in asked.items():
            if (said := _said_before(key, other, before)) not in (None, value):
                raise RequestError(f"{key} is to be {shown(said)} and {shown(value)}; give it once")
        asked[key] = value
    return sorted(asked.items(), key=lambda item: (item[0].count("."), not item[0].endswith(".name")))


def _said_before(key: str, other: str, value: Any) -> Any:
    """Returns to what a setting is set where another is set to a value: the same one, or a table that it is of."""
    return value if key == other else _value_at(value, key[len(other) + 1 :]) if key.startswith(f"{other}.") else None


def _is_of_file(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_of_file, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_of_file, value))
    return value is None or isinstance(value, bool | int | float | str)


def overridden_name(name: str, before: StudyDefinition, after: StudyDefinition) -> str:
    """Returns the name of a study with some of its settings changed; its own where none really is.

    It says what differs, in the order of the file, by the shortest end of its key that no other key has.
    """
    old, new = _settings(before, after), _settings(after, before)
    for kind in ("sampler", "pruner"):
        if old[(kind, "name")] != new[(kind, "name")]:  # its settings are the defaults, unless they are given
            fresh = type(getattr(after, kind))(name=new[(kind, "name")])
            defaults = _flat(fresh.model_dump(mode="json", exclude={"name"}), (kind,))
            old |= {key: _shortened(value) for key, value in defaults}
    for key, value in new.items():
        if key in old and json.dumps(old[key]) == json.dumps(value):
            continue
        said, last = _said(value), "-".join(_shortest(key, new))
        if last == "rounds":
            name = derived_name(name, f"-{said}-rounds")
        else:
            name = derived_name(name, f"-{said}" if key[-1] in NAMED else f"-{last}-{said}")
    for parameter in before.space:
        if parameter not in after.space:
            name = derived_name(name, f"-without-{parameter}")
    return name


def _settings(definition: StudyDefinition, other: StudyDefinition) -> dict[tuple[str, ...], Any]:
    """Returns the settings on which results depend, by their keys.

    Args:
        other: that it is compared with; a parameter that is of another kind there is one setting.
    """
    table = definition.model_dump(mode="json", include={"protocol", "sampler", "pruner"})
    if training := definition.training or (other.training and Training()):
        table["training"] = training.model_dump(mode="json")
    found = dict(_flat({"task": definition.model_dump(mode="json", include={"task"})["task"]}))
    found |= {key: _shortened(value) for key, value in _flat({key: table[key] for key in FIXED if key in table})}
    for name, parameter in definition.space.items():
        key, whole = ("space", name), parameter.model_dump(mode="json", exclude={"when"})
        if isinstance(parameter, Choices):
            found[key] = whole["choices"][0] if parameter.size == 1 else whole["choices"]
        elif type(parameter) is type(other.space.get(name)):
            found |= {end: _shortened(value) for end, value in _flat(whole, key)}
        else:
            found[key] = parameter.model_dump(mode="json", exclude={"when"}, exclude_defaults=True)
        if name in other.space:  # else a condition may be the task's own
            found |= _flat({WHEN: parameter.model_dump(mode="json")[WHEN]}, key)
    if definition.trial:
        found["trial",] = [entry.params for entry in definition.trial]
    return found


def _flat(table: Mapping[str, Any], key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, (*key, name))
        else:
            yield (*key, name), value


def _shortened(value: Any) -> Any:
    """Returns a number without a fraction of zero, where its kind goes without saying."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < MOST_DIGITS else value


def _shortest(key: tuple[str, ...], keys: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the shortest end of a key that no other key has; of a condition, all from its parameter on."""
    if WHEN in key:
        return key[1:]
    others = [other for other in keys if other != key and WHEN not in other]
    ends = (key[-length:] for length in range(1, len(key)))
    return next((end for end in ends if not any(other[-len(end) :] == end for other in others)), key)


def _said(value: Any) -> str:
    """Returns a value as a name has it."""
    if not isinstance(value, str):
        value = re.sub(r"(?<![\w.])-(?=\d)", "minus-", json.dumps(value))
    return re.sub(r"[^\w.]+", "-", value).strip("-")


def _value_at(table: Any, key: str) -> Any:
    for step in key.split("."):
        table = table.get(step) if isinstance(table, dict) else None
    return table
