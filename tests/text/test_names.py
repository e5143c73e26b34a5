from __future__ import annotations

import pytest

from hpo.errors import RequestError
from hpo.text.names import LONGEST, LONGEST_DERIVED, LONGEST_FILE, check_name, derived_name, free_name, safe_file_name

BAD = [
    *("", " ", " a", "a ", "a/b", "../../evil", "/abs", ".", "..", "-x", "--study", "two\nlines", "a\tb", "a\x1b[2J"),
    *("caf\udce9", "a\u202eb", "\u200b", "\u3164", "a\u00a0", "a\x7f", "a\x85", "x" * (LONGEST + 1)),
]
GOOD = ["cnn", "my study", "it's 50% & $HOME; x", "größe", "実験", "[red]bold", "a.b", ".hidden", "x" * LONGEST]


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_new_study_has_no_name_that_is_hard_to_see_or_type(name: str) -> None:
    with pytest.raises(RequestError, match="1 to 100 printable characters without '/'") as raised:
        check_name(name)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("name", GOOD)
def test_a_new_study_may_have_any_name_that_can_be_read(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", [*GOOD, *BAD], ids=ascii)
@pytest.mark.parametrize("suffix", ["-confirm", "-confirm-2", f"-drift-{'host/' * 60}-cuda0", "-digits"])
def test_a_name_made_of_another_keeps_the_rule(name: str, suffix: str) -> None:
    derived = derived_name(name, suffix)
    assert derived == derived_name(name, suffix)
    assert len(derived) <= LONGEST_DERIVED
    check_name(derived[:LONGEST].strip())
    if name in GOOD and len(suffix) < 20:
        assert derived == name + suffix


def test_names_made_of_others_differ_where_those_do() -> None:
    long = "x" * 600
    made = [derived_name(name, suffix) for name in (*BAD, long + "1", long + "2") for suffix in ("-a", "-a-2")]
    assert len(set(made)) == len(made)


def test_a_name_that_is_there_already_is_taken_as_it_is() -> None:
    assert derived_name("a/b", "-confirm", ["a/b-confirm"]) == "a/b-confirm"


@pytest.mark.parametrize("name", [*GOOD, *BAD, "\ud800", "ä" * 300, "x" * 600, "...", "CON", "a:b*?"], ids=ascii)
def test_a_file_is_named_safely_whatever_the_study_is_called(name: str) -> None:
    file = safe_file_name(name)
    assert file not in ("", ".", "..")
    assert not file.startswith((".", "-"))
    assert "/" not in file
    assert len(file.encode()) <= LONGEST_FILE
    assert file.replace("-", "").replace(".", "").replace("_", "").isalnum()


def test_files_of_different_studies_differ() -> None:
    names = [*GOOD, *BAD, "a b", "a-b", "a+b", "x" * 600 + "1", "x" * 600 + "2"]
    names += [safe_file_name(name) for name in names if safe_file_name(name) != name]  # called as another's file
    names = list(dict.fromkeys(names))
    assert len({safe_file_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["cnn", "report_a_table_1", "tiny-confirm", "tiny-confirm-2", "größe", "a.b"])
def test_a_plain_name_is_the_files_too(name: str) -> None:
    assert safe_file_name(name) == name


def test_a_name_is_numbered_until_it_is_free_or_ours() -> None:
    known = ["a", "a-x", "a-x-2"]
    assert free_name("a", "-x", [], lambda name: False) == "a-x"
    assert free_name("a", "-x", known, lambda name: False) == "a-x-3"
    assert free_name("a", "-x", known, lambda name: name == "a-x-2") == "a-x-2"
