"""Who may import whom: a file of `hpo/` imports only from rows above its own, and each library has one home."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = [
    {"errors", "arguments"},
    {
        "files",
        "guard",
        "server",
        "seeding",
        "locks",
        "frozen",
        "signals",
        "streams",
        "escaping",
        "text_files",
        "presence",
    },
    {"address", "names", "markdown", "kept", "formatting", "limits"},
    {"frugal"},
    {"outages", "commands", "output", "console"},
    {
        "datasets",
        "tables",
        "provenance",
        "sqlite",
        "postgresql",
        "architecture",
        "pruning",
        "sweep",
        "statistics",
        "kernels",
        "columns",
    },
    {"space", "search", "data", "storage", "winograd", "dense"},
    {"claims", "fused", "artifacts", "repetition", "figures"},
    {"records"},
    {"study", "recipe"},
    {"rounds"},
    {"linear", "captured"},
    {"training"},
    {"range_test"},
    {"catalog", "sampling", "results", "dashboard"},
    {"budget", "reproduction", "confirmation", "drift"},
    {"worker", "views", "document", "effects"},
    {"findings", "progress"},
    {"report_figures", "note"},
    {"report"},
    {"page", "sharing"},
    {"crew", "terminal"},
    {"objective", "optimize"},
    {"export"},
    {"cli_options"},
    {"cli_read", "cli_work", "cli_lab", "cli_write"},
    {"cli"},
    {"entry"},
    {"__main__", "__init__"},
]
HOMES = {
    "torch": {
        *("data", "architecture", "winograd", "fused", "recipe", "rounds", "linear", "captured", "training"),
        *("range_test", "objective", "export", "__init__"),
    },
    "numba": {"kernels"},
    "optuna": {
        *("frozen", "frugal", "outages", "sqlite", "postgresql", "storage", "records", "budget", "pruning", "results"),
        *("sampling", "claims", "kept"),
        *("worker", "crew", "optimize", "objective", "dashboard", "reproduction", "document", "confirmation", "drift"),
        *("artifacts", "effects", "report", "report_figures", "note", "sharing"),
    },
    "torchvision": set(),  # only the program that downloads MNIST, in hpo/datasets.py, imports it
    "safetensors": {"export"},
    "sqlalchemy": {"artifacts", "claims", "frozen", "frugal", "outages", "sqlite", "postgresql", "storage", "records"},
    "optuna_dashboard": {"dashboard", "note"},
    "waitress": {"server"},
    "plotly": {"figures", "document", "dashboard", "report_figures", "report", "page"},
    "scipy": {"statistics", "dense"},
    "rich": {"console", "columns", "progress", "terminal", "views", "cli_lab", "cli_write"},
    "click": {"arguments", "output", "cli", "cli_options", "cli_read", "cli_work", "cli_lab", "cli_write"},
}
FILES = {file.stem: file for file in Path("hpo").glob("*.py")}


def imports(file: Path) -> tuple[set[str], set[str]]:
    """Returns the files of hpo/ and the libraries that a file imports, wherever in it."""
    ours, libraries = set(), set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            libraries |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            ours |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            libraries.add(node.module.partition(".")[0])
    return ours - {"__version__"}, libraries


def test_every_file_has_a_row() -> None:
    rows = [name for row in ROWS for name in row]
    assert sorted(rows) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_rows_above_its_own(name: str) -> None:
    above: set[str] = set()
    for row in ROWS:
        if name in row:
            break
        above |= row
    assert imports(FILES[name])[0] <= above


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_at_home(library: str) -> None:
    users = {name for name, file in FILES.items() if library in imports(file)[1]}
    assert users == HOMES[library]


def test_optuna_and_torch_meet_in_one_file() -> None:
    assert HOMES["torch"] & HOMES["optuna"] == {"objective"}


def test_networks_know_torch_alone() -> None:
    for file in Path("models").glob("*.py"):
        assert imports(file)[1] <= {"torch", "__future__", "collections", "functools", "itertools"}


def test_private_names_of_optuna_stand_in_few_files() -> None:
    for name, file in FILES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
                private = [part for part in (node.module or "").split(".") if part.startswith("_")]
                assert not private or name in {"frozen", "frugal", "storage", "claims", "records"}
            own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            if isinstance(node, ast.Attribute) and not own and node.attr in {"_trial_id", "_study_id", "_storage"}:
                assert name == "storage"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hpo.cli", ("torch", "optuna", "rich", "pydantic")),
        ("hpo.optimize", ("torch", "sklearn")),
        ("hpo.worker", ("torch",)),
        ("hpo.crew", ("torch",)),
    ],
)
def test_importing_loads_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FILES)
def test_what_is_printed_passes_through_the_escaping(name: str) -> None:
    """rich's own console would send what a text holds, `click.echo` would break a line where a name does."""
    text = FILES[name].read_text(encoding="utf-8")
    if name not in {"console", "columns", "terminal", "views"}:  # the last three draw in one that they are given
        assert not re.search(r"from rich(\.console)? import .*\bConsole\b", text)
    if name in {"columns", "terminal", "views"}:
        assert not re.search(r"\bConsole\(", text)
    if name not in {"output", "cli", "cli_options"}:  # help texts and JSON
        assert "click.echo(" not in text
    assert "html.escape(" not in text or name == "escaping"
