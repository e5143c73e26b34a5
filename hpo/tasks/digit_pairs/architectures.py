"""Finds an architecture of `models/` by its name.

`models/` is content, no library: it stands at the top of the checkout, and a wheel carries it inside the package, so
that no package called `models` lands among the user's own. Listing reads files as text; nothing of a model runs, and
torch is not imported, before an architecture is asked for.
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

from hpo.errors import UnknownName
from hpo.study.catalog import shipped


@dataclass(frozen=True)
class Architecture:
    """An architecture's name, the file that defines it, and the first line of its docstring.

    Attributes:
        takes: the keywords of its function.
    """

    name: str
    file: Path
    summary: str
    takes: tuple[str, ...] = ()


@cache
def architectures() -> dict[str, Architecture]:
    """Returns the known architectures by name: the public functions of the files in `models/`."""
    found = {}
    for file in sorted(shipped("models").glob("[!_]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
                summary = paragraph.replace("\n", " ").rstrip(".")
                takes = tuple(keyword.arg for keyword in node.args.kwonlyargs)
                found[node.name] = Architecture(node.name, file, summary, takes)
    return found


def takers_of(keyword: str) -> tuple[str, ...]:
    """Returns the architectures whose functions take a keyword."""
    return tuple(name for name, known in architectures().items() if keyword in known.takes)


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


def load_pair_class() -> type[Any]:
    """Returns the class of networks that compare pairs, `DigitPair` of `models/_pair.py`; imports torch."""
    pair_class: type[Any] = _model_file("_pair").DigitPair
    return pair_class


def _model_file(stem: str) -> Any:
    # The folder becomes a package under a private name: files can import from each other, and no name of the user's
    # clashes.
    package = "_hpo_models"
    if package not in sys.modules:
        init = shipped("models") / "__init__.py"
        spec = importlib.util.spec_from_file_location(package, init, submodule_search_locations=[str(init.parent)])
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot import {init}")
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.{stem}")
