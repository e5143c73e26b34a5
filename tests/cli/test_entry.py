"""How the program starts and ends: signals at any moment, and a working folder that holds anything, or is gone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import psutil
import pytest

import hpo as package
from hpo import provenance
from hpo.cli.main import _Program
from hpo.provenance import versions
from tests.conftest import wait_for
from tests.program import (
    TINY,
    assert_one_line,
    clean_environment,
    hpo,
    python_m_hpo,
    running_trials,
    start_hpo,
    write_quick,
)
from tests.started import Started

SHADOWS = [
    *("click", "enum", "logging", "multiprocessing", "numpy", "optuna", "pickle", "random", "re", "selectors"),
    *("signal", "socket", "sqlalchemy", "sqlite3", "torch", "torchvision", "typing", "weakref"),
]
LOADED_BY_RUNPY = ["hpo", "types"]  # python -m loads these itself, from the working folder


def started(folder: Path, *arguments: str, forked: bool = False) -> subprocess.Popen[str] | Started:
    """Starts hpo in a process group of its own, and waits until it answers signals."""
    if forked:
        process: subprocess.Popen[str] | Started = Started(*arguments, folder=folder, group=True)
    else:
        process = start_hpo(*arguments, folder=folder, start_new_session=True)
    while process.poll() is None and not answers(process.pid, signal.SIGTERM):
        time.sleep(0.005)
    return process


def answers(pid: int, number: signal.Signals) -> bool:
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught.group(1), 16) >> (number - 1) & 1)


def strike(process: subprocess.Popen[str] | Started, *, times: int = 1, number: signal.Signals = signal.SIGINT) -> str:
    """Interrupts a process group as a terminal does; returns what was printed when all of it has ended."""
    for _ in range(times):
        if process.poll() is None:
            os.killpg(process.pid, number)
        time.sleep(0.03)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    wait_for(lambda: not is_there(process.pid), 10)
    return out + said


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.4])
def test_a_signal_while_the_program_loads_ends_it_without_a_word(
    tmp_path: Path, delay: float, number: signal.Signals
) -> None:
    process = started(tmp_path, "optimize", "--study", "quickstart", "--trials", "1")
    time.sleep(delay)
    assert strike(process, number=number).strip() == ""


MOMENTS: dict[str, Callable[[int, Path], bool]] = {
    "a database is made": lambda pid, database: database.exists(),
    "workers start": lambda pid, database: len(psutil.Process(pid).children()) > 1,
    "a trial runs": lambda pid, database: running_trials(database) > 0,
    "all trials run": lambda pid, database: running_trials(database) == 2,
}


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "times"), list(zip(MOMENTS, (1, 10, 10, 1), strict=True)))
def test_ctrl_c_at_any_moment_leaves_nothing_running(moment: str, times: int, tmp_path: Path) -> None:
    """Once, or with a key that is held."""
    if moment == "workers start":  # which takes those that train longest
        (tmp_path / "long.toml").write_text(TINY.replace("epochs = 2", "epochs = 20000"))
    else:
        write_quick(tmp_path, "long.toml", seconds=60)
    command = ("optimize", "--study", "long.toml", "--trials", "3", "--workers", "2")
    process = started(tmp_path, *command, forked="run" in moment)  # nothing starts then
    wait_for(lambda: process.poll() is not None or MOMENTS[moment](process.pid, tmp_path / "hpo.db"))
    said = strike(process, times=times)
    assert [
        line for line in said.splitlines() if line and not re.match("long: |interrupted; |  hpo optimize ", line)
    ] == []
    assert running_trials(tmp_path / "hpo.db") == 0


def test_an_interruption_that_became_another_error_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error

    @click.command()
    def broken() -> None:
        raise RuntimeError("a bug")

    program = _Program(commands={"interrupted": interrupted, "broken": broken})
    with pytest.raises(SystemExit) as ended:
        program.main(["interrupted"])
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")
    with pytest.raises(RuntimeError, match="a bug"):
        program.main(["broken"])


def shadow(folder: Path, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(folder / f'RAN-{name}')!r}, 'w').close()\n")


def installed(folder: Path) -> Path:
    """Returns the program as pip installs it, a script in a folder of its own, where others lie beside it."""
    shadow(folder, ["random", "socket", "torch"])
    script = folder / "hpo"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom hpo.entry import main\nif __name__ == '__main__': main()\n"
    )
    script.chmod(0o755)
    return script


def test_what_lies_in_the_working_folder_is_not_executed(tmp_path: Path) -> None:
    """Though PYTHONPATH names it, as `.`."""
    script, folder = installed(tmp_path / "bin"), tmp_path / "work"
    shadow(folder, [*SHADOWS, *LOADED_BY_RUNPY])
    (folder / "tiny.toml").write_text(TINY)
    command = [str(script), "optimize", "--study", "tiny.toml", "--trials", "1", "--workers", "1"]
    environment = clean_environment(PYTHONPATH=f"{os.getcwd()}:.")
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("RAN-*")) == []


def test_nor_is_it_by_python_m(tmp_path: Path) -> None:
    shadow(tmp_path, SHADOWS)
    write_quick(tmp_path)
    done = python_m_hpo("optimize", "--study", "quick.toml", "--trials", "1", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("RAN-*")) == []


def test_nor_by_the_download_of_a_dataset(tmp_path: Path) -> None:
    shadow(tmp_path, SHADOWS)
    refusing = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    command = ["optimize", "--study", "cnn", "--trials", "5", "--workers", "1", "--data", "data"]
    done = python_m_hpo(*command, folder=tmp_path, environment=refusing)
    assert_one_line(done, 2, "could not be downloaded (<urlopen error")
    assert list(tmp_path.rglob("RAN-*")) == []


def test_a_source_tree_works_where_it_is_not_installed(tmp_path: Path) -> None:
    """Its folder is then the working folder, and nothing else names it."""
    for part in ("hpo", "models", "studies"):
        (tmp_path / part).symlink_to(Path(part).resolve())
    (tmp_path / "tiny.toml").write_text(TINY)
    command = ["optimize", "--study", "tiny.toml", "--trials", "1", "--workers", "1"]
    done = python_m_hpo(*command, folder=tmp_path, environment={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr


def test_the_version_is_known_where_the_program_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        assert name != "hpo-studies"
        return "1"

    monkeypatch.setattr(provenance, "version", version)
    assert versions.__wrapped__()["hpo"] == package.__version__


def adrift(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs hpo in a folder that is removed before it starts."""
    moved = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    return python_m_hpo(*arguments, folder=folder, prefix=["bash", "-c", moved, "bash"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["best", "--study", "tiny"],
        ["optimize", "--study", "quickstart", "--trials", "1"],
        ["optimize", "--study", "quickstart", "--trials", "1", "--storage", "sqlite:///{folder}/hpo.db"],
        ["show", "cnn"],
        ["lr-find", "--dataset", "digits"],
    ],
)
def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    done = adrift(*(argument.format(folder=tmp_path) for argument in arguments), folder=tmp_path)
    assert_one_line(done, 2, "the working folder is gone, so change to another")


def test_commands_that_need_no_working_folder_work_without(tmp_path: Path) -> None:
    (tmp_path / "wrong.db").touch()
    assert adrift("--help", folder=tmp_path).returncode == 0
    assert adrift("list", folder=tmp_path).returncode == 0
    done = adrift("status", "--storage", f"sqlite:///{tmp_path}/wrong.db", folder=tmp_path)
    assert_one_line(done, 2, "holds no studies")


def test_help_is_there_without_docstrings(tmp_path: Path) -> None:
    for command in ([], ["optimize"], ["status"]):
        usual = python_m_hpo(*command, "--help", folder=tmp_path)
        assert usual.returncode == 0
        assert hpo(*command, "--help", folder=tmp_path, PYTHONOPTIMIZE="2").stdout == usual.stdout


def test_help_answers_in_under_half_a_second(tmp_path: Path) -> None:
    def answer() -> float:
        began = time.monotonic()
        assert python_m_hpo("--help", folder=tmp_path).returncode == 0
        return time.monotonic() - began

    assert min(answer() for _ in range(5)) < 0.5
