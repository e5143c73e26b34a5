"""Rewrites what documents show of the program: transcripts, the files in docs/architecture.md, the
outcomes of tests/chaos, and of the reproduction what docs/reproduction.json has.

    python -m docs.regenerate

Commands run in order, in one empty folder. Of the progress, which goes to standard error, only the last line is kept.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from hpo.reports.document import fill, render
from hpo.reports.reproduction import Reproduction
from tests.chaos.__main__ import FILE, read, table
from tests.test_layers import FOLDERS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
WALK = ROOT / "docs" / "walk.md"  # comes before README, which shows what was found
PAIRS = ROOT / "docs" / "digit_pairs.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CONSOLE = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
RELIABILITY = ROOT / "docs" / "reliability.md"
REPRODUCTION = ROOT / "docs" / "reproduction.md"
CHAOS = re.compile(r"(?<=<!-- chaos -->\n).*?(?=<!-- end -->)", re.DOTALL)
TREE = re.compile(r"(?<=<!-- tree -->\n```\n).*?(?=```)", re.DOTALL)
CONTENT = ("examples", "models", "studies", "benchmarks")  # beside the program itself
Run = Callable[[Sequence[str], Path], subprocess.CompletedProcess[str]]


def python_m_hpo(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `hpo` in a folder, on a terminal of 100 columns."""
    return subprocess.run(
        [sys.executable, "-m", "hpo", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )


def regenerate(texts: Sequence[str], run: Run = python_m_hpo) -> list[str]:
    """Returns texts with their transcripts made again, all in one folder."""
    with tempfile.TemporaryDirectory() as folder:
        return [CONSOLE.sub(lambda block: transcript(block.group(), Path(folder), run), text) for text in texts]


def fill_reproduction(text: str) -> str:
    """Returns a text with the parts of the reproduction made again from what was measured."""
    found = Reproduction.read(REPRODUCTION.with_suffix(".json"))
    return fill(text, render(found, REPRODUCTION.parent))


def chaos_table() -> str:
    """Returns the table of the scenarios that have been played."""
    return table(read(FILE)) + "\n"


def transcript(block: str, folder: Path, run: Run) -> str:
    """Runs the `$ hpo …` lines of a console block, and returns them with what they print."""
    parts = []
    for command in (line[2:] for line in block.splitlines() if line.startswith("$ ")):
        program, *arguments = shlex.split(command)
        if program != "hpo":
            raise ValueError(f"README's transcripts run hpo, not {program}")
        done = run(arguments, folder)
        progress = done.stderr.splitlines()[-1:]
        printed = "\n".join(line.rstrip() for line in [*progress, *done.stdout.splitlines()])
        parts.append(f"$ {command}\n{printed.strip()}\n")
    return "\n".join(parts)


def tree() -> str:
    """Returns the files of the project, each with the first sentence of its docstring or title."""
    rows: list[tuple[str, str]] = []
    for folder in (*(ROOT / "hpo" / name for name in FOLDERS), *(ROOT / name for name in CONTENT)):
        init = folder / "__init__.py"
        rows += [("", ""), (f"{folder.relative_to(ROOT)}/", _caption(init) if init.exists() else "")]
        rows += [(f"  {name}", caption) for name, caption in _files(folder)]
    return _lines(rows[1:], width=32)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    inner = [file for file in folder.rglob("*") if file.suffix in (".py", ".toml") and not file.name.startswith("__")]
    for file in sorted(inner, key=lambda file: (len(file.relative_to(folder).parts), file)):
        if folder != ROOT / "hpo" or file.parent == folder:
            yield file.relative_to(folder).as_posix(), _caption(file)


def _lines(rows: Iterable[tuple[str, str]], width: int) -> str:
    return "".join(f"{name:<{width}}{caption}\n".rstrip() + "\n" for name, caption in rows)


def _caption(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".toml":
        return str(tomllib.loads(text).get("title") or text.partition("\n")[0].lstrip("# ").rstrip(","))
    summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")
    sentence = re.match(r".*?[.;](?=\s|$)", summary)
    return (sentence.group() if sentence else summary).rstrip(".;")


if __name__ == "__main__":
    shown = (WALK, README)
    for file, text in zip(shown, regenerate([one.read_text(encoding="utf-8") for one in shown]), strict=True):
        file.write_text(text, encoding="utf-8")
    PAIRS.write_text(fill_reproduction(PAIRS.read_text(encoding="utf-8")), encoding="utf-8")
    text = ARCHITECTURE.read_text(encoding="utf-8")
    ARCHITECTURE.write_text(TREE.sub(lambda _: tree(), text), encoding="utf-8")
    text = RELIABILITY.read_text(encoding="utf-8")
    RELIABILITY.write_text(CHAOS.sub(lambda _: chaos_table(), text), encoding="utf-8")
    REPRODUCTION.write_text(fill_reproduction(REPRODUCTION.read_text(encoding="utf-8")), encoding="utf-8")
