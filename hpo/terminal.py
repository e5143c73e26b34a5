"""The terminal while something runs: a study's progress, and views that are drawn again in their place."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from .formatting import duration, progress, spread, time_left
from .results import Status

PLAIN_SECONDS = 10.0


class StudyProgress:
    """The progress of a whole study, over all its workers.

    A line that is redrawn, or now and then a plain one without a terminal.

    Attributes:
        finished: the finished trials that were shown last.
    """

    def __init__(self, console: Console, target: int) -> None:
        self.finished = 0
        self._console = console
        self._target = target
        self._printed_at = -PLAIN_SECONDS
        self._printed = ""
        self._waiting = ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("", total=target, text="")

    def __enter__(self) -> StudyProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        elif self._waiting:
            self._print()

    def show(self, status: Status) -> None:
        """Shows how far the study is."""
        self.finished = status.finished
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                description=status.study,
                completed=status.finished,
                text=_progress_text(status, self._target),
            )
            return
        line = f"{status.study}: {_progress_text(status, self._target)}"
        self._waiting = line if line != self._printed else ""
        if self._waiting and (status.finished >= self._target or time.monotonic() - self._printed_at >= PLAIN_SECONDS):
            self._print()

    def _print(self) -> None:
        self._console.print(self._waiting, highlight=False, soft_wrap=True)
        self._printed_at, self._printed, self._waiting = time.monotonic(), self._waiting, ""


def _progress_text(status: Status, target: int) -> str:
    parts = [f"{progress(status.finished, target)} {'trial' if target == 1 else 'trials'}"]
    if status.best:
        parts.append(f"best {spread(status.best['value'], status.best['std'])}")
    if status.running:
        parts.append(f"{status.running} running")
    if status.failed:
        parts.append(f"{status.failed} failed")
    left = time_left(target - status.finished, status.trials_per_hour)
    if left and status.trials_per_hour:
        parts += [f"{status.trials_per_hour:.0f}/h", f"{duration(left)} left"]
    return " · ".join(parts)


class Watch:
    """Draws a view again and again in its place; without a terminal, one below the other where it has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._printed = ""

    def __enter__(self) -> Watch:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, view: Group) -> None:
        """Draws the view."""
        if self._console.is_terminal:
            self._live.update(view, refresh=True)
            return
        with self._console.capture() as captured:
            self._console.print(view)
        if captured.get() != self._printed:
            self._printed = captured.get()
            self._console.print(view, "")
