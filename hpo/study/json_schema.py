"""The JSON Schema of a study's file, by which editors complete and check it.

It says what each key is, and not what keys say together, as that a condition names another parameter: `hpo check` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pydantic import BaseModel

from hpo.study.definition import StudyDefinition, TaskTable

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
    return {"$schema": DIALECT, "title": "A study of hpo", **schema, "oneOf": one_of}


def _task(definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of `[task]`: by its name, the settings of what hpo brings; anything for code."""
    own = []
    for name, place in SETTINGS.items():
        module, _, kind = place.partition(":")
        settings: type[BaseModel] = getattr(import_module(module), kind)
        table = settings.model_json_schema(ref_template="#/$defs/{model}")
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
