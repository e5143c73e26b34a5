"""Short scenarios of tests/chaos, which `make chaos` plays at full length and often."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import killed, outages, paused, scenarios
from tests.chaos.arena import Arena, Kind
from tests.postgres import TemporaryPostgres

SHORT: tuple[tuple[scenarios.Play, tuple[Kind, ...]], ...] = (
    (killed.killed_in_windows, ("postgresql",)),
    (paused.paused_beyond_the_grace_period, ("postgresql",)),
    (killed.all_killed_and_restarted, ("sqlite",)),
    (killed.ctrl_c_on_one, ("sqlite",)),
    (killed.trials_that_fail, ("postgresql",)),
)


@pytest.fixture
def own_server() -> Iterator[TemporaryPostgres]:
    """A server of its own, for it is stopped."""
    server = TemporaryPostgres()
    yield server
    server.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("play", "kind"),
    [pytest.param(play, kind, id=f"{play.__name__}-{kind}") for play, kinds in SHORT for kind in kinds],
)
def test_a_study_comes_out_exactly(
    play: scenarios.Play, kind: Kind, tmp_path: Path, postgres: TemporaryPostgres
) -> None:
    assert play(Arena(kind, tmp_path, seed=0, postgres=postgres, scale=0.25, warm=True))


@pytest.mark.slow
def test_a_study_rides_out_an_outage(tmp_path: Path, own_server: TemporaryPostgres) -> None:
    assert outages.server_restarted_twice(
        Arena("postgresql", tmp_path, seed=0, postgres=own_server, scale=0.25, warm=True)
    )


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, postgres: TemporaryPostgres) -> None:
    assert outages.disk_full(Arena("sqlite", tmp_path, seed=0, postgres=postgres, scale=0.5, warm=True))
