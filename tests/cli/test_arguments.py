"""Options and arguments: what is none of their kind is one line, and nothing is begun."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.program import assert_one_line, hpo

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        *(
            (["optimize", "--study", "quickstart", "--trials", given], "must be a whole number from 1 to 1000000")
            for given in ("1_0", "٣", "²", "1e3", "0", "-3", "", "+5", "0x10", LONG)
        ),
        (["lr-find", "--low", "1_0"], "must be a number from 1e-30 to 1000000000, but is '1_0'"),
        (["lr-find", "--low", "nan"], "must be a number from 1e-30 to 1000000000, but is 'nan'"),
        (
            ["lr-find", "--set", "a.b=1"],
            "--set a.b is not for a range test, but for a parameter: --set space.NAME=VALUE",
        ),
        (["dashboard", "--port", "99999"], "must be a whole number from 1 to 65535, but is '99999'"),
        (["dashboard", "--host", ""], "it must name a host, but is empty"),
        (["dashboard", "--allow-host", ""], "it must name a host, but is empty"),
        (["status", "--storage-file", ""], "it must name a file, but is empty"),
        (["optimize", "--study", "quickstart", "--trials", "1", "--data", ""], "it must name a folder, but is empty"),
        (["optimize", "--study", "quickstart", "--trials", "1", "--data", "hpo.db"], "is a file"),
        (["report", "--study", "tiny", "-o", ""], "it must name a folder, but is empty"),
        (["export", "--study", "tiny", "-o", ""], "it must name a file, but is empty"),
        (["export", "--study", "tiny", "-o", ".json"], "-o must name a file, but is '.json'"),
        (["export", "--study", "tiny", "-o", "new/"], "it must name a file, but 'new/' is a folder"),
        (["export", "--study", "tiny", "-o", "/dev/null"], "-o must name a file, but is '/dev/null'"),
        (["show", "cnn", "-o", ""], "it must name a file, but is empty"),
        (["reproduce", ""], "no table or figure named ''"),
        (["optimize", "--study", "quickstart", "--trials", "1", "--workers", LONG], "--workers must be a number"),
    ],
    ids=lambda given: " ".join(given)[:40] if isinstance(given, list) else "",
)
def test_what_is_no_argument_is_one_line(arguments: list[str], complaint: str, studied: Path) -> None:
    before = sorted(path.name for path in studied.iterdir())
    done = hpo(*arguments, folder=studied)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert complaint in line
    assert len(line) < 400
    assert sorted(path.name for path in studied.iterdir()) == before


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database."""
    folder = tmp_path_factory.mktemp("studied")
    (folder / "hpo.db").touch()
    return folder


def test_a_pipe_among_the_studies_is_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    os.mkfifo(tmp_path / "studies" / "pipe.toml")
    listed = hpo("list", folder=tmp_path)
    assert (listed.returncode, "is no regular file" in listed.stdout) == (0, True)
    shown = hpo("show", "pipe", folder=tmp_path)
    assert shown.stderr == "hpo: study file studies/pipe.toml is no regular file\n"


def test_a_name_is_the_file_of_that_name_which_is_here(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    for words in (["mine"], ["--study", "mine"], ["mine.toml"]):
        assert_one_line(hpo("optimize", *words, "--trials", "1", folder=tmp_path), 2, "study 'mine': title is missing")
    (tmp_path / "quickstart.toml").touch()
    done = hpo("optimize", "quickstart", "--trials", "1", folder=tmp_path)
    assert_one_line(done, 2, "quickstart.toml has the name of a study of hpo's own; give the file as quickstart.toml")


def test_a_study_is_named_once(tmp_path: Path) -> None:
    assert_one_line(hpo("best", folder=tmp_path), 2, "name a study, as in hpo best quickstart")
    twice = hpo("best", "one", "--study", "other", folder=tmp_path)
    assert_one_line(twice, 2, "a study is named once, but twice here: 'one' and --study 'other'")


@pytest.mark.parametrize("size", ["0", "00", "²", "٣", "-5", LONG, "wide"])
def test_a_terminal_whose_size_is_no_size_is_drawn_in(size: str, tmp_path: Path) -> None:
    done = hpo("list", folder=tmp_path, COLUMNS=size, LINES=size)
    assert (done.returncode, "quickstart" in done.stdout, done.stderr) == (0, True, "")
