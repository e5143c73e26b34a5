"""Runs the program as its user does, in a process of its own, from which come its exit code and what it prints.

That process is forked from one which has imported the program already: importing takes two seconds, and the tests run
it hundreds of times. Where an environment variable is one that Python reads as it starts, Python is started anew.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 120
STARTING = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC", "OMP_")
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    ["hpo.cli", "hpo.cli_lab", "hpo.cli_read", "hpo.cli_work", "hpo.cli_write", "hpo.optimize", "hpo.report"]
)


def hpo(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `hpo` in a folder, its storage there."""
    if any(name.startswith(STARTING) for name in environment):
        return python_m_hpo(*arguments, folder=folder, **environment)
    with tempfile.TemporaryDirectory() as place:
        out, error = Path(place) / "out", Path(place) / "error"
        process = WARM.Process(
            target=_run, args=(arguments, str(folder), clean_environment(**environment), str(out), str(error))
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, SECONDS, out.read_text(), error.read_text())
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), error.read_text())


def python_m_hpo(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m hpo` anew."""
    return subprocess.run(
        [sys.executable, "-m", "hpo", *arguments],
        cwd=folder,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def _run(arguments: tuple[str, ...], folder: str, environment: dict[str, str], out: str, error: str) -> None:
    for path, descriptor, name in ((out, 1, "stdout"), (error, 2, "stderr")):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
        setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hpo", *arguments]
    from hpo.entry import main

    main()


def clean_environment(**environment: str) -> dict[str, str]:
    """Returns this process's environment without what concerns the program, and with what is given."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    return {**inherited, "PYTHONPATH": os.getcwd(), **environment}


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
