"""What moves on a real terminal: drawn again in its place by the terminal's own codes, which nobody sees."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from pathlib import Path

import pytest

from hpo.storage.backends import open_storage
from hpo.study.references import Sources
from hpo.workers.evaluate import Stop
from hpo.workers.messages import Assignment
from hpo.workers.worker import run_worker
from tests import stubs
from tests.conftest import SMALL_STUDY, create, defined
from tests.forked import start_forked
from tests.program import clean_environment, write_quick

REDRAWN = "\x1b[2K"  # a line is erased, to be drawn again
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(folder: Path, columns: int, *arguments: str, until: str | None = None) -> tuple[int | None, str]:
    """Runs hpo on a terminal of so many columns; ends it by Ctrl-C when it has drawn `until` twice."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = clean_environment(TERM="xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    process = start_forked(arguments, folder, environment, dict.fromkeys((0, 1, 2), theirs))
    os.close(theirs)
    drawn, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([ours], [], [], 1.0)[0]:
            try:
                drawn += os.read(ours, 65536)
            except OSError:  # nobody holds the other side any more
                break
        if until and drawn.decode(errors="ignore").count(until) > 1:
            os.kill(process.pid or 0, signal.SIGINT)
            until = None
    os.close(ours)
    process.join(10)
    return process.exitcode, drawn.decode()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 200])
def test_what_moves_is_drawn_again_in_its_place(columns: int, tmp_path: Path) -> None:
    write_quick(tmp_path)
    opened = open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    create(opened, "small", defined(SMALL_STUDY, name="small"), 3)
    told = Assignment(url=opened.url, studies=("small",), target=3, device="cpu", sources=Sources(tmp_path))
    run_worker(told, stubs.quick, Stop(), lambda said: None)
    opened.engine.dispose()
    find = ["lr-find", "--dataset", "digits", "--rounds", "1", "--steps", "5", "--set", "space.architecture=fnn"]
    for arguments, until in (
        (["status", "--watch"], "small"),
        (["optimize", "--study", "quick.toml", "--trials", "2", "--workers", "1"], None),
        (["worker", "--study", "quick", "--exit-when-done", "--workers", "1"], None),
        (find, None),
        (["export", "--study", "small", "-o", "winner"], None),
    ):
        code, drawn = on_terminal(tmp_path, columns, *arguments, until=until)
        assert code == (130 if until else 0), (arguments, drawn)
        assert REDRAWN in drawn, (arguments, drawn)
        assert "\\x1b" not in drawn, (arguments, drawn)
        assert "\\r" not in drawn, (arguments, drawn)
        redrawn = [line for line in re.split(r"[\r\n]", drawn) if REDRAWN in line]
        assert max(len(CODES.sub("", line)) for line in redrawn) <= columns, (arguments, drawn)
