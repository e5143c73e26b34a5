"""Imports the code that a study names, and finds out whether two machines have the same; see references.py.

Whatever somebody's code does while it is imported comes to one line that names their file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hpo.errors import HpoError, StudyError
from hpo.study.references import HIDDEN, Reference, Sources, check_allowed, find_file, is_below


def load(reference: Reference, sources: Sources) -> Any:
    """Returns what a reference names, importing it.

    Raises:
        StudyError: where it may not be opened, is not there, or fails when it is imported.
    """
    check_allowed(reference, sources)
    module = _import_file(reference, sources) if reference.is_file else _import_module(reference, sources)
    try:
        named = getattr(module, reference.name)
    except AttributeError:
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise StudyError(f"{reference.place} has no {reference.name!r}; there are: {', '.join(known)}") from None
    home = _home_of(named)
    if callable(named) and module.__spec__ is not None and not _is_of(home, module, reference, sources):
        raise StudyError(f"{reference} is of {home}, which {reference.place} only imports; name what it defines itself")
    return named


def _home_of(named: Any) -> str:
    """Returns the module that defines something; of an object, the module of its class."""
    while isinstance(named, partial):
        named = named.func
    return str(getattr(named, "__module__", None) or "builtins")


def _is_of(home: str, module: ModuleType, reference: Reference, sources: Sources) -> bool:
    """Says whether a module belongs to what a reference names: files below the folder of code, or the same package.

    Else a pattern like `forest.py:*` would allow whatever that file has imported.
    """
    if home == module.__name__:
        return True
    if not reference.is_file:
        return home.partition(".")[0] == reference.place.partition(".")[0]
    file = getattr(sys.modules.get(home), "__file__", None)
    return file is not None and _is_below(Path(file).resolve(), sources.code.resolve())


def _is_below(file: Path, folder: Path) -> bool:
    return file.is_relative_to(folder) and not any(part in HIDDEN for part in file.parts)


def _import_file(reference: Reference, sources: Sources) -> ModuleType:
    file = find_file(reference.place, sources.code).resolve()
    _look_below(sources.code.resolve())
    name = reference.place.removesuffix(".py").replace("/", ".")
    with _explained(reference):
        if "." not in file.stem and _is_importable(name, file):
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


def _import_module(reference: Reference, sources: Sources) -> ModuleType:
    try:
        with _explained(reference):
            return importlib.import_module(reference.place)
    except StudyError as error:
        file = f"{reference.place}.py"
        if not isinstance(error.__cause__, ModuleNotFoundError) or not (sources.code / file).is_file():
            raise
        raise StudyError(f"{error}; did you mean '{file}:{reference.name}'?") from error


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


@contextmanager
def explained(where: str, references: Sequence[Reference]) -> Iterator[None]:
    """Says in a line what fails in a study's own code, where it names some; this program's own errors stay as they are.

    Raises:
        StudyError: that says so.
    """
    try:
        yield
    except HpoError:
        raise
    except (Exception, SystemExit) as error:
        if not references:
            raise
        raise StudyError(f"{where}: {explain_code(error)}") from error


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
        if _is_below(path, root):
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
        if path.endswith(".py") and not is_below(path):
            raise StudyError(f"{path!r} is no path below the folder of code")
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
