from __future__ import annotations

import io

import pytest
from rich.console import Console

from hpo import formatting, terminal, views
from hpo.results import Status


def status(finished: int, *, total: int = 10, best: float | None = None) -> Status:
    return Status(
        study="cnn",
        total=total,
        complete=finished,
        pruned=0,
        running=2,
        failed=1,
        interrupted=0,
        best=None if best is None else {"trial": 3, "value": best, "std": 0.5},
        workers=[],
        trials_per_hour=360.0,
        eta_seconds=None,
    )


def test_without_a_terminal_progress_is_now_and_then_a_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hpo.terminal.time.monotonic", lambda: now[0])
    written = io.StringIO()
    with terminal.StudyProgress(Console(file=written, width=80), 10) as progress:
        for second, finished in ((0, 0), (1, 1), (11, 2), (12, 3), (13, 10)):
            now[0] = second
            progress.show(status(finished, best=2.04))
    lines = written.getvalue().splitlines()
    assert [line.split(" · ")[0] for line in lines] == [f"cnn: {n}/10 trials" for n in (0, 2, 10)]
    assert lines[1] == "cnn: 2/10 trials · best 2.04 ± 0.50 % · 2 running · 1 failed · 360/h · 0:01:20 left"
    assert "left" not in lines[2]


def test_the_last_line_is_printed_when_the_work_ends_early() -> None:
    written = io.StringIO()
    with terminal.StudyProgress(Console(file=written, width=80), 10) as progress:
        progress.show(status(0))
        progress.show(status(4))
    assert written.getvalue().splitlines()[-1].startswith("cnn: 4/10 trials")


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (0.1382999, "0.1383"), (1e-4, "0.0001"), ("cnn_bn", "cnn_bn"), (3, "3")],
)
def test_values_are_written_as_in_a_study_file(value: object, text: str) -> None:
    assert views.text_of(value) == text


def test_a_mean_has_its_spread_beside_it() -> None:
    assert formatting.spread(2.0449, 0.2701) == "2.04 ± 0.27 %"
    assert formatting.spread(2.0449, None) == "2.04 %"
