"""What a session of tests makes once and keeps, where the program's processes make it each for itself."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from _pytest.assertion import rewrite
from alembic.script import ScriptDirectory
from numba.core.dispatcher import Dispatcher
from optuna.storages._rdb.storage import _VersionManager as VersionManager
from sqlalchemy.engine import Dialect
from sqlalchemy.util import LRUCache


def prepare() -> None:
    """Has this process, and what is forked from it, make these things once."""
    vars(sa.util)["LRUCache"] = _statements
    _read_revisions_once()
    _compile_kernels_once()


def compile_modules() -> None:
    """Compiles the program's modules: processes that may not write bytecode (PYTHONDONTWRITEBYTECODE) still read it."""
    for folder in ("hpo", "models", "tests"):
        compileall.compile_dir(folder, quiet=2)


def rewrite_tests(config: pytest.Config) -> None:
    """Keeps the tests as pytest rewrites them, which takes each of a session's processes seconds; they read it then.

    With another pytest, whose functions these are not, each process rewrites them itself.
    """
    try:
        for file in sorted(Path(__file__).parent.rglob("*.py")):
            kept = rewrite.get_cache_dir(file) / (file.name[: -len(".py")] + rewrite.PYC_TAIL)
            if (file.name.startswith("test_") or file.name == "conftest.py") and not rewrite._read_pyc(file, kept):
                kept.parent.mkdir(exist_ok=True)
                status, code = rewrite._rewrite_test(file, config)
                rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, status, kept)
    except (AttributeError, TypeError):
        return


class _OfAlikeDialects(LRUCache[Any, Any]):
    """Compiled statements, which all engines of a kind and with the same settings find.

    Each compiles sixty, which takes half a second, and tests make hundreds of engines.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_by_settings(key), default)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_by_settings(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_by_settings(key), value)


_OF_ENGINES = _OfAlikeDialects(10_000)


def _statements(size: int, size_alert: Any = None) -> _OfAlikeDialects:
    return _OF_ENGINES if size_alert else _OfAlikeDialects(size)  # only an engine's says when it is full


def _by_settings(key: Any) -> Any:
    if not (isinstance(key, tuple) and key and isinstance(key[0], Dialect)):
        return key
    dialect, *rest = key
    simple = {name: value for name, value in vars(dialect).items() if isinstance(value, bool | int | str | tuple)}
    return type(dialect), tuple(sorted((name, str(value)) for name, value in simple.items())), *rest


def _read_revisions_once() -> None:
    """Optuna imports the files of its thirty revisions for each storage that it makes, which takes a quarter second."""
    make, made = VersionManager._create_alembic_script, list[ScriptDirectory]()

    def once(manager: VersionManager) -> ScriptDirectory:
        made[:] = made or [make(manager)]
        return made[0]

    setattr(VersionManager, "_create_alembic_script", once)  # noqa: B010


def _compile_kernels_once() -> None:
    """Has one process compile a kernel while others that want it wait, and read it from Numba's cache then."""
    compile_one = Dispatcher.compile

    def compile_locked(dispatcher: Any, signature: Any) -> Any:
        function = dispatcher.py_func
        place = f"{function.__code__.co_filename}:{function.__qualname__}"
        folder = Path(tempfile.gettempdir()) / f"hpo-kernels-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        with (folder / hashlib.sha256(place.encode()).hexdigest()[:20]).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return compile_one(dispatcher, signature)

    setattr(Dispatcher, "compile", compile_locked)  # noqa: B010
