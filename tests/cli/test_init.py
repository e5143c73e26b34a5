"""`hpo init`: what it writes runs as it is, and it overwrites nothing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from hpo.cli.manage.templates import TEMPLATES
from tests.program import assert_one_line, hpo, hpo_in_one_process


@pytest.mark.parametrize("task", TEMPLATES)
def test_what_it_writes_is_checked_searched_and_keeps_its_promises(task: str, tmp_path: Path) -> None:
    done = hpo("init", "mine", "--task", task, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote mine.toml, mine.py, hpo.schema.json\n\nnext:\n  hpo check mine\n")
    study = (tmp_path / "mine.toml").read_text()
    schema = json.loads((tmp_path / "hpo.schema.json").read_text())
    assert study.startswith("#:schema hpo.schema.json\n")
    assert Draft202012Validator(schema).is_valid(tomllib.loads(study))
    for command in (["check", "--contract", "mine"], ["optimize", "mine", "--trials", "3", "--workers", "1"]):
        done = hpo_in_one_process(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "hpo confirm mine\n" in done.stdout


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    assert_one_line(
        hpo("init", "mine", folder=tmp_path), 2, "mine.py is here already; move it, or give the study another"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]
    assert_one_line(hpo("init", "cnn", folder=tmp_path), 2, "hpo has a study named 'cnn'; give yours another name")
    assert_one_line(hpo("init", "a/b", folder=tmp_path), 2, "a study's name must be")
    for name in ('my"s', "a\\d", "a:b", "a b"):
        assert_one_line(hpo("init", name, folder=tmp_path), 2, "a name here must have letters, digits, '_', '-' and")
    assert_one_line(hpo("init", folder=tmp_path), 2, "Missing argument 'NAME'")
