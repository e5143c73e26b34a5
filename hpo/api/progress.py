"""How far a study is, where Python runs: in a notebook's cell, on a terminal, or as lines of a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from optuna.storages import RDBStorage

from hpo.cli.console import Console
from hpo.cli.progress import TimeLeft, progress_line
from hpo.cli.terminal import StudyProgress
from hpo.workers.plan import Plan
from hpo.workers.status import Status, read_status

WIDTH = 100  # characters of a line in a notebook
SHOW_SECONDS = 0.5


class Progress:
    """Shows how far a study is, while it is entered.

    Args:
        shown: whether to show anything.
    """

    def __init__(self, plan: Plan, *, shown: bool) -> None:
        self._steps, self._word = plan.definition.steps or 1, plan.definition.step_word
        self._target, self._began = plan.target, time.monotonic()
        self._left = TimeLeft(plan.target, self._steps)
        self._is_shown, self._cell = shown, _new_cell() if shown else None
        self._terminal = StudyProgress(Console(stderr=True), plan.target, self._steps, self._word)

    def __enter__(self) -> Progress:
        if self._is_shown and self._cell is None:
            self._terminal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown and self._cell is None:
            self._terminal.__exit__(kind, error, trace)

    def read(self, storage: RDBStorage, study: str) -> None:
        """Shows how far a study is now."""
        if self._is_shown:
            self.show(read_status(storage, study))

    def show(self, status: Status) -> None:
        """Shows a status."""
        if not self._is_shown:
            return
        if self._cell is None:
            self._terminal.show(status)
            return
        now = time.monotonic()
        left = self._left.update(status, now)
        line = progress_line(status, self._target, self._steps, now - self._began, left, WIDTH, self._word)
        self._cell.update({"text/plain": line}, raw=True)


class NowAndThen:
    """Shows how far a study is, now and then, where the one process that works on it cannot look on."""

    def __init__(self) -> None:
        self.show: Callable[[], None] = lambda: None
        self._at = 0.0

    def __call__(self) -> None:
        """Shows it, unless that was a moment ago."""
        if time.monotonic() - self._at > SHOW_SECONDS:
            self._at = time.monotonic()
            self.show()


def _new_cell() -> Any:
    """Returns where a notebook shows something that changes; None where this is none."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if not shell or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    cell: Any = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
    return cell
