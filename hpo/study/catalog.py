"""Finds a study by its name or its file.

`studies/` is content, no library: it stands at the top of the checkout, and a wheel carries it inside the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import hpo
from hpo.errors import RequestError, StudyError, UnknownName, suggestion
from hpo.study.definition import StudyDefinition, define_study, read_study
from hpo.study.loading import is_light
from hpo.study.overrides import Override, overridden_name, override
from hpo.study.resolving import resolve

CODE_HINT = "code is measured by a study that names it, as hpo init writes one; "


def studies() -> dict[str, Path]:
    """Returns the known studies, name -> file: the shipped ones, and those in ./studies that have other names."""
    folders = (Path("studies"), shipped("studies"))
    return {file.stem: file for folder in folders for file in sorted(folder.glob("[!_]*.toml"))}


def has_study(name_or_file: str) -> bool:
    """Says whether a study's file is there, by name or by path."""
    return Path(name_or_file).suffix == ".toml" or name_or_file in studies()


def name_of(name_or_file: str) -> str:
    """Returns the name of a study that is given by name or by path."""
    path = Path(name_or_file)
    return path.stem if path.suffix == ".toml" else name_or_file


def find_study(name_or_file: str, overrides: Sequence[Override] = ()) -> tuple[str, StudyDefinition, Path]:
    """Returns a study's name, definition and file, found by name or by path; resolved where its task is light.

    Args:
        overrides: settings that are to differ from the file's; they make it a study of its own, see `overridden_name`.

    Raises:
        UnknownName: where there is no such study, or no such task.
        StudyError: where its file breaks a rule.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        known = studies()
        if name_or_file not in known:
            is_code = ":" in name_or_file or name_or_file.endswith(".py")
            hint = CODE_HINT if is_code else f"and no {name_or_file}.toml is here; "
            near = difflib.get_close_matches(name_or_file, known, n=1)
            raise UnknownName("study", name_or_file, known, hint="" if near else hint)
        path, here = known[name_or_file], Path("studies") / f"{name_or_file}.toml"
        if here.is_file() and not here.samefile(path):
            raise StudyError(f"{here} has the name of a study of hpo's own; give it another name, or name the file")
    name = name_of(name_or_file)
    written = read_study(path)
    definition = _resolved(written, name)
    if overrides:
        rewritten = _overridden(written, definition, overrides, name)
        changed = _resolved(rewritten, name)
        name = overridden_name(name, _with_conditions(definition, written, changed, rewritten), changed)
        definition = changed
    return name, definition, path.resolve()


def _overridden(
    written: StudyDefinition, definition: StudyDefinition, overrides: Sequence[Override], name: str
) -> StudyDefinition:
    """Returns a study's file with some of its settings changed; `name` stands in the error.

    Args:
        written: what the file says: what a resolved definition says besides, as where a parameter is there, may follow
            from what is changed.

    Raises:
        RequestError: where that cannot be.
    """
    table = written.model_dump(mode="json")
    for parameter in table["space"].values():
        if parameter.get("step") == 1:  # a default, which a range of floats has not
            del parameter["step"]
    changed = override(table, overrides)
    keys = [key.split(".") for key, _ in overrides]
    if "dataset" not in definition.model_dump()["task"] and ["task", "dataset"] in keys:
        raise RequestError(f"study {name!r}: task.dataset cannot be set, for its task has no dataset")
    is_function = ":" in definition.task.name and definition.training is None
    for key in (name for first, *names in keys if first == "space" for name in names[:1]):
        if is_function and definition.space and key not in definition.space:
            raise RequestError(f"--set space.{key}: no parameter has this name; {suggestion(key, definition.space)}")
    return define_study(changed, name=name)


def _with_conditions(
    definition: StudyDefinition, written: StudyDefinition, changed: StudyDefinition, rewritten: StudyDefinition
) -> StudyDefinition:
    """Returns a definition with the conditions of a changed one, where its file says the same of them."""
    alike = {
        name: parameter.model_copy(update={"when": changed.space[name].when})
        for name, parameter in definition.space.items()
        if name in changed.space and written.space[name].when == rewritten.space[name].when
    }
    return definition.model_copy(update={"space": {**definition.space, **alike}})


def load_study(name_or_file: str, overrides: Sequence[Override] = ()) -> tuple[str, StudyDefinition]:
    """Returns a study's name and definition, as `find_study` does."""
    return find_study(name_or_file, overrides)[:2]


def _resolved(definition: StudyDefinition, name: str) -> StudyDefinition:
    return resolve(definition, study=name) if is_light(definition, study=name) else definition


def shipped(kind: str) -> Path:
    """Returns the folder of the shipped `studies` or `models`."""
    package = Path(hpo.__file__).parent
    packaged = package / "_builtin" / kind
    return packaged if packaged.is_dir() else package.parent / kind
