"""The JSON Schema of a study's file, by which editors complete and check it.

It says what each key is, and not what keys say together, as that a condition names another parameter: `hpo check` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from hpo.study.definition import StudyDefinition, TaskTable
from hpo.study.training import MAY_BE_TRAINED_BY, TRAINED_BY

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE = "hpo.schema.json"
SETTINGS = {  # what a study can say of each in its [task]
    "digit_pairs": "hpo.tasks.digit_pairs.task:DigitPairs",
    "classification": "hpo.tasks.supervised:SupervisedSettings",
    "regression": "hpo.tasks.supervised:SupervisedSettings",
}


def study_schema() -> dict[str, Any]:
    """Returns the schema of a study's file."""
    schema = StudyDefinition.model_json_schema()
    definitions = schema["$defs"]
    definitions[TaskTable.__name__] = _task(definitions)
    _tidy(schema)
    one_of = [{"required": ["space"]}, {"required": ["trial"]}]
    by_task = [_by_task(name) for name in SETTINGS]
    return {"$schema": DIALECT, "title": "A study of hpo", **schema, "oneOf": one_of, "allOf": by_task}


def _task(definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of `[task]`: by its name, the settings of what hpo brings; anything for code."""
    own = []
    for name, place in SETTINGS.items():
        table = _settings(place).model_json_schema(ref_template="#/$defs/{model}")
        definitions |= table.pop("$defs", {})
        table["properties"] = {
            "name": {"const": name, "description": table.pop("description", "")},
            **table["properties"],
        }
        table["required"] = ["name", *table.get("required", [])]
        own.append(table)
    code = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": ":", "description": "Code of yours: forest.py:objective."}
        },
        "required": ["name"],
    }
    return {"description": TaskTable.__doc__, "anyOf": [*own, code]}


def _settings(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _by_task(name: str) -> dict[str, Any]:
    """Returns what the rest of a study is where its task has this name: its metrics and parameters, as far as known."""
    task = _settings(SETTINGS[name])
    rules: dict[str, Any] = {**TRAINED_BY, **MAY_BE_TRAINED_BY, **getattr(task, "rules", {})}
    space: dict[str, Any] = {
        "properties": {key: _parameter(rule) for key, rule in rules.items()},
        "required": [*TRAINED_BY, *_needed(task)],
    }
    then: dict[str, Any] = {"space": space}
    if hasattr(task, "rules"):  # else its networks bring parameters of their own
        space["additionalProperties"] = False
        metrics = [metric.name for metric in task.model_construct(posterior=True).metrics]  # all that it can measure
        then["protocol"] = {"properties": {"metric": {"enum": metrics}}}
    named = {"properties": {"task": {"properties": {"name": {"const": name}}, "required": ["name"]}}}
    return {"if": named, "then": {"properties": then}}


def _needed(task: Any) -> Sequence[str]:
    """Returns the parameters without which a task builds no network, or has no loss."""
    known: Mapping[str, Any] = getattr(task, "rules", {})
    functions = [getattr(task, name) for name in ("network", "loss") if known]
    keywords = [keyword for function in functions for keyword in inspect.signature(function).parameters.values()]
    return [keyword.name for keyword in keywords if keyword.name in known and keyword.default is keyword.empty]


def _parameter(rule: Any) -> dict[str, Any]:
    """Returns what a parameter is whose values keep a rule: a value, several, or a range if they are numbers."""
    value = TypeAdapter(rule, config=ConfigDict(strict=True)).json_schema()
    table = {"choices": {"items": value}, "low": value, "high": value}
    kinds = {one.get("type") for one in (value, *value.get("anyOf", []))}
    ranges = [] if kinds & {"integer", "number"} else ["low", "high"]
    forms: list[dict[str, Any]] = [value, {"type": "array", "items": value}]
    return {"anyOf": [*forms, {"type": "object", "properties": table | dict.fromkeys(ranges, False)}]}


def _tidy(schema: Any) -> None:
    """Takes out titles that repeat their keys, the null that TOML has not, and of docstrings all but the beginning."""
    if isinstance(schema, list):
        for item in schema:
            _tidy(item)
    if not isinstance(schema, dict):
        return
    either = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    if len(either) == 1:
        del schema["anyOf"]
        schema |= either[0]
        schema.pop("default", None)
    for key, value in schema.items():
        if key != "properties":
            _tidy(value)
            continue
        for one in value.values():
            if isinstance(one, dict):
                one.pop("title", None)
            _tidy(one)
    if isinstance(schema.get("description"), str):
        schema["description"] = " ".join(schema["description"].partition("\n\n")[0].split())
    if isinstance(schema.get("title"), str):
        del schema["title"]
