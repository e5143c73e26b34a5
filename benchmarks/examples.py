"""Plays the examples, each in an empty folder: 30 trials, and its best on fresh rounds; fills docs/examples.md.

python -m benchmarks.examples          # HPO_DATA names the folder of MNIST
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DOCUMENT = ROOT / "docs" / "examples.md"
FILLED = re.compile(r"(?<=<!-- examples -->\n).*?(?=<!-- end -->)", re.DOTALL)
NAMES = ("spirals", "forest", "boosting", "mnist", "focal")
COMMANDS = ("hpo optimize NAME --trials 30", "hpo confirm NAME --rounds 10")
COLUMNS = "100"


def lines_of(file: Path) -> int:
    """Returns how many lines of code a file has, without blank ones, comments and docstrings."""
    if not file.exists():
        return 0
    return len(ast.unparse(_without_docstrings(ast.parse(file.read_text(encoding="utf-8")))).splitlines())


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def play(name: str) -> str:
    """Runs an example's commands; returns what is said of it, with a transcript."""
    title = tomllib.loads((EXAMPLES / f"{name}.toml").read_text(encoding="utf-8"))["title"]
    code = lines_of(EXAMPLES / f"{name}.py")
    about = f"`{name}.toml`, and {code} lines of code in `{name}.py`." if code else f"`{name}.toml` alone."
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for file in EXAMPLES.glob(f"{name}.*"):
            shutil.copy(file, folder)
        for command in COMMANDS:
            words = command.replace("NAME", name).split()
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": COLUMNS}
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            seconds = time.perf_counter() - began
            printed = done.stdout.partition("\nnext:")[0].rstrip()
            shown.append(
                f"$ {' '.join(words)}      # {seconds:.0f} s\n" + "\n".join(map(str.rstrip, printed.splitlines()))
            )
    block = "\n\n".join(shown)
    return f"## {title}\n\n{about}\n\n```text\n{block}\n```\n"


if __name__ == "__main__":
    played = "\n".join(map(play, NAMES))
    DOCUMENT.write_text(FILLED.sub(lambda _: played, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
