"""Runs the program as its user does, in a process of its own, from which come its exit code and what it prints.

That process and its workers are forked from one which has imported the program already (tests/warm.py). Where an
environment variable is one that Python reads as it starts, or the start itself is tested, Python is started anew.

Tests of what commands print and store do without workers, and without the Chromium that draws pictures, which takes
three seconds to start, by `hpo_in_one_process`.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from hpo.cli.main import COMMANDS, main
from hpo.study.references import Sources
from hpo.workers.launch import begin
from hpo.workers.plan import find_study, make_plan
from tests.forked import start_forked

SECONDS = 120
STARTING = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC", "OMP_")
OF_STREAMS = ("PYTHONIOENCODING", "PYTHONUNBUFFERED")  # which a forked process obeys as a new one does


def commands() -> dict[str, click.Command]:
    """Returns the program's commands by name."""
    return {name: main.get_command(None, name) for name in COMMANDS}


def hpo(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `hpo` in a folder, its storage there."""
    if any(name.startswith(STARTING) and name not in OF_STREAMS for name in environment):
        return python_m_hpo(*arguments, folder=folder, environment=environment)
    return _forked(arguments, folder, environment)


def hpo_in_one_process(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `hpo` in a folder, where its process itself does what its workers would do, and draws no pictures."""
    return _forked(arguments, folder, environment, alone=True)


def hpo_without_rights(
    *arguments: str, folder: Path, alone: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `hpo` as the owner of its files, whom permissions bind, root too; with `alone` it does its workers' work."""
    return _forked(arguments, folder, environment, alone=alone, privileged=False)


def _forked(
    arguments: Sequence[str], folder: Path, environment: dict[str, str], **how: bool
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / "out", Path(place) / "error"]
        with ExitStack() as stack:
            streams = {number: stack.enter_context(file.open("ab")) for number, file in enumerate(files, 1)}
            process = start_forked(arguments, folder, clean_environment(**environment), streams, **how)
        process.join(SECONDS)
        out, error = (file.read_text(encoding="utf-8") for file in files)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, SECONDS, out, error)
        return subprocess.CompletedProcess(arguments, process.exitcode, out, error)


def python_m_hpo(
    *arguments: str,
    folder: Path,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **streams: Any,
) -> subprocess.CompletedProcess[Any]:
    """Runs `python -m hpo` anew; what it prints is captured, as text, unless `streams` say otherwise.

    Args:
        prefix: a command that runs it.
        environment: what is changed in it.
    """
    return subprocess.run(
        [*prefix, sys.executable, "-m", "hpo", *arguments],
        cwd=folder,
        env=clean_environment(**(environment or {})),
        check=False,
        timeout=SECONDS,
        **(streams or {"capture_output": True, "text": True}),
    )


def start_hpo(
    *arguments: str,
    folder: Path,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **streams: Any,
) -> subprocess.Popen[Any]:
    """Starts `python -m hpo` anew and goes on; its text comes through pipes unless `streams` say otherwise."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "hpo", *arguments],
        cwd=folder,
        env=clean_environment(**(environment or {})),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **streams},
    )


ONE_AFTER_THE_OTHER = """
import json, sys
from hpo.cli.main import main
for words in json.load(sys.stdin):
    sys.argv = ["hpo", *words]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    print("--- exit code", code, flush=True)
"""


def several(
    commands: Sequence[Sequence[str]], folder: Path, prefix: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs commands one after the other in one process; after each it prints `--- exit code` and that."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", ONE_AFTER_THE_OTHER],
        input=json.dumps(commands),
        cwd=folder,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=5 * SECONDS,
    )


def clean_environment(**environment: str) -> dict[str, str]:
    """Returns this process's environment without what concerns the program, and with what is given."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    return {**inherited, "PYTHONPATH": os.getcwd(), **environment}


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


TINY = """
title = "A tiny search"
[task]
name = "digit_pairs"
dataset = "digits"
train_pairs = 100
test_pairs = 100
[training]
epochs = 2
batch_size = 50
evaluate_at = [1]
[protocol]
rounds = 2
[sampler]
name = "tpe"
[pruner]
name = "none"
[space]
architecture = ["fnn"]
weight_sharing = [true, false]
auxiliary_loss = [true]
activation = ["relu"]
optimizer = ["sgd", "adam"]
learning_rate = { low = 1e-3, high = 1.0, log = true }
"""

# The same without torch, for what concerns processes, streams or storages, not training.
QUICK = """
title = "A quick search"
[task]
name = "quick.py:bowl"
[protocol]
rounds = 2
[sampler]
name = "tpe"
[pruner]
name = "none"
[space]
x = { low = 0.0, high = 1.0 }
pause = SECONDS
"""
BOWL = """
import time

calls = 0


def bowl(params, seed):
    global calls
    calls += 1
    if calls > 1:  # the first may be the check's
        time.sleep(params["pause"])
    return 10 + (params["x"] - 0.3) ** 2
"""


def write_quick(folder: Path, name: str = "quick.toml", seconds: float = 0.0) -> None:
    """Writes the study of a function, each of whose rounds after the first lasts so many seconds."""
    (folder / name).write_text(QUICK.replace("SECONDS", str(seconds)))
    (folder / "quick.py").write_text(BOWL)


def assert_one_line(done: subprocess.CompletedProcess[str], exit_code: int, *parts: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def plan_and_begin(url: str) -> None:
    """Does what `hpo optimize` does first, at a moment of its own."""
    time.sleep(random.random() / 5)
    begin(url, make_plan(url, find_study(url, "quickstart", trials=5)), Sources(Path()))


def running_trials(database: Path) -> int:
    """Returns how many trials run, 0 while there is no database or it has no tables yet."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("select name from sqlite_master where name = 'trials'").fetchone():
            return 0
        return int(connection.execute("select count(*) from trials where state = 'RUNNING'").fetchone()[0])
