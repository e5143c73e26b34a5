from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import RequestError
from hpo.storage.url import DEFAULT, FILE, URL, find_url
from hpo.text.secrets import without_secrets


def test_a_url_comes_from_what_was_given_before_what_the_environment_names(tmp_path: Path) -> None:
    held = tmp_path / "url"
    held.write_text("sqlite:///held.db\n")
    known = {URL: "sqlite:///known.db"}
    assert find_url(environ={}) == DEFAULT
    assert find_url(environ={URL: ""}) == DEFAULT
    assert find_url(environ=known) == "sqlite:///known.db"
    assert find_url("sqlite:///given.db", environ=known) == "sqlite:///given.db"
    assert find_url(file=held, environ=known) == "sqlite:///held.db"
    assert find_url(environ={FILE: str(held)}) == "sqlite:///held.db"


def test_what_names_no_url_or_two_is_refused(tmp_path: Path) -> None:
    empty, both = tmp_path / "empty", {URL: "sqlite:///a.db", FILE: "b"}
    empty.write_text("\n")
    for complaint, url, file, environ in (
        ("not by both", "sqlite:///a.db", "b", {}),
        ("not by both", None, None, both),
        ("cannot be read", None, tmp_path / "none", {}),
        ("is empty", None, empty, {}),
        ("is empty", "", None, {}),
        ("one line of printable", "sqlite:///a\nb", None, {}),
        ("is empty", None, "", {}),
    ):
        with pytest.raises(RequestError, match=complaint):
            find_url(url, file, environ)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hpo status --storage postgresql://hpo:se/c:ret@db/hpo", "hpo status --storage postgresql://hpo:***@db/hpo"),
        (
            "postgresql+psycopg://a:b@h:5432/d and sqlite:///x.db",
            "postgresql+psycopg://a:***@h:5432/d and sqlite:///x.db",
        ),
        ("postgresql://hpo@db/hpo", "postgresql://hpo@db/hpo"),
    ],
)
def test_passwords_are_taken_out_of_texts(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
