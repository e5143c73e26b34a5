"""A program that goes on while a test looks at it or signals it, forked from the warm process (tests/warm.py)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tests.forked import start_forked
from tests.program import clean_environment


class Started:
    """What `subprocess.Popen` is of `python -m hpo`: its pid, its output through pipes, its end.

    With `group` it is in a process group of its own, and its workers with it. It is killed where a test leaves it.
    """

    stdout: TextIO
    stderr: TextIO

    def __init__(
        self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, group: bool = False
    ) -> None:
        self._arguments = arguments
        (out, own_out), (error, own_error) = os.pipe(), os.pipe()
        surroundings = clean_environment(**(environment or {}))
        streams = {1: own_out, 2: own_error}
        self._process = start_forked(arguments, folder, surroundings, streams, group=group)
        os.close(own_out)
        os.close(own_error)
        self.stdout, self.stderr = (os.fdopen(stream, encoding="utf-8") for stream in (out, error))
        self.pid = self._process.pid or 0

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.wait(60)
        self.stdout.close()
        self.stderr.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout)
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for its end, and returns what it has printed since."""
        self.wait(timeout)
        with self.stdout, self.stderr:
            return self.stdout.read(), self.stderr.read()

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
