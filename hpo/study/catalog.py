"""Finds a study or an architecture by name.

`models/` and `studies/` are content, not libraries: they stand at the top of the checkout, and a wheel carries them
inside the package, so that no package called `models` lands among the user's own. A name is all that the rest of the
program has of them. Listing reads files as text; nothing of a model runs, and torch is not imported, before an
architecture is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hpo
from hpo.errors import UnknownName
from hpo.study.definition import StudyDefinition, define_study, read_study
from hpo.text.names import derived_name


@dataclass(frozen=True)
class Architecture:
    """An architecture's name, the file that defines it, and the first line of its docstring."""

    name: str
    file: Path
    summary: str


def studies() -> dict[str, Path]:
    """Returns the known studies, name -> file; those in ./studies come before the shipped ones of the same name."""
    folders = (_shipped("studies"), Path("studies"))
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}


def has_study(name_or_file: str) -> bool:
    """Says whether a study's file is there, by name or by path."""
    return Path(name_or_file).suffix == ".toml" or name_or_file in studies()


def name_of(name_or_file: str) -> str:
    """Returns the name of a study that is given by name or by path."""
    path = Path(name_or_file)
    return path.stem if path.suffix == ".toml" else name_or_file


def load_study(
    name_or_file: str, *, dataset: str | None = None, rounds: int | None = None
) -> tuple[str, StudyDefinition]:
    """Returns a study's name and definition, found by name or by path.

    With another dataset or number of rounds than the file's it is a study of its own, NAME-DATASET or NAME-N-rounds.

    Raises:
        UnknownName: where there is no such study, or it names an unknown architecture.
        StudyError: where its file breaks a rule.
    """
    path = Path(name_or_file)
    if path.suffix != ".toml":
        known = studies()
        if name_or_file not in known:
            here = Path(f"{name_or_file}.toml")
            hint = f"{here} is here, so give that; " if here.is_file() else ""
            raise UnknownName("study", name_or_file, known, hint=hint)
        path = known[name_or_file]
    name, definition = name_of(name_or_file), read_study(path)
    for key, value, suffix in (("dataset", dataset, str(dataset)), ("rounds", rounds, f"{rounds}-rounds")):
        if value is not None and value != getattr(definition.protocol, key):
            table = definition.model_dump(mode="json")
            table["protocol"][key] = value
            name = derived_name(name, f"-{suffix}")
            definition = define_study(table, name=name)
    check_architectures(name, definition)
    return name, definition


def check_architectures(study: str, definition: StudyDefinition) -> None:
    """Makes sure that every architecture of a study is known.

    Raises:
        UnknownName: that names the first which is not.
    """
    for architecture in definition.architectures:
        if architecture not in architectures():
            raise UnknownName("architecture", architecture, architectures(), where=f"study {study!r}: ")


@cache
def architectures() -> dict[str, Architecture]:
    """Returns the known architectures by name: the public functions of the files in `models/`."""
    found = {}
    for file in sorted(_shipped("models").glob("[!_]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
                summary = paragraph.replace("\n", " ").rstrip(".")
                found[node.name] = Architecture(node.name, file, summary)
    return found


def load_architecture(name: str) -> Callable[..., Any]:
    """Returns the function that builds a network, as the contract in `models/__init__.py` describes it; imports torch.

    Raises:
        UnknownName: where there is no such architecture.
    """
    known = architectures()
    if name not in known:
        raise UnknownName("architecture", name, known)
    function: Callable[..., Any] = getattr(_model_file(known[name].file.stem), name)
    return function


def load_activations() -> Callable[..., Any]:
    """Returns `make_activation(name, elu_alpha)` of `models/_activations.py`; imports torch."""
    make_activation: Callable[..., Any] = _model_file("_activations").make_activation
    return make_activation


def _shipped(kind: str) -> Path:
    package = Path(hpo.__file__).parent
    packaged = package / "_builtin" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def _model_file(stem: str) -> Any:
    # The folder becomes a package under a private name: files can import from each other, and no name of the user's
    # clashes.
    package = "_hpo_models"
    if package not in sys.modules:
        init = _shipped("models") / "__init__.py"
        spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=[str(init.parent)])
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot import {init}")
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.{stem}")
