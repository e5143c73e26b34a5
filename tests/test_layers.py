"""Who may import whom: a folder of `hpo/` imports only from folders above it, and each library has one home."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hpo.cli.main import COMMANDS

ROOT = Path("hpo")
FOLDERS = (
    "",
    "text",
    "study",
    "storage",
    "search",
    "workers",
    "kernels",
    "training",
    "tasks",
    "analysis",
    "report",
    "reports",
    "dashboard",
    "cli",
    "api",
)
"""In the order of who may import whom; the first holds what everybody may use."""
TOP = {"hpo", "hpo.__main__", "hpo.entry"}  # beside the folders, and above them all
HOMES = {
    "torch": {"kernels", "training", "tasks"},
    "numba": {"kernels"},
    "triton": {"kernels"},
    "optuna": {"storage", "search", "workers", "analysis", "report", "reports", "dashboard", "api"},
    "torchvision": {"tasks"},
    "safetensors": {"training"},
    "sqlalchemy": {"storage"},
    "optuna_dashboard": {"dashboard"},
    "waitress": {"dashboard"},
    "plotly": {"report", "reports", "dashboard"},
    "scipy": {"search", "analysis", "reports", "training", "tasks"},
    "sklearn": {"analysis", "tasks"},
    "filelock": {"kernels", "tasks"},
    "rich": {"cli"},
    "click": {"cli", "text"},
    "pydantic": {"study", "storage", "training", "tasks", "analysis", "reports"},
}
BY_TORCH = {"kernels", "training", "tasks"}  # folders that know torch and not optuna
BY_OPTUNA = {"storage", "search", "workers", "analysis", "report", "reports", "dashboard"}  # and the other way round
EVERYBODYS = {"hpo.training.lr_curve"}  # NumPy alone
LAZY = {"hpo"}  # imports torch for the type of what it returns
FILES = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in sorted(ROOT.rglob("*.py"))}


def folder_of(module: str) -> str:
    """`tasks` of `hpo.tasks.digit_pairs.pairs`; nothing of a file that lies in none."""
    parts = FILES[module].relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


@cache
def nodes(file: Path) -> list[ast.AST]:
    """Returns the whole of a file's syntax tree."""
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


@cache
def imports(file: Path) -> tuple[set[str], set[str]]:
    """Returns the files of hpo/ and the libraries that a file imports, wherever in it."""
    ours, libraries = set(), set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports by a relative name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [one if one in FILES else str(node.module) for one in whole]
        else:
            continue
        ours |= {one for one in found if one.partition(".")[0] == "hpo"}
        libraries |= {one.partition(".")[0] for one in found}
    return ours, libraries - {"hpo"}


def test_every_folder_has_its_place() -> None:
    assert {folder_of(module) for module in FILES} == set(FOLDERS)


def test_a_file_imports_only_from_its_folder_and_those_above() -> None:
    for module in FILES.keys() - TOP:
        above = FOLDERS[: FOLDERS.index(folder_of(module)) + 1]
        below = {one for one in imports(FILES[module])[0] - {"hpo"} if one in TOP or folder_of(one) not in above}
        assert below == set(), module


def test_files_folders_and_functions_are_of_a_length_to_be_read() -> None:
    for module, file in FILES.items():
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 300, module
        assert len(list(file.parent.glob("*.py"))) <= 20, file.parent
        for node in nodes(file):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{module}: {node.name}"


def test_no_import_goes_in_a_circle() -> None:
    graphlib.TopologicalSorter({module: imports(file)[0] - {"hpo"} for module, file in FILES.items()}).prepare()


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_at_home(library: str) -> None:
    users = {module for module, file in FILES.items() if library in imports(file)[1]}
    assert {folder_of(module) for module in users - LAZY} == HOMES[library]


def test_no_file_imports_both_optuna_and_torch() -> None:
    assert {module for module, file in FILES.items() if {"optuna", "torch"} <= imports(file)[1]} == set()


def test_the_columns_of_optuna_and_torch_do_not_touch() -> None:
    for module, file in FILES.items():
        for imported in imports(file)[0] - EVERYBODYS:
            folders = {folder_of(module), folder_of(imported)}
            assert not (folders & BY_TORCH and folders & BY_OPTUNA), f"{module} imports {imported}"


def test_networks_know_torch_alone() -> None:
    for file in Path("models").glob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert str(name).partition(".")[0] in {"torch", "__future__", "collections", "functools", "itertools"}


PRIVATE = {
    f"hpo.storage.{name}"
    for name in ["artifacts", "backends", "claims", "fast_rdb", "fast_reads", "frozen_trials", "queries", "statements"]
} | {"hpo.search.proposals"}


def test_private_names_of_optuna_stand_in_few_files() -> None:
    for module, file in FILES.items():
        for node in nodes(file):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
                private = [part for part in (node.module or "").split(".") if part.startswith("_")]
                assert not private or module in PRIVATE
            own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            if isinstance(node, ast.Attribute) and not own and node.attr in {"_trial_id", "_study_id", "_storage"}:
                assert module in {"hpo.storage.trials", "hpo.storage.artifacts", "hpo.storage.queries"}


CLI = sorted(file for file, _ in COMMANDS.values())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hpo.cli.main", ("torch", "optuna", "rich", "pydantic")),
        *((f"hpo.cli.{file.removesuffix('.py').replace('/', '.')}", ("torch", "optuna", "plotly")) for file in CLI),
        ("hpo.workers.launch", ("torch", "sklearn")),
        ("hpo.workers.worker", ("torch",)),
        ("hpo.workers.supervisor", ("torch",)),
        ("hpo.dashboard.note", ("torch", "sklearn", "optuna_dashboard")),  # the parent of every run writes one
        ("hpo.tasks.digit_pairs.pairs", ("sklearn", "torchvision")),
    ],
)
def test_importing_loads_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_printed_passes_through_the_escaping() -> None:
    """rich's own console would send what a text holds, `click.echo` would break a line where a name does."""
    for module, file in FILES.items():
        text = file.read_text(encoding="utf-8")
        if module not in {"hpo.cli.console", *DRAWN}:
            assert not re.search(r"from rich(\.console)? import .*\bConsole\b", text), module
        if module in DRAWN:
            assert not re.search(r"\bConsole\(", text), module
        if module not in {"hpo.text.output", "hpo.cli.main", "hpo.cli.options"}:  # help texts and JSON
            assert "click.echo(" not in text, module
        assert "html.escape(" not in text or module == "hpo.text.escaping", module


DRAWN = {"hpo.cli.columns", "hpo.cli.terminal", "hpo.cli.measure.lr_curve"}  # in a console that they are given


STEMS = {module.rpartition(".")[2]: file for module, file in FILES.items()}
OTHERS = {"torch", "nn", "optuna", "hpo", "pandas"}
FOLDERS_OF_FILES = ("hpo", "models", "benchmarks", "examples")
NAMES = {file.name for folder in FOLDERS_OF_FILES for file in Path(folder).rglob("*.py")} | {"signal.py", "NAME.py"}


def test_what_a_comment_refers_to_is_there() -> None:
    """`file.name` and file.py in docstrings and comments."""
    for module, path in FILES.items():
        text = path.read_text(encoding="utf-8")
        for stem, name in re.findall(r"`([a-z_]+)\.([A-Za-z_]+)(?:\(\))?`", text):
            if stem not in OTHERS and name != "py":
                assert stem in STEMS, f"{module}: {stem}.{name}"
                assert re.search(rf"\b{name}\b", STEMS[stem].read_text(encoding="utf-8")), f"{module}: {stem}.{name}"
        for file in re.findall(r"\b(\w+\.py)\b", text):
            assert file in NAMES, f"{module}: {file}"
