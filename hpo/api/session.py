"""Functions that only this process has, as a notebook's or a lambda, under names by which a study can have them."""

from __future__ import annotations

import hashlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import CellType, CodeType, ModuleType, NoneType
from typing import Any

from hpo.study.references import SESSION, Reference

_worked_on = threading.local()  # name -> the function that this thread works on; others may have the same name


class _Session(ModuleType):
    """The module that such functions seem to be of."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_worked_on, name)


def reference_of(function: Callable[..., Any]) -> Reference:
    """Returns the name by which a study can have a function: this session's, where no other process can import it."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", type(function).__name__)
    if is_importable(function):
        return Reference(module, name)
    sys.modules.setdefault(SESSION, _Session(SESSION, "Functions of this session."))
    return Reference(SESSION, name if name.isidentifier() else "function")


@contextmanager
def in_session(function: Callable[..., Any] | None) -> Iterator[None]:
    """Context manager in which a function of this session is found by its name, whatever else has that name."""
    reference = function and reference_of(function)
    if reference is None or reference.place != SESSION:
        yield
        return
    names = vars(_worked_on)
    before = dict(names)
    names[reference.name] = function
    try:
        yield
    finally:
        names.clear()
        names.update(before)


def is_importable(function: Callable[..., Any]) -> bool:
    """Says whether another process can import a function."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or not name.isidentifier():
        return False
    try:
        return getattr(importlib.import_module(module), name, None) is function
    except ImportError:
        return False


def hash_of(function: Callable[..., Any]) -> str:
    """Returns the SHA-256 of a function and the plain values that it holds, without what it calls and reads."""
    if isinstance(function, partial):
        held = [*function.args, *function.keywords.values()]
        return hashlib.sha256(repr((hash_of(function.func), _plain(held))).encode()).hexdigest()
    owner = getattr(function, "__self__", function)  # of a method; an object that is called is its own
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    held = _contents(getattr(function, "__closure__", None) or ())
    held += [
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    ]
    held += getattr(owner, "__dict__", {}).values()
    return hashlib.sha256(repr((_described(code), _plain(held))).encode()).hexdigest()


def _contents(cells: Iterable[CellType]) -> list[Any]:
    """Returns what cells of a closure hold; one is empty where its variable is set later, or was deleted."""
    found = []
    for cell in cells:
        with suppress(ValueError):
            found.append(cell.cell_contents)
    return found


def _plain(values: Iterable[Any]) -> list[str]:
    """Returns those values that Python writes the same in every session: numbers, texts, and lists of such."""
    kinds = (bool, int, float, str, bytes, NoneType)
    return [
        repr(one)
        for one in values
        if isinstance(one, kinds) or (isinstance(one, list | tuple) and all(isinstance(part, kinds) for part in one))
    ]


def _described(code: Any) -> Any:
    """Returns what makes one code object another's equal, wherever in a file it stands."""
    if not isinstance(code, CodeType):
        return repr(code)
    constants = tuple(_described(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts)
    return code.co_code.hex(), constants, code.co_names, code.co_varnames


def _constant(value: Any) -> str:
    """Returns a constant as Python writes it, but a set in the same order in every session."""
    if isinstance(value, frozenset) and value:
        return f"frozenset({{{', '.join(sorted(map(_constant, value)))}}})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def name_of(function: Callable[..., Any] | None) -> str:
    """Returns what a function is called."""
    return getattr(function, "__name__", repr(function))
