from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from hpo.text.commands import command, command_here, this_command

NAMES = [
    "cnn",
    'it\'s "50%" & $HOME; rm -rf x',
    "two\nlines",
    "\x1b[31m",
    "a\\b\x07'c",
    "",
    "-x",
    "caf\udce9",
    "a`id`b",
    "größe\u202e",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_suggested_command_is_taken_by_a_shell_as_it_was_meant(name: str) -> None:
    suggested = command("best", "--study", name)
    assert suggested.isprintable()
    assert "`" not in suggested  # it stands between two in reports
    printed = subprocess.run(
        ["bash", "-c", f"hpo() {{ printf '%s\\0' \"$@\"; }}; {suggested}"], capture_output=True, check=True
    )
    words = printed.stdout.split(b"\0")[:-1]
    named = [b"--study"] if name.startswith("-") else []
    assert words == [b"best", *named, name.encode("utf-8", "surrogateescape")]


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["--storage", "sqlite:///my db.db"], "--storage 'sqlite:///my db.db'"),
        (["--storage=postgresql://u:secret@h/d"], "--storage 'postgresql://u:***@h/d'"),
        (["--storage-file", "the url"], "--storage-file 'the url'"),
        ([], ""),
    ],
)
def test_a_suggested_command_names_the_storage_that_this_one_was_given(
    given: list[str], options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hpo", "optimize", "--study", "x", *given])
    assert command_here("best", "--study", "a b") == f"hpo best 'a b' {options}".strip()
    assert "secret" not in this_command()
    assert shlex.split(this_command("--trial", "3"))[-2:] == ["--trial", "3"]
    monkeypatch.setattr(sys, "argv", ["notebook.py", *given])
    assert command_here("best", "--study", "a b") == "hpo best 'a b'"
