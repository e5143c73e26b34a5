"""Code that a study names: which there is, who may open it, and how one finds out whether two machines have the same.

    [task]
    name = "forest.py:objective"        # a file below the folder of code, and what to take of it
    name = "package.module:Class"       # an installed package

A database can be written by others, and must not be able to make a worker run anything. So code is named, never stored;
files are looked for below one folder of this machine; and nothing is imported that its operator has not allowed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from hpo.errors import StudyError, UnknownName
from hpo.text.commands import quote

MODELS = "models"  # a folder below that of code, whose networks can be named without their file
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
    """

    data: Path
    code: Path = Path()
    allowed: tuple[str, ...] = ()

    def allowing(self, *references: Reference) -> Sources:
        """Returns the same, but these may be opened besides."""
        return replace(self, allowed=(*self.allowed, *(_literally(str(one)) for one in references)))

    def of_file(self, file: Path, references: Iterable[Reference], *, code: Path | None) -> Sources:
        """Returns the same for a study that is given by its file, which allows the code that it names, and `models/`.

        Args:
            code: the folder of code; None takes the file's.
        """
        here = replace(self, code=code or file.resolve().parent, allowed=(*self.allowed, f"{MODELS}/*.py:*"))
        return here.allowing(*references)

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
        if path.is_absolute() or ".." in path.parts or "\\" in place:
            raise ValueError(f"{text!r} must be a path below the folder of code, so neither absolute nor with '..'")
        return Reference(path.as_posix(), name)
    if not all(part.isidentifier() for part in place.split(".")):
        raise ValueError(f"{text!r} must be a file ending in .py, or a package's module, before the colon")
    return Reference(place, name)


def allow_words(references: Iterable[Reference]) -> list[str]:
    """Returns the options that let a command open code, as `--allow forest.py:objective`."""
    return [word for one in references for word in ("--allow", _literally(str(one)))]


def references_in(values: Iterable[Any]) -> list[Reference]:
    """Returns the references that are among some values of a study."""
    found = []
    for value in values:
        with suppress(ValueError):  # whoever opens it will say so
            reference = parse_reference(value) if isinstance(value, str) else None
            if reference is not None:
                found.append(reference)
    return found


def load(reference: Reference, sources: Sources) -> Any:
    """Returns what a reference names, importing it.

    Raises:
        StudyError: where it may not be opened, is not there, or fails when it is imported.
    """
    check_allowed(reference, sources)
    module = _import_file(reference, sources) if reference.is_file else _import_module(reference)
    try:
        return getattr(module, reference.name)
    except AttributeError:
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise StudyError(f"{reference.place} has no {reference.name!r}; there are: {', '.join(known)}") from None


def check_allowed(reference: Reference | None, sources: Sources, *, study: str = "") -> None:
    """Makes sure that code may be opened here, before anything else is done.

    Raises:
        StudyError: where it may not.
    """
    if reference is not None and not sources.allows(reference):
        where = f"study {study!r}: " if study else ""
        raise StudyError(
            f"{where}{reference} is code that is not shipped with hpo, and is opened only where that is allowed: "
            f"--allow {quote(_literally(str(reference)))}"
        )


def models(folder: Path) -> dict[str, list[Reference]]:
    """Returns the public functions and classes of the files in `models/`, below a folder of code: name -> where it is.

    Files are read as text; nothing of them runs.
    """
    found: dict[str, list[Reference]] = {}
    for file in sorted((folder / MODELS).glob("[!_]*.py")):
        try:
            nodes = ast.parse(file.read_bytes()).body
        except (OSError, SyntaxError, ValueError):  # whoever names it will say so
            nodes = []
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(Reference(f"{MODELS}/{file.name}", node.name))
    return found


def find_model(name: str, folder: Path, shipped: Collection[str]) -> Reference | None:
    """Returns where `models/`, below a folder of code, has a name; None where it is shipped with hpo.

    Raises:
        UnknownName: where it is neither.
        StudyError: where it is both, or two files have it.
    """
    here = models(folder)
    found = here.get(name, [])
    if found and name in shipped:
        raise StudyError(f"{found[0].place} has the name of what is shipped with hpo, {name!r}; give it another")
    if len(found) > 1:
        raise StudyError(f"{found[0].place} and {found[1].place} both have {name!r}; give one another name")
    if not found and name not in shipped:
        raise UnknownName("network", name, [*shipped, *here], hint="code of yours is named as in 'tiny.py:TinyNet'; ")
    return found[0] if found else None


def find_file(path: str, folder: Path) -> Path:
    """Returns the file of a relative path below a folder.

    Raises:
        StudyError: where it is not there, or a link leads out of the folder.
    """
    file = folder / path
    if not file.is_file():
        raise StudyError(f"{path} is not in {folder.resolve()}; --code names the folder that has it")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise StudyError(f"{path} is a link that leads out of {folder.resolve()}")
    return file


def _import_file(reference: Reference, sources: Sources) -> ModuleType:
    file = find_file(reference.place, sources.code).resolve()
    _look_below(sources.code.resolve())
    name = reference.place.removesuffix(".py").replace("/", ".")
    with _explained(reference):
        if _is_importable(name, file):
            return importlib.import_module(name)
        # Its name is that of another module, or none that Python can import.
        private = f"_hpo_code_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
        if private not in sys.modules:
            spec = importlib.util.spec_from_file_location(private, file)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[private] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(sys.modules[private])
            except BaseException:
                del sys.modules[private]
                raise
        return sys.modules[private]


def _import_module(reference: Reference) -> ModuleType:
    with _explained(reference):
        return importlib.import_module(reference.place)


def _is_importable(name: str, file: Path) -> bool:
    """Says whether importing by a name, as the file's neighbours do, gives the file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # no package on the way; or a module without a file, as __main__
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == file


def _look_below(folder: Path) -> None:
    """Lets files of a folder import each other: it comes first, as that of a script does.

    A file named like one of Python's own modules, which everything here needs, is no such module; then the folder comes
    before installed packages.
    """
    if str(folder) not in sys.path:
        shadows = any(file.stem in sys.stdlib_module_names for file in folder.iterdir())
        installed = (i for i, entry in enumerate(sys.path) if entry.endswith(HIDDEN))
        sys.path.insert(next(installed, len(sys.path)) if shadows else 0, str(folder))


@contextmanager
def _explained(reference: Reference) -> Iterator[None]:
    """Context manager that turns whatever importing somebody's code raises into one line.

    Raises:
        StudyError: with the error, and the line of the file that it comes from.
    """
    before, process = set(sys.modules), os.getpid()
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        raise StudyError(f"{reference.place} cannot be imported: {explain_code(error)}") from error
    finally:
        if os.getpid() != process:
            os._exit(0)  # a copy of this process, which a file has forked and not ended
        _loaded.update(set(sys.modules) - before)


_loaded: set[str] = set()  # names of modules that were imported for a study


def explain_code(error: BaseException) -> str:
    """Returns an error in somebody's code as a line: what it is, and which line of theirs it comes from."""
    if isinstance(error, SystemExit):
        said = f"it ends the program (exit code {error.code})"
    else:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{said.partition(' (')[0]} ({Path(error.filename).name}, line {error.lineno})"
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return f"{said} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else said


def _is_theirs(file: str) -> bool:
    """Says whether a file is of the code that a study names, rather than of this program or of a package."""
    path = Path(file)
    ours = Path(__file__).parents[1]
    installed = any(part in HIDDEN for part in path.parts) or path.is_relative_to(Path(os.__file__).parent)
    return path.suffix == ".py" and path.is_file() and not installed and not path.is_relative_to(ours)


def code_hashes(references: Iterable[Reference], sources: Sources) -> dict[str, str]:
    """Returns the SHA-256 of every file that was imported for some references, by its path or its module's name.

    Those below the folder of code by their paths; of a package, all of its modules that were imported.
    """
    packages = {one.place.partition(".")[0] for one in references if not one.is_file}
    root = sources.code.resolve()
    hashes = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name not in _loaded or not file or not file.endswith(".py") or not Path(file).is_absolute():
            continue
        path = Path(file).resolve()
        if path.is_relative_to(root) and not any(part in HIDDEN for part in path.parts):
            hashes[path.relative_to(root).as_posix()] = _sha256(path)
        elif name.partition(".")[0] in packages:
            hashes[name] = _sha256(path)
    return hashes


def check_files(expected: Mapping[str, str], sources: Sources) -> None:
    """Makes sure, before anything is imported, that the files below the folder of code are those of a study.

    Raises:
        StudyError: that names the file which is missing or differs.
    """
    for path, sha256 in expected.items():
        if path.endswith(".py") and _sha256(find_file(path, sources.code)) != sha256:
            raise StudyError(f"{path} in {sources.code.resolve()} differs from the one that the study was created with")


def check_same_code(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Makes sure that what was imported here is what was imported where a study was created.

    Raises:
        StudyError: that names the first file or module which differs.
    """
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            raise StudyError(f"{name} differs from the one that the study was created with")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _literally(text: str) -> str:
    """Returns the pattern that matches a text alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)
