"""What tests of commands on odd databases share."""

from __future__ import annotations

import pytest

from hpo.workers.alone import Alone


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes, and the Chromium that draws a report's pictures, take seconds to start."""
    monkeypatch.setattr("hpo.workers.launch.Supervisor", Alone)
    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: ({}, ""))
