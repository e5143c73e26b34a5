"""What is typed for a name, and names that were stored before there was a rule, as every command meets them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from hpo.storage.backends import open_storage
from tests.conftest import SMALL_STUDY, create, defined
from tests.program import TINY, assert_one_line, hpo, hpo_in_one_process

EVIL = "../../evil\n\x1b]0;title\x07\x1b[31m <b> | `x` $HOME; it's \u202e"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose storage has a study of a name that no study could be given today."""
    folder = tmp_path_factory.mktemp("stored") / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(TINY.replace("A tiny search", "A `title` | <b>\\u001b[31m\\nof two lines"))
    done = hpo_in_one_process("optimize", "--study", "tiny.toml", "--trials", "2", folder=folder)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(folder / "hpo.db") as connection:
        connection.execute("update studies set study_name = ?", (EVIL,))
        connection.execute(
            "update trial_user_attributes set value_json = ? where key = 'device'", (json.dumps(f"=cpu {EVIL}"),)
        )
    connection.close()
    return folder


def assert_harmless(done: subprocess.CompletedProcess[str]) -> None:
    """What was printed holds no control characters, and no line that a name has begun."""
    for text in (done.stdout, done.stderr):
        assert all(character.isprintable() or character == "\n" for character in text), ascii(text)


def test_a_study_is_created_under_no_name_that_is_no_name(tmp_path: Path) -> None:
    """tests/text/test_names.py has all such names."""
    refused = hpo("optimize", "--study", "quickstart", "--trials", "1", "--name", "../\x1b[2J", folder=tmp_path)
    assert_one_line(refused, 2, "a study's name must be 1 to 100 printable characters", "--name gives another")
    assert_harmless(refused)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--dataset", "digits"]], ids=str)
def test_the_name_of_a_file_is_held_against_the_rule_too(more: list[str], tmp_path: Path) -> None:
    for stem in ("-x", "two\nlines", " x"):
        (tmp_path / f"{stem}.toml").write_text(TINY.replace('"digits"', '"mnist"' if more else '"digits"'))
        refused = hpo("optimize", "--study", f"{tmp_path}/{stem}.toml", "--trials", "1", *more, folder=tmp_path)
        assert_one_line(refused, 2, "a study's name must be")
    assert not (tmp_path / "hpo.db").exists()


def test_a_study_of_any_stored_name_is_shown_by_every_command(stored: Path) -> None:
    for words in (
        ["status"],
        ["status", "--study", EVIL],
        ["best", "--study", EVIL],
        ["trials", "--study", EVIL],
        ["list"],
        ["show", "tiny.toml"],
        ["drift", "--only-show", "--study", EVIL],
    ):
        done = hpo(*words, folder=stored, COLUMNS="200")
        assert done.returncode == 0, done.stderr
        assert_harmless(done)
        if words[0] in ("status", "best", "drift"):
            assert r"../../evil\n\x1b]0;title\x07\x1b[31m" in done.stdout
    assert json.loads(hpo("status", "--study", EVIL, "--json", folder=stored).stdout)["study"] == EVIL
    mistyped = hpo("best", "--study", "evil", folder=stored)
    assert_one_line(mistyped, 2, r"there are: ../../evil\n\x1b]0;title\x07")
    assert_harmless(mistyped)


def test_trials_as_csv_hold_no_control_characters_and_no_formulas(stored: Path) -> None:
    done = hpo("trials", "--csv", "--study", EVIL, folder=stored)
    assert done.returncode == 0, done.stderr
    assert_harmless(done)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 2
    assert all(row["device"].startswith(r"'=cpu ../../evil\n\x1b") for row in rows)


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_trials_as_csv_have_their_headings_before_there_is_a_trial(storage_url: str, tmp_path: Path) -> None:
    create(open_storage(storage_url, create=True), "small", defined(SMALL_STUDY, name="small"), 10)
    done = hpo("trials", "--csv", "--study", "small", "--storage", storage_url, folder=tmp_path)
    (heads,) = csv.reader(io.StringIO(done.stdout))
    assert heads[:7] == ["number", "state", "value", "std", "round 0", "round 1", "round 2"]
    assert set(SMALL_STUDY["space"]) < set(heads)


def test_a_report_is_written_into_its_folder_alone_and_says_where(stored: Path) -> None:
    around = stored.parent.parent
    before = set(around.rglob("*"))
    done = hpo_in_one_process("report", "--study", EVIL, "-o", "deep/report", folder=stored)
    assert done.returncode == 0, done.stderr
    assert_harmless(done)
    written = {file for file in set(around.rglob("*")) - before if file.is_file()}
    assert {file.suffix for file in written} >= {".html", ".md"}
    assert all(file.is_relative_to(stored / "deep" / "report") for file in written)
    assert set(done.stdout.strip().splitlines()) >= {str(file.relative_to(stored)) for file in written}
    (page,) = (file.read_text() for file in written if file.suffix == ".html")
    own = page.partition("<script>")[0]
    assert "<b>" not in own
    assert "\x1b" not in own
    (text,) = (file.read_text() for file in written if file.suffix == ".md")
    assert text.startswith("# A \\`title\\` \\| &lt;b>\\\\x1b\\[31m of two lines\n")
    assert "\x1b" not in text
    shutil.rmtree(stored / "deep")


def test_a_study_of_any_stored_name_goes_on_and_is_confirmed(stored: Path, tmp_path: Path) -> None:
    for file in stored.glob("hpo.db*"):
        shutil.copy(file, tmp_path)
    for words in (["optimize", "--trials", "3"], ["confirm", "--rounds", "5", "--top", "1"], ["drift"]):
        done = hpo_in_one_process(*words, "--study", EVIL, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert_harmless(done)
    names = [study["study"] for study in json.loads(hpo("status", "--json", folder=tmp_path).stdout)]
    assert names[0] == EVIL
    assert len(names) == 3
    assert all(name.isprintable() and "/" not in name for name in names[1:])
    assert [study["complete"] for study in json.loads(hpo("status", "--json", folder=tmp_path).stdout)] == [3, 1, 1]


def test_a_study_of_the_longest_name_is_confirmed(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    name = "x" * 100
    started = hpo_in_one_process("optimize", "--study", "tiny.toml", "--name", name, "--trials", "1", folder=tmp_path)
    assert started.returncode == 0, started.stderr
    assert f"hpo confirm {name}\n" in started.stdout
    done = hpo_in_one_process("confirm", "--study", name, "--rounds", "5", "--top", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [study["study"] for study in json.loads(hpo("status", "--json", folder=tmp_path).stdout)][1] == (
        f"{name}-confirm"
    )
