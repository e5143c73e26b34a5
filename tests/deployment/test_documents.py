"""Documents stay true: what README shows is what the program prints, and what it names is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

import pytest

from benchmarks import beyond
from docs import regenerate
from hpo.cli.manage.templates import TEMPLATES
from hpo.reports.document import fill
from hpo.study.definition import Protocol
from hpo.study.run import Run
from hpo.study.training import TRAINED_BY, Training
from hpo.tasks.digit_pairs.task import DigitPairs
from tests.program import commands, hpo

README = Path("README.md").read_text(encoding="utf-8")


def skeleton(text: str) -> list[str]:
    """What does not depend on the processor: lines without numbers, the winner's parameters, verdicts, and caveats."""
    text = re.sub(r"(?<=\$ hpo compare quickstart\n)(?:(?!\$ |```).*\n)+", "(an answer)\n", text)
    text = re.sub(r"(?m)^skewed errors: (?:.+\n)+\n?", "", text)  # theirs are there where errors of rounds lie so
    lines = [line for line in text.splitlines() if not line.startswith("  ")]
    lines = [re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*", "0", line)) for line in lines]
    verdict = (
        r"0 (?:and 0 do not differ significantly|is (?:worse|better) than 0)|"
        r", 0 points too (?:opti|pessi)mistic|[+-](?=0)"
    )
    return [re.sub(verdict, "(a verdict)", line) for line in lines]


def run(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = hpo(*arguments, folder=folder, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_documents_show_what_the_commands_print() -> None:
    """`python -m docs.regenerate` mends it."""
    shown = [file.read_text(encoding="utf-8") for file in (regenerate.WALK, regenerate.README)]
    for text, again in zip(shown, regenerate.regenerate(shown, run), strict=True):
        assert skeleton(again) == skeleton(text)


def test_the_folders_and_files_are_shown_as_they_are() -> None:
    """`python -m docs.regenerate` mends it."""
    files = regenerate.ARCHITECTURE.read_text(encoding="utf-8")
    assert regenerate.TREE.search(files).group() == regenerate.tree()  # type: ignore[union-attr]


def test_the_outcomes_of_chaos_are_shown_as_they_are() -> None:
    text = regenerate.RELIABILITY.read_text(encoding="utf-8")
    assert regenerate.CHAOS.search(text).group() == regenerate.chaos_table()  # type: ignore[union-attr]


@pytest.mark.parametrize("document", [regenerate.PAIRS, regenerate.REPRODUCTION], ids=lambda path: path.name)
def test_what_was_reproduced_is_shown_as_it_was_measured(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert regenerate.fill_reproduction(text) == text


def test_the_search_beyond_the_reports_is_shown_as_it_was_measured() -> None:
    """`python -m benchmarks.beyond` mends the document."""
    found = json.loads(beyond.KEPT.read_text(encoding="utf-8"))
    text = beyond.DOCUMENT.read_text(encoding="utf-8")
    assert fill(text, beyond.parts_of(found)) == text
    (champion,) = (one for one in found["champions"] if one["label"] == "Champion")
    assert f"{mean(champion['errors']['recognition']):.2f} %" in README


@pytest.mark.parametrize("document", sorted(Path().glob("*.md")) + sorted(Path("docs").glob("*.md")), ids=str)
def test_every_command_in_a_document_exists_with_its_options(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    written = re.findall(r"`(hpo [^`]+)`|^(?:    |\$ )(hpo .+)$", text, flags=re.MULTILINE)
    assert written or document.name != "README.md"
    for inline, line in written:
        for command in re.split(r"  +|\s#|; ", inline or line)[:1]:
            _, name, *words = shlex.split(command.replace("…", ""))
            if name in {"COMMAND", "--help"}:
                continue
            assert name in commands(), f"{document}: {command}"
            known = {option for parameter in commands()[name].params for option in parameter.opts}
            for word in words:
                assert not word.startswith("--") or word in {*known, "--help"}, f"{document}: {command}"


def test_make_quickstart_is_readmes_first_command_and_writes_where_the_next_ones_read() -> None:
    made = re.findall(r"\$\(BIN\)/(hpo .+)", Path("Makefile").read_text(encoding="utf-8"))
    assert len(made) == 1
    walk = regenerate.WALK.read_text(encoding="utf-8")
    assert regenerate.CONSOLE.search(walk).group().startswith(f"$ {made[0]}")  # type: ignore[union-attr]
    assert "--storage" not in made[0]


def test_readmes_python_runs_beside_what_hpo_init_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text(TEMPLATES["function"]["NAME.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    for name in ("HPO_STORAGE", "HPO_STORAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert "optimize(trials=50)" in found
    said: list[str] = []
    exec(found.replace("trials=50", "trials=4"), {"print": lambda *parts, sep: said.extend(map(str, parts))})
    monkeypatch.delitem(sys.modules, "mine")
    assert [text.startswith("study objective: ") for text in said] == [True, True]


def test_every_command_is_documented() -> None:
    text = Path("docs/commands.md").read_text(encoding="utf-8")
    for name in commands():
        assert f"hpo {name}" in text


def test_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 150
    assert len(README.encode()) <= 9000


@pytest.mark.parametrize("document", sorted(Path().glob("*.md")) + sorted(Path("docs").glob("*.md")), ids=str)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document}: {target}"


def test_the_study_format_is_documented_whole() -> None:
    text = Path("docs/studies.md").read_text(encoding="utf-8")
    tables: dict[str, Iterable[str]] = {
        table.__name__: table.model_fields for table in (DigitPairs, Training, Protocol, Run)
    }
    for name, keys in {**tables, "space": [*DigitPairs.rules, *TRAINED_BY]}.items():
        for key in keys:
            assert re.search(rf"\b{key}\b", text), f"{name}.{key}"


@pytest.mark.parametrize(
    "document", [*Path().glob("*.md"), *Path("docs").glob("*.md"), Path("pyproject.toml")], ids=str
)
def test_every_file_that_is_named_is_there(document: Path) -> None:
    for name in re.findall(
        r"\b((?:hpo|tests|benchmarks|docs|models|studies)/[\w/]+\.(?:py|toml|md))\b", document.read_text()
    ):
        assert Path(name).exists() or "NAME" in name, name
