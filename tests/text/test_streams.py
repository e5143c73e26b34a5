"""Standard output and error: in every encoding, without a reader, on a full device, closed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hpo.storage.backends import open_storage
from hpo.workers.status import read_status
from tests.conftest import SMALL_STUDY, create, defined, wait_for, work
from tests.forked import start_forked
from tests.program import clean_environment, hpo, python_m_hpo, running_trials, start_hpo, write_quick
from tests.started import Started

STUDY = "größe"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the storage of a small study, whose three trials were made without training."""
    folder = tmp_path_factory.mktemp("searched")
    opened = open_storage(f"sqlite:///{folder}/hpo.db", create=True)
    create(opened, STUDY, defined(SMALL_STUDY, name=STUDY), 3)
    work(opened, folder, target=3, studies=(STUDY,))
    opened.engine.dispose()
    return folder


def run(folder: Path, *arguments: str, unbuffered: str = "", **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs hpo with streams of one's choice."""
    return python_m_hpo(*arguments, folder=folder, environment={"PYTHONUNBUFFERED": unbuffered}, **settings)


def run_forked(
    folder: Path, *arguments: str, streams: Mapping[int, BinaryIO] | None = None, **environment: str
) -> tuple[int, bytes]:
    """Does the same in a forked process; returns its exit code, and what it wrote to the streams that are not given."""
    with tempfile.TemporaryFile() as said:
        given = {1: said, 2: said, **(streams or {})}
        process = start_forked(arguments, folder, clean_environment(**{"PYTHONUNBUFFERED": "", **environment}), given)
        process.join(60)
        assert process.exitcode is not None
        said.seek(0)
        return process.exitcode, said.read()


def run_in_shell(folder: Path, redirection: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    shell = ["bash", "-c", f'"$@" {redirection}', "bash"]
    return python_m_hpo(*arguments, folder=folder, prefix=shell, capture_output=True)


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "cp437:strict"])
def test_what_a_terminal_cannot_show_has_a_stand_in(searched: Path, encoding: str) -> None:
    codec = encoding.partition(":")[0]

    environment = {"PYTHONIOENCODING": encoding}
    if encoding == "ascii:strict":  # the others' Python starts alike
        done = python_m_hpo("status", folder=searched, environment=environment, capture_output=True)
        code, shown = done.returncode, done.stdout
        assert done.stderr == b""
    else:
        code, shown = run_forked(searched, "status", PYTHONIOENCODING=encoding)
    assert code == 0
    assert ("+-" if codec == "ascii" else "±") in shown.decode(codec)
    code, written = run_forked(searched, "best", "--study", "→ 数", PYTHONIOENCODING=encoding)
    assert code == 2
    said = written.decode(codec)
    assert "-> \\u6570" in said
    assert ("größe" if codec != "ascii" else "gr\\xf6\\xdfe") in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_figure_of_characters_is_drawn_in_ascii_too(tmp_path: Path) -> None:
    command = ["lr-find", "--dataset", "digits", "--rounds", "1", "--steps", "3", "--set", "space.architecture=fnn"]
    done = hpo(*command, folder=tmp_path, PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 0, done.stderr
    assert "*" in done.stdout
    assert "+--------" in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["status"], ["trials", "--study", STUDY, "--csv"], ["list", "--json"], ["status", "--watch"]],
)
def test_a_reader_that_is_gone_is_no_failure(searched: Path, arguments: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        if arguments == ["--help"] or (arguments, unbuffered) == (
            ["status"],
            "",
        ):  # Python starts and ends for all alike
            done = run(searched, *arguments, unbuffered=unbuffered, stdout=output, stderr=subprocess.PIPE)
            code, said = done.returncode, done.stderr
        else:
            code, said = run_forked(searched, *arguments, PYTHONUNBUFFERED=unbuffered, streams={1: output})
    assert (code, said) == (0, b"")


def test_a_watch_ends_when_its_reader_leaves_though_nothing_changes(searched: Path) -> None:
    with Started("status", "--watch", folder=searched) as watching:
        assert watching.stdout.readline().startswith("study")
        watching.stdout.close()
        assert watching.wait(60) == 0
        assert watching.stderr.read() == ""


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["status", "--watch"]])
def test_a_full_device_is_one_line(searched: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        if arguments == ["status", "--watch"]:
            ended = run_forked(searched, *arguments, streams={1: full})
        else:
            done = run(searched, *arguments, stdout=full, stderr=subprocess.PIPE)
            ended = (done.returncode, done.stderr)
    assert ended == (1, b"hpo: standard output cannot be written: No space left on device\n")


def test_an_error_that_cannot_be_said_keeps_its_exit_code(searched: Path) -> None:
    with open("/dev/full", "wb") as full:
        assert run(searched, "best", "--study", "none", stderr=full).returncode == 2


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_failure(searched: Path, redirection: str) -> None:
    done = run_in_shell(searched, redirection, "status")
    assert (done.returncode, done.stderr) == (0, b"")
    assert run_in_shell(searched, redirection, "best", "--study", "none").returncode == 2


WORK = ("optimize", "--study", "quick.toml", "--trials", "1", "--workers", "1")


@pytest.mark.slow
def test_work_goes_on_when_nobody_can_watch(tmp_path: Path) -> None:
    write_quick(tmp_path)
    done = run_in_shell(tmp_path, "<&- >&- 2>&-", *WORK)
    assert (done.returncode, done.stderr) == (0, b"")
    assert finished(tmp_path) == 1


def test_work_goes_on_when_its_reader_leaves(tmp_path: Path) -> None:
    write_quick(tmp_path)
    reader, writer = os.pipe()
    process = start_forked(WORK, tmp_path, clean_environment(), {1: writer, 2: writer})
    os.close(writer)
    with open(reader, "rb") as output:
        said = output.readline()
    process.join(60)
    assert (process.exitcode, b"Traceback" in said) == (0, False)
    assert finished(tmp_path) == 1


def test_work_goes_on_where_errors_cannot_be_written(tmp_path: Path) -> None:
    write_quick(tmp_path)
    with open("/dev/full", "wb") as full:
        code, shown = run_forked(tmp_path, *WORK, streams={2: full})
    assert (code, b"Traceback" in shown) == (0, False)
    assert finished(tmp_path) == 1


@pytest.mark.slow
def test_work_goes_on_after_its_terminal_where_nohup_says_so(tmp_path: Path) -> None:
    write_quick(tmp_path)
    command = ["optimize", "--study", "quick.toml", "--trials", "2", "--workers", "1"]
    working = start_hpo(*command, folder=tmp_path, prefix=["nohup"])
    wait_for(lambda: running_trials(tmp_path / "hpo.db") == 1)
    working.send_signal(signal.SIGHUP)
    _, said = working.communicate(timeout=120)
    assert working.returncode == 0, said
    assert finished(tmp_path) == 2


def finished(folder: Path) -> int:
    return read_status(open_storage(f"sqlite:///{folder}/hpo.db"), "quick").finished
