"""The terminal while something runs: a study's progress, and views that are drawn again in their place."""

from __future__ import annotations

import time
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hpo.cli.progress import TimeLeft, bar, progress_line
from hpo.workers.status import Status

PLAIN_SECONDS = 10.0
ALIVE_SECONDS = 60.0  # after which a plain line says again what has not changed, so that a log shows life
BAR = range(10, 21)  # cells, where there is room


class StudyProgress:
    """The progress of a whole study, over all its workers.

    A line that is redrawn, or now and then a plain one without a terminal.

    Attributes:
        finished: the finished trials that were shown last.
    """

    def __init__(self, console: Console, target: int, steps: int, step_word: str = "epoch") -> None:
        self.finished = 0
        self._console, self._target = console, target
        self._steps, self._step_word = steps, step_word
        self._began = time.monotonic()
        self._left = TimeLeft(target, steps)
        self._live = Live(console=console, auto_refresh=False)
        self._printed_at = -ALIVE_SECONDS
        self._printed: tuple[object, ...] = ()
        self._waiting = ""

    def __enter__(self) -> StudyProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        elif self._waiting:
            self._print()

    def show(self, status: Status) -> None:
        """Shows how far the study is."""
        self.finished = status.finished
        now = time.monotonic()
        left = self._left.update(status, now)
        width = self._console.width if self._console.is_terminal else 10_000
        line = progress_line(status, self._target, self._steps, now - self._began, left, width, self._step_word)
        if self._console.is_terminal:
            self._live.update(Text(self._with_bar(status, line), no_wrap=True, overflow="crop"), refresh=True)
            return
        said = (status.finished, status.best, status.running, status.failed)
        since = now - self._printed_at
        self._waiting = line if said != self._printed or since >= ALIVE_SECONDS else ""
        if self._waiting and (status.finished >= self._target or since >= PLAIN_SECONDS):
            self._print()
            self._printed, self._printed_at = said, now

    def _with_bar(self, status: Status, line: str) -> str:
        spare = self._console.width - cell_len(line) - 1
        if spare < BAR.start or self._console.options.ascii_only:
            return line
        return f"{bar(status, self._target, min(spare, BAR.stop - 1))} {line}"

    def _print(self) -> None:
        self._console.print(self._waiting, highlight=False, soft_wrap=True)
        self._waiting = ""


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
