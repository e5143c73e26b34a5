from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from hpo.cli.terminal import StudyProgress
from hpo.text.formatting import spread, text_of
from hpo.workers.status import Status


def status(finished: int, *, epoch: int | None = None, best: float | None = None) -> Status:
    return Status(
        study="cnn",
        total=10,
        complete=finished,
        pruned=0,
        running=2,
        failed=1,
        interrupted=0,
        best=None if best is None else {"trial": 3, "value": best, "std": 0.5},
        workers=[{"trial": finished, "step": epoch}],
        trials_per_hour=360.0,
        eta_seconds=None,
        unit="%",
    )


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, as a list of one number."""
    moment = [0.0]
    monkeypatch.setattr("hpo.cli.terminal.time.monotonic", lambda: moment[0])
    return moment


def test_without_a_terminal_progress_is_now_and_then_a_plain_line(now: list[float]) -> None:
    written = io.StringIO()
    with StudyProgress(Console(file=written, width=80), 10, 25) as progress:
        for second, finished in ((0, 0), (1, 1), (11, 2), (12, 3), (13, 10)):
            now[0] = second
            progress.show(status(finished, best=2.04))
    lines = written.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines] == [f"cnn: {n}/10 trials" for n in (0, 2, 10)]
    assert lines[1] == "cnn: 2/10 trials · 2 running · best 2.04 ± 0.50 % · 1 failed · 0:11 · about 40 s left"
    assert "left" not in lines[2]


def test_a_log_shows_every_minute_that_a_long_trial_goes_on(now: list[float]) -> None:
    written = io.StringIO()
    with StudyProgress(Console(file=written, width=80), 10, 250) as progress:
        for second in range(200):
            now[0] = second
            progress.show(status(0, epoch=second + 1))
    shown = [line.removeprefix("cnn: 0/10 trials · 2 running ") for line in written.getvalue().splitlines()]
    assert [line.partition(" · ")[0] for line in shown] == [f"(epoch {n} of 250)" for n in (1, 61, 121, 181)]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_line_in_a_terminal_moves_with_every_epoch_and_never_wraps(width: int, now: list[float]) -> None:
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    with StudyProgress(console, 10, 25) as progress:
        for second in range(60):
            now[0] = second
            progress.show(status(second // 20, epoch=second % 20 + 1, best=2.04))
    drawn = re.split(r"\x1b\[\??[0-9;]*[A-Za-z]|[\r\n]", written.getvalue())
    lines = [line for line in drawn if "/10" in line]
    assert max(map(cell_len, lines)) <= width
    assert len(dict.fromkeys(lines)) == 60  # each another
    assert all("left" in line or "~" in line for line in lines[20:])
    assert ("━" in lines[-1]) == (width > 100)
    assert width < 60 or all("epoch" in line for line in lines)


def test_the_last_line_is_printed_when_the_work_ends_early() -> None:
    written = io.StringIO()
    with StudyProgress(Console(file=written, width=80), 10, 25) as progress:
        progress.show(status(0))
        progress.show(status(4))
    assert written.getvalue().splitlines()[-1].startswith("cnn: 4/10 trials")


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (0.1382999, "0.1383"), (1e-4, "0.0001"), ("cnn_bn", "cnn_bn"), (3, "3")],
)
def test_values_are_written_as_in_a_study_file(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_mean_has_its_spread_beside_it() -> None:
    assert spread(2.0449, 0.2701, "%") == "2.04 ± 0.27 %"
    assert spread(2.0449, None, "%") == "2.04 %"
