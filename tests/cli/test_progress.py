from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from rich.cells import cell_len

from hpo.cli.progress import TimeLeft, bar, progress_line
from hpo.workers.status import Status

EMPTY = Status(
    study="cnn", total=200, complete=0, pruned=0, running=0, failed=0, interrupted=0, best=None, workers=[],
    trials_per_hour=None, eta_seconds=None, unit="%",
)  # fmt: skip


def running(finished: int, *steps: int | None, **changed: Any) -> Status:
    workers = [{"trial": finished + i, "step": step} for i, step in enumerate(steps)]
    best = {"trial": 3, "value": 2.314, "std": 0.4} if finished else None
    return replace(EMPTY, complete=finished, running=len(steps), best=best, workers=workers, **changed)


def test_the_line_says_how_far_it_is_what_moves_and_how_long_it_takes() -> None:
    line = progress_line(running(12, 7, 19), 200, 25, elapsed=247.3, left=3010.0, width=200)
    assert line == (
        "cnn: 12/200 trials · 2 running (epoch 7, 19 of 25) · best 2.31 ± 0.40 % · 4:07 · about 50 min left"
    )


def test_of_many_workers_the_lowest_and_the_highest_epoch_are_said() -> None:
    line = progress_line(running(12, *range(3, 19)), 200, 25, elapsed=5, left=None, width=200)
    assert "16 running (epoch 3 to 18 of 25)" in line


def test_before_the_first_trial_ends_there_is_the_time_so_far_and_nothing_foretold() -> None:
    assert progress_line(EMPTY, 200, 25, elapsed=12, left=None, width=80) == "cnn: 0/200 trials · starting · 0:12"
    moving = progress_line(running(0, 1, None), 200, 25, elapsed=20, left=None, width=80)
    assert moving == "cnn: 0/200 trials · 2 running (epoch 1 of 25) · 0:20"
    left = TimeLeft(200, 25)
    assert [left.update(running(0, epoch, epoch), now) for now, epoch in enumerate(range(1, 25))] == [None] * 24


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "cnn: 12/200 · epoch 7, 19 of 25 · best 2.31 % · 3 failed · 4:07 · ~50 min left"),
        (60, "cnn: 12/200 · 3 failed · 4:07 · ~50 min left"),
        (40, "cnn: 12/200 · 3 failed · 4:07 · ~50 min"),
        (30, "cnn: 12/200 · 4:07 · ~50 min"),
        (12, "cnn: 12/200"),
    ],
)
def test_what_matters_least_is_shortened_first(width: int, line: str) -> None:
    assert progress_line(running(12, 7, 19, failed=3), 200, 25, elapsed=247.3, left=3010.0, width=width) == line


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60, 80, 200])
@pytest.mark.parametrize("name", ["cnn", "report_a_table_1-digits-2-rounds", "x" * 600, "数字の比較" * 20])
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    for status in (EMPTY, running(123456, *range(1, 65), failed=3), running(12, None, 3)):
        line = progress_line(replace(status, study=name), 2_000_000, 25, elapsed=1e6, left=1e7, width=width)
        assert cell_len(line) <= width
        assert width < 40 or f"{status.finished}/2000000" in line  # how far it is stays to the last
        assert width < 60 or "277:46:40" in line  # and what moves


def test_a_bar_is_full_at_the_end() -> None:
    assert [bar(running(n), 4, 8) for n in (0, 1, 4, 9)] == ["────────", "━━──────", "━━━━━━━━", "━━━━━━━━"]


def search(seed: int, *, target: int = 200, workers: int = 2) -> Iterator[tuple[float, Status]]:
    """Yields a search's status every half second: architectures of 1.3 to 30 s, many trials pruned early."""
    chance = random.Random(seed)
    now, started, finished = 0.0, 0, 0
    lanes: list[tuple[float, float, int] | None] = [None] * workers  # since when, seconds an epoch, epochs
    while finished < target:
        now += 0.5
        for i, lane in enumerate(lanes):
            if lane is None and started < target:
                seconds = chance.choice([1.3, 25, 30] if started < 10 else [1.3, 25, 30, 30, 30])
                pruned = started > 0 and chance.random() < (0.8 if started < 10 else 0.5)
                lanes[i] = (now, seconds / 25, chance.choice([2, 3, 4, 8]) if pruned else 25)
                started += 1
            elif lane is not None and now - lane[0] >= lane[1] * lane[2]:
                lanes[i] = None
                finished += 1
        known = [min(24, int((now - lane[0]) / lane[1])) or None for lane in lanes if lane]
        yield now, running(finished, *known)


@pytest.mark.parametrize("seed", range(6))
def test_the_time_left_never_jumps_and_comes_true(seed: int) -> None:
    left = TimeLeft(200, 25)
    foretold = [(now, left.update(status, now)) for now, status in search(seed)]
    end = foretold[-1][0]
    shown = [(now, seconds) for now, seconds in foretold[::20] if seconds is not None and end - now > 120]
    assert len(shown) > 30
    for (_, before), (_, after) in pairwise(shown):
        assert 0.8 < after / before < 1.35  # within ten seconds
    assert all(0.25 < seconds / (end - now) < 4 for now, seconds in shown)
    half = [seconds / (end - now) for now, seconds in shown if now > end / 2]
    assert all(0.5 < ratio < 2 for ratio in half)


def test_a_resumed_study_is_foretold_from_this_run_alone() -> None:
    left = TimeLeft(200, 25)
    assert left.update(running(190), 1000.0) is None
    assert left.update(running(190, 1), 1001.0) is None
    assert left.update(running(191, 1), 1011.0) == pytest.approx(9 * 10 / 1.04, rel=0.1)


def test_at_the_end_workers_without_a_trial_do_not_make_it_faster() -> None:
    left = TimeLeft(4, 10)
    left.update(running(0, 1, 1), 1.0)
    seconds = left.update(running(3, 1), 21.0)  # two at a time, ten seconds a trial; one has a tenth of its epochs
    assert seconds == pytest.approx(0.9 * 2 * 20 / 3.1)
