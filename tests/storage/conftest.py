"""What tests of commands on odd databases share."""

from __future__ import annotations

import pytest

from hpo.workers.alone import Alone


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes, and the Chromium that draws a report's pictures, take seconds to start."""
    for module in ("hpo.workers.supervisor", "hpo.workers.launch"):
        monkeypatch.setattr(f"{module}.Supervisor", Alone)
    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: ({}, ""))
