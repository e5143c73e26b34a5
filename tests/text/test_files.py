"""What a user's file is after a write that went well, and after one that did not."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpo.cli.main import main
from hpo.text.files import check_writable, write_together, write_whole


@contextmanager
def full_disk(size: int = 4096) -> Iterator[None]:
    """Lets no file become larger than so many bytes; the error names no file, as that of a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_written_with_the_mode_that_new_files_get(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "±\n")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"\xc2\xb1\n"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o604)
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o604


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to("precious")
    write_whole(tmp_path / "a", "new")
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_write_that_fails_leaves_what_was_there_and_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="File too large") as raised, full_disk():
        write_whole(tmp_path / "a", b"x" * 5000)
    assert raised.value.filename == str(tmp_path / "a")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_of_files_that_belong_together_all_are_written_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="File too large") as raised, full_disk():
        write_together({tmp_path / "a": b"new", tmp_path / "b": b"x" * 5000})
    assert raised.value.filename == str(tmp_path / "b")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_an_interruption_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="no regular file"):
            write_whole(tmp_path / name, "new")
        with pytest.raises(OSError, match="no regular file"):
            check_writable(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("a" * 255), "new")
    check_writable(tmp_path / ("b" * 255))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        check_writable(tmp_path / "none" / "a")
    assert raised.value.filename == str(tmp_path / "none" / "a")


def test_a_picture_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "network.html"
    file.write_text("the one before")
    with full_disk():
        shown = CliRunner().invoke(main, ["show", "fnn", "-o", str(file)])
    assert shown.exit_code == 2
    assert shown.stderr == f"hpo: {file} cannot be written: File too large\n"
    assert [(kept.name, kept.read_text()) for kept in tmp_path.iterdir()] == [("network.html", "the one before")]
