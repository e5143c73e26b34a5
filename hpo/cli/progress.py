"""What is said of a running study, in the width there is: how far it is, what moves, how much longer it will take."""

from __future__ import annotations

import math

from rich.cells import cell_len
from rich.text import Text

from hpo.text.formatting import clock, progress, roughly, spread
from hpo.workers.status import Status

FEWEST_SHARE = 0.05  # of the trials to do must be finished, at least one, before anything is foretold
SMOOTHED_SHARE, SMOOTHED_SECONDS = 0.1, 5.0  # of the time so far, at least so long: how slowly a forecast changes
SHORTEST_NAME = 12  # cells; a name that takes more than that and a third of the line is cut
LISTED_STEPS = 3  # of more workers than that only the lowest and the highest step are said
SHORTENED = ("best", "count", "running", "left", "best", "running", "left", "failed", "left", "elapsed")  # in turn


class TimeLeft:
    """Foretells how long a study still takes, from the trials that were finished while this command ran.

    The rate is that of all of them since the first one began, running trials counted by the steps that are done. A
    forecast goes down with the clock, and moves slowly towards what the rate says, so that one slow trial does not make
    it jump.
    """

    def __init__(self, target: int, steps: int) -> None:
        self._target, self._steps = target, steps
        self._before: int | None = None  # trials finished before this command
        self._began: float | None = None
        self._most_running = 1
        self._forecast: float | None = None
        self._foretold_at = 0.0

    def update(self, status: Status, now: float) -> float | None:
        """Returns the seconds left; None where nothing can be foretold yet."""
        if self._before is None:
            self._before = status.finished
        if self._began is None and (status.running or status.finished > self._before):
            self._began = now
        self._most_running = max(self._most_running, status.running)
        done, left = status.finished - self._before, self._target - status.finished
        fewest = max(1, math.ceil(FEWEST_SHARE * (self._target - self._before)))
        if self._began is None or now <= self._began or done < fewest or left <= 0:
            return None
        underway = sum(step / self._steps for step in known_steps(status))
        rate = (done + underway) / (now - self._began)
        rate *= min(1.0, left / self._most_running)  # at the end some workers have nothing to do
        self._forecast = self._smoothed(max(0.0, left - underway) / rate, now)
        self._foretold_at = now
        return self._forecast

    def _smoothed(self, seconds: float, now: float) -> float:
        if self._forecast is None or self._began is None:
            return seconds
        passed = now - self._foretold_at
        memory = max(SMOOTHED_SECONDS, SMOOTHED_SHARE * (now - self._began))
        before = max(0.0, self._forecast - passed)
        return before + (seconds - before) * (1 - math.exp(-passed / memory))


def progress_line(
    status: Status,
    target: int,
    steps: int,
    elapsed: float,
    left: float | None,
    width: int,
    step_word: str = "epoch",
) -> str:
    """Returns a study's progress as one line of at most so many cells; what matters least is shortened first.

    Args:
        steps: of a trial, each a `step_word`.
    """
    name = _cut(status.study, max(SHORTEST_NAME, width // 3))
    parts = {
        "count": [f"{progress(status.finished, target)} trials", progress(status.finished, target)],
        "running": _running(status, steps, step_word),
        "best": [],
        "failed": [f"{status.failed} failed"] if status.failed else [],
        "elapsed": [clock(elapsed)] if elapsed >= 1 else [],
        "left": [],
    }
    if status.best:
        parts["best"] = [f"best {spread(status.best['value'], std, status.unit)}" for std in (status.best["std"], None)]
    if left is not None:
        short = roughly(left).replace("about ", "~")
        parts["left"] = [f"{roughly(left)} left", f"{short} left", short]
    for part in SHORTENED:
        if cell_len(f"{name}: {_joined(parts)}") <= width:
            break
        parts[part] = parts[part][1:]
    return _cut(f"{name}: {_joined(parts)}", width)


def bar(status: Status, target: int, width: int) -> str:
    """Returns a bar of so many cells."""
    filled = width * min(status.finished, target) // max(1, target)
    return "━" * filled + "─" * (width - filled)


def known_steps(status: Status) -> list[int]:
    """Returns the steps that running trials have done, in order, of those that are known."""
    return sorted(worker["step"] for worker in status.workers if worker.get("step"))


def _running(status: Status, steps: int, step_word: str) -> list[str]:
    if not status.running:
        return [] if status.finished else ["starting"]
    known = known_steps(status)
    if not known:
        return [f"{status.running} running"]
    which = ", ".join(map(str, known)) if len(known) <= LISTED_STEPS else f"{known[0]} to {known[-1]}"
    of_all = f"{step_word} {which} of {steps}"
    return [f"{status.running} running ({of_all})", of_all]


def _joined(parts: dict[str, list[str]]) -> str:
    return " · ".join(forms[0] for forms in parts.values() if forms)


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain
