"""What is done to the workers of a study, and what proves that it was done; every study must come out exactly.

A scenario gets an arena, makes its field there, and returns a line of evidence; it raises where something does not
hold. `scale` is 1 for `make chaos` and less for the test suite: the budget and the number of workers shrink with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.arena import Arena, Kind
from tests.chaos.killed import (
    all_killed_and_restarted,
    ctrl_c_on_one,
    failures_beyond_the_cap,
    killed_after_the_insert,
    killed_at_random,
    killed_in_the_inserts_transaction,
    killed_inside_the_lock,
    trials_that_fail,
)
from tests.chaos.outages import brand_new_database, disk_full, server_restarted_twice, server_stopped_for_30_s
from tests.chaos.paused import (
    lock_holder_cut_off,
    lock_holder_paused,
    paused_beyond_the_grace_period,
    paused_inside_a_transaction,
    three_hosts,
)

Play = Callable[[Arena], str]


@dataclass(frozen=True)
class Scenario:
    """One of the functions in killed.py, outages.py and paused.py, and the databases that it is for."""

    name: str
    play: Play
    kinds: tuple[Kind, ...] = ("sqlite", "postgresql")


SCENARIOS = (
    Scenario("three killed at random", killed_at_random),
    Scenario("killed inside the lock", killed_inside_the_lock),
    Scenario("killed in the insert's transaction", killed_in_the_inserts_transaction),
    Scenario("killed after the insert", killed_after_the_insert),
    Scenario("paused beyond the grace period", paused_beyond_the_grace_period),
    Scenario("all killed and restarted", all_killed_and_restarted),
    Scenario("Ctrl-C on one", ctrl_c_on_one),
    Scenario("trials that fail", trials_that_fail),
    Scenario("failures beyond the cap", failures_beyond_the_cap),
    Scenario("brand-new database", brand_new_database),
    Scenario("disk full", disk_full, ("sqlite",)),
    Scenario("server restarted twice", server_restarted_twice, ("postgresql",)),
    Scenario("server stopped for 30 s", server_stopped_for_30_s, ("postgresql",)),
    Scenario("lock holder paused", lock_holder_paused),
    Scenario("paused inside a transaction", paused_inside_a_transaction),
    Scenario("lock holder cut off", lock_holder_cut_off, ("postgresql",)),
    Scenario("three hosts", three_hosts, ("postgresql",)),
)
