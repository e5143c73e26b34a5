from __future__ import annotations

from pathlib import Path

import pytest

from hpo.dashboard.server import choose_token
from hpo.errors import RequestError, StudyError
from hpo.storage.url import find_url
from hpo.study.definition import read_study
from hpo.text.files import is_utf8, read_text
from hpo.text.secrets import without_secrets
from tests.program import TINY, assert_one_line, hpo

STUDY = TINY.replace("A tiny search", "Eine kleine Größe")
READ = {
    "as it is": STUDY.encode(),
    "a byte order mark": STUDY.encode("utf-8-sig"),
    "CRLF": STUDY.replace("\n", "\r\n").encode(),
}
READ["both"] = READ["CRLF"].decode().encode("utf-8-sig")
REFUSED = {
    "UTF-16": STUDY.encode("utf-16"),
    "UTF-16 ": STUDY.encode("utf-16-le"),
    "UTF-16  ": b"\xfe\xff" + STUDY.encode("utf-16-be"),
    "UTF-32": STUDY.encode("utf-32"),
    r"Latin-1 \(line 2\)": STUDY.encode("latin-1"),
}


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_a_study_is_read_as_editors_save_it(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "my study.toml").write_bytes(data)
    assert read_study(tmp_path / "my study.toml").title == "Eine kleine Größe"


@pytest.mark.parametrize(("encoding", "data"), REFUSED.items(), ids=ascii)
def test_a_study_in_another_encoding_is_one_line_that_says_which(encoding: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(
        StudyError,
        match=f"mine.toml cannot be read: it is not UTF-8 but looks like {encoding.strip()}; save it as UTF-8$",
    ):
        read_study(tmp_path / "mine.toml")


def test_a_byte_that_no_text_has_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'title = "a\0b" and more')
    with pytest.raises(StudyError, match=r"mine.toml cannot be read: it holds the byte 0, as no text does$"):
        read_study(tmp_path / "mine.toml")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_url_and_a_token_are_read_as_editors_save_them(
    end: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_bytes(f"sqlite:///x.db{end}".encode(encoding))
    assert find_url(file=tmp_path / "url") == "sqlite:///x.db"
    (tmp_path / "token").write_bytes(f"{'x' * 20}{end}".encode(encoding))
    monkeypatch.setenv("HPO_DASHBOARD_TOKEN_FILE", str(tmp_path / "token"))
    assert choose_token("127.0.0.1") == "x" * 20
    assert "xxx" not in without_secrets(f"the token is {'x' * 20}")


def test_a_secret_in_another_encoding_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in ("postgresql://u:geheimß@h/d".encode("latin-1"), "postgresql://u:geheim@h/d".encode("utf-16")):
        (tmp_path / "secret").write_bytes(data)
        monkeypatch.setenv("HPO_DASHBOARD_TOKEN_FILE", str(tmp_path / "secret"))
        with pytest.raises(RequestError, match="secret: it is not UTF-8 but looks like") as raised:
            find_url(file=tmp_path / "secret")
        assert "geheim" not in str(raised.value)
        with pytest.raises(RequestError, match="secret: it is not UTF-8 but looks like") as raised:
            choose_token("127.0.0.1")
        assert "geheim" not in str(raised.value)
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(RequestError, match="secret is empty; it is to hold the dashboard's token"):
        choose_token("127.0.0.1")


def test_what_has_no_end_is_no_text_file() -> None:
    with pytest.raises(OSError, match="it has more than 1 MB"):
        read_text(Path("/dev/zero"))


def test_bytes_that_are_no_text_are_told_from_text() -> None:
    assert is_utf8("größe")
    assert not is_utf8(b"caf\xe9".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    "words",
    [
        ["optimize", "--study", "quickstart", "--trials", "1", "--name", "caf\udce9"],
        ["best", "--study", "caf\udce9"],
        ["status", "--storage", "sqlite:///d\udce9/x.db"],
        ["status", "--storage-file", "d\udce9/x"],
        ["lr-find", "--set", "space.architecture=\udce9"],
        ["report", "--study", "x", "-o", "\udce9"],
        ["show", "\udce9.toml"],
        ["\udce9"],
    ],
    ids=ascii,
)
def test_an_argument_that_is_no_utf8_is_one_line(words: list[str], tmp_path: Path) -> None:
    assert_one_line(hpo(*words, folder=tmp_path), 2, "argument", r"\udce9", "is not UTF-8")


def test_a_variable_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    assert_one_line(hpo("status", folder=tmp_path, HPO_STORAGE="sqlite:///\udce9.db"), 2, "$HPO_STORAGE is not UTF-8")
