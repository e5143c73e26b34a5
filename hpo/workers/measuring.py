"""Measures the rounds of a trial one after another, for a pruner that compares rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpo.study.task import Measurement, Params, Round, Task


def measure_in_turn(task: Task, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
    """Measures round after round, and yields after each: the errors of the rounds so far, the step their number."""
    errors: dict[str, list[float]] = {}
    diverged: list[int] = []
    for r, one in enumerate(rounds):
        *_, last = task.measure(params, [one])
        for name, (error,) in last.errors.items():
            errors.setdefault(name, []).append(error)
        if last.diverged:
            diverged.append(r)
        yield Measurement(r + 1, (r + 1) / len(rounds), errors, diverged)
