"""Names of code that a study has: which there are, where they are looked for, and which may be opened here.

    [task]
    name = "forest.py:objective"        # a file below the folder of code, and what to take of it
    name = "package.module:Class"       # an installed package

A database can be written by others, and must not be able to make a worker run anything. So code is named, never stored;
files are looked for below one folder of this machine; and nothing is imported that its operator has not allowed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from hpo.errors import RequestError, StudyError, UnknownName
from hpo.text.commands import quote

SESSION = "python_session"  # the module that functions seem to be of which only their own process has
MODELS = "models"  # a folder below that of code, whose networks can be named without their file
NETWORKS = ("convnet", "mlp")  # those that hpo brings
HIDDEN = ("site-packages", "dist-packages")  # folders of installed packages, which may lie below the folder of code


@dataclass(frozen=True)
class Reference:
    """A name of code, as a study has it.

    Attributes:
        place: a file's path, with /; or a module's name, with points.
        name: what to take of it.
    """

    place: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether it is of a file."""
        return self.place.endswith(".py")

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


@dataclass(frozen=True)
class Sources:
    """Where this machine has data and code, and which code may be opened on it.

    Attributes:
        data: the folder of datasets.
        code: the folder below which files of code, and of data that belong to it, are looked for.
        allowed: patterns of references, as `forest.py:*`.
        files: name -> the definition of a study that is given by its file, which says what its code is given.
    """

    data: Path
    code: Path = Path()
    allowed: tuple[str, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def given(cls, data: Path, code: Path, allow: Any) -> Sources:
        """Returns what somebody says of it in Python.

        Args:
            allow: patterns; a text is one.

        Raises:
            RequestError: where they are none.
        """
        patterns = (allow,) if isinstance(allow, str) else allow
        if not isinstance(patterns, Collection) or not all(isinstance(one, str) for one in patterns):
            raise RequestError(f"allow must be a list of patterns, as ['forest.py:*'], but is {allow!r}")
        return cls(data, code, tuple(patterns))

    def allowing(self, *references: Reference) -> Sources:
        """Returns the same, but these may be opened besides."""
        return replace(self, allowed=(*self.allowed, *(_literally(str(one)) for one in references)))

    def allowing_file(self, folder: Path, references: Iterable[Reference], network: object) -> Sources:
        """Returns the same for a study that is given by its file, which allows the code that it names.

        Args:
            folder: of the code.
            network: what the file says of one, if anything: a name of `models/` there is code too.
        """
        found = networks_in(folder)[0].get(network, []) if isinstance(network, str) else []
        is_clear = len(found) == 1 and network not in NETWORKS
        return replace(self, code=folder).allowing(*references, *(found if is_clear else ()))

    def allows(self, reference: Reference) -> bool:
        """Says whether a reference may be opened."""
        return any(fnmatchcase(str(reference), pattern) for pattern in self.allowed)


NOWHERE = Sources(Path())
"""For what needs neither data nor code."""


def parse_reference(text: str) -> Reference | None:
    """Returns the reference that a text is; None where it is none, as the name of what is shipped.

    Raises:
        ValueError: where it is meant to be one, but cannot be.
    """
    place, colon, name = text.partition(":")
    if not colon:
        return None
    if not name.isidentifier():
        raise ValueError(f"{text!r} must name something after the colon, as in 'forest.py:objective'")
    path = PurePosixPath(place)
    if place.endswith(".py"):
        if not is_below(place):
            raise ValueError(f"{text!r} must be a path below the folder of code, so neither absolute nor with '..'")
        return Reference(path.as_posix(), name)
    if not all(part.isidentifier() for part in place.split(".")):
        raise ValueError(f"{text!r} must be a file ending in .py, or a package's module, before the colon")
    return Reference(place, name)


def allow_words(references: Iterable[Reference]) -> list[str]:
    """Returns the options that let a command open code, as `--allow forest.py:objective`."""
    return [word for one in references for word in ("--allow", _literally(str(one)))]


def study_words(name: str, references: Iterable[Reference]) -> list[str]:
    """Returns the options by which a command measures a study of a storage: its name, and that its code may be run."""
    return ["--study", name, *allow_words(references)]


def references_in(values: Iterable[Any]) -> list[Reference]:
    """Returns the references that are among some values of a study."""
    found = []
    for value in values:
        with suppress(ValueError):  # whoever opens it will say so
            reference = parse_reference(value) if isinstance(value, str) else None
            if reference is not None:
                found.append(reference)
    return found


def check_allowed(reference: Reference | None, sources: Sources, *, study: str = "") -> None:
    """Makes sure that code may be opened here, before anything else is done.

    Raises:
        StudyError: where it may not.
    """
    if reference is not None and reference.place == SESSION and not hasattr(sys.modules.get(SESSION), reference.name):
        raise StudyError(f"{reference} is of a Python session, where hpo.Study goes on with it; a module can be shared")
    if reference is not None and not sources.allows(reference):
        where = f"study {study!r}: " if study else ""
        raise StudyError(
            f"{where}{reference} is code that is not shipped with hpo, and is opened only where that is allowed: "
            f"{_code_words(reference, sources)}--allow {quote(_literally(str(reference)))}"
        )


def _code_words(reference: Reference, sources: Sources) -> str:
    place = reference.place
    is_elsewhere = reference.is_file and is_below(place) and not (sources.code / place).exists()
    return "--code DIR, the folder that has it, and " if is_elsewhere else ""


def networks_in(folder: Path) -> tuple[dict[str, list[Reference]], list[str]]:
    """Returns the public functions and classes of the files in `models/`, below a folder of code, name -> where it is;
    and the files that cannot be read.

    Files are read as text; nothing of them runs.
    """
    found: dict[str, list[Reference]] = {}
    unreadable = []
    for file in sorted((folder / MODELS).glob("[!_]*.py")):
        try:
            nodes = ast.parse(file.read_bytes()).body
        except (OSError, SyntaxError, ValueError):
            unreadable.append(f"{MODELS}/{file.name}")
            continue
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(Reference(f"{MODELS}/{file.name}", node.name))
    return found, unreadable


def find_model(name: str, folder: Path, shipped: Collection[str]) -> Reference | None:
    """Returns where `models/`, below a folder of code, has a name; None where it is shipped with hpo.

    Raises:
        UnknownName: where it is neither.
        StudyError: where it is both, or two files have it.
    """
    here, unreadable = networks_in(folder)
    found = here.get(name, [])
    if found and name in shipped:
        raise StudyError(f"{found[0].place} has the name of what is shipped with hpo, {name!r}; give it another")
    if len(found) > 1:
        raise StudyError(f"{found[0].place} and {found[1].place} both have {name!r}; give one another name")
    if not found and name not in shipped:
        hint = f"{unreadable[0]} is no Python; " if unreadable else "code of yours is named as in 'tiny.py:TinyNet'; "
        raise UnknownName("network", name, [*shipped, *here], hint=hint)
    return found[0] if found else None


def is_below(path: str) -> bool:
    """Says whether a path, as a study has it, leads below a folder: neither absolute, nor with `..`."""
    parts = PurePosixPath(path)
    return not (parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path)


def find_file(path: str, folder: Path) -> Path:
    """Returns the file of a relative path below a folder.

    Raises:
        StudyError: where it is not there, or a link leads out of the folder.
    """
    file = folder / path
    if any(part in HIDDEN for part in PurePosixPath(path).parts):
        raise StudyError(f"{path} is of an installed package, which is named as in 'package.module:Class'")
    try:
        is_there = file.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        is_there = False
    if not is_there:
        raise StudyError(f"{path} is not in {folder.resolve()}; --code names the folder that has it")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise StudyError(f"{path} is a link that leads out of {folder.resolve()}")
    return file


def _literally(text: str) -> str:
    """Returns the pattern that matches a text alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)
