"""Bad input is one line and exit code 2, and starts nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from hpo.tasks.datasets import mnist_files
from tests.program import TINY, assert_one_line, hpo


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["optimize", "--study", "cn", "--trials", "5"], "no study named 'cn'; did you mean 'cnn'"),
        (["optimize", "--study", "absent.toml", "--trials", "5"], "absent.toml cannot be read"),
        (
            ["optimize", "--study", "quickstart", "--trials", "0"],
            "it must be a whole number from 1 to 1000000, but is '0'",
        ),
        (["optimize", "--study", "quickstart"], "needs a number of trials, as in --trials 200"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--workers", "none"], "--workers must be a number"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--device", "gpu"], "--device must be auto, cpu"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--storage", "hpo.db"], "is no database URL"),
        (["optimize", "--study", "wrong.toml", "--trials", "5"], "no architecture named 'fn'; did you mean 'fnn'"),
        (["optimize", "--study", "many.toml", "--trials", "5"], "train_pairs must be at most 1434006"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--device", "cuda:7"], "this machine shows"),
        (["check", "mine.py:f"], "no study named 'mine.py:f'; code is measured by a study that names it"),
        (
            ["optimize", "quickstart", "--trials", "5", "--sampler", "gp", "--set", "sampler.name=tpe"],
            "sampler.name is to be 'gp' and 'tpe'; give it once",
        ),
        (["check", "report_a_table_1", "--sampler", "gp"], "the study lists its trials: there is no sampler"),
        (["optimise"], "no command named 'optimise'; did you mean 'optimize'?"),
        (["status"], "sqlite:///hpo.db does not exist; hpo optimize creates it"),
        (["best", "--study", "cnn"], "does not exist"),
        (["dashboard"], "does not exist"),
        (["status", "--storage", "sqlite:///songs.db"], "is the database of another program (it has songs)"),
        (["show", "lenett"], "no study or architecture named 'lenett'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(TINY.replace('"fnn"', '"fn"'))
    (tmp_path / "many.toml").write_text(TINY.replace("train_pairs = 100", "train_pairs = 2000000"))
    connection = sqlite3.connect(tmp_path / "songs.db")
    connection.execute("create table songs (title text)")
    connection.close()
    assert_one_line(hpo(*arguments, folder=tmp_path), 2, complaint)
    if arguments[0] != "optimize":
        assert {file.name for file in tmp_path.iterdir()} == {"wrong.toml", "many.toml", "songs.db"}


def test_mnist_that_is_not_here_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    refusing = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    done = hpo(
        "optimize", "--study", "cnn", "--trials", "5", "--data", str(tmp_path / "data"), folder=tmp_path, **refusing
    )
    assert done.returncode == 2
    *_, last = done.stderr.strip().splitlines()
    assert str(mnist_files(tmp_path / "data")) in last
    assert "--dataset digits" in last
    assert "Traceback" not in done.stderr
