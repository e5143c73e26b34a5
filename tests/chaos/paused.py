"""Scenarios in which processes are paused, or hosts cut off."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpo.storage.claims import FINISHED
from hpo.storage.queries import read_trials
from hpo.storage.watched_file import BUSY_SECONDS
from tests.chaos import faults, network
from tests.chaos.arena import Arena
from tests.chaos.faults import Faults
from tests.chaos.field import Field, Machine, check

ACROSS_HOSTS: dict[str, Any] = {"heartbeat_seconds": 1.0, "grace_seconds": 4.0}


def paused_beyond_the_grace_period(arena: Arena) -> str:
    """Two workers are paused in a trial until they have been given up for dead, and continued."""
    with ExitStack() as stack:
        field = arena.field(stack, Faults({faults.IN_TRIAL: 2}, act="pause", chance=0.1 / arena.scale), **ACROSS_HOSTS)
        arena.launch(field)
        field.wait_until(lambda: len(field.strikes()) == 2)
        pids = {strike["pid"] for strike in field.strikes()}

        def given_up() -> bool:
            return sum(trial.attributes.get("worker", {}).get("pid") in pids for trial in field.failed()) == 2

        field.wait_until(given_up)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        field.end()
        dropped = field.said().count("was given up for dead meanwhile; its result is dropped")
        check(dropped == 2, f"{dropped} results were dropped")
        return "two paused, given up, continued; both dropped their results"


def lock_holder_paused(arena: Arena) -> str:
    """The holder of the start lock is paused for a minute; the others go on within the lock's time-out."""
    with ExitStack() as stack:
        field = arena.field(stack, Faults({faults.INSIDE_LOCK: 1}, act="pause"))
        arena.launch(field)
        field.wait_until(lambda: len(field.strikes()) == 1)
        (strike,) = field.strikes()
        waited = _wait_for_the_next_start(field)
        check(25 < waited < 40, f"the others went on after {waited:.1f} s")
        time.sleep(max(0.0, 60 - (time.time() - strike["time"])))
        os.kill(strike["pid"], signal.SIGCONT)
        field.end()
        return f"the others went on after {waited:.1f} s"


def _wait_for_the_next_start(field: Field) -> float:
    """Waits until somebody starts a trial after the strike, and returns the seconds between."""
    (strike,) = field.strikes()
    time.sleep(0.5)  # what was started before may still appear
    before = field.status().trials
    field.wait_until(lambda: field.status().trials > before)
    return time.time() - float(strike["time"])


def paused_inside_a_transaction(arena: Arena) -> str:
    """The holder of the start lock is paused in the middle of a transaction, for longer than SQLite waits by itself.

    PostgreSQL ends its session, and the others go on; SQLite has nobody to do so, and all go on when it does.
    """
    with ExitStack() as stack:
        field = arena.field(stack, Faults({faults.IN_TRANSACTION: 1}, act="pause"))
        arena.launch(field)
        field.wait_until(lambda: len(field.strikes()) == 1)
        (strike,) = field.strikes()
        pause = BUSY_SECONDS + 15.0
        if arena.kind == "postgresql":
            waited = _wait_for_the_next_start(field)
            check(25 < waited < 40, f"the others went on after {waited:.1f} s")
            evidence = f"the others went on after {waited:.1f} s"
        else:
            time.sleep(5)
            before = field.status()
            time.sleep(pause - (time.time() - strike["time"]))
            check(field.status().trials == before.trials, "trials were started: no transaction was held up")
            evidence = f"paused after {before.finished} trials; all waited for {pause:g} s"
        time.sleep(max(0.0, pause - (time.time() - strike["time"])))
        os.kill(strike["pid"], signal.SIGCONT)
        field.end()
        return evidence


def lock_holder_cut_off(arena: Arena) -> str:
    """The network of the lock's holder drops every packet for a minute; the others go on within the time-out."""
    with ExitStack() as stack:
        link = stack.enter_context(network.Link(arena.seed))
        field = arena.field(stack, Faults({faults.INSIDE_LOCK: 1}, act="linger", chance=0.3, linger_seconds=5.0))
        field.launch(machines=1, workers=4, prefix=link.prefix, url=link.reach(field.url))
        field.wait_until(lambda: len(field.strikes()) == 1)  # only those over the link can be struck
        field.launch(machines=1, workers=4)
        link.cut()
        waited = _wait_for_the_next_start(field)
        check(25 < waited < 45, f"the others went on after {waited:.1f} s")
        time.sleep(max(0.0, 60 - waited))
        link.heal()
        field.end(seconds=240)
        return f"the others went on after {waited:.1f} s"


def three_hosts(arena: Arena) -> str:
    """Three hosts, each over a link of 10 ms latency, each cut off once, and one killed.

    The first while it holds the start lock; the second for a third of the grace period, which costs nothing: TCP
    doubles the time between its attempts, and may say nothing for as long again after the link is whole. The third for
    longer than the grace period, so that its trials are given up, and it goes on with others afterwards. What is left
    then, a fourth host does quickly.
    """
    grace = 60.0 if arena.scale >= 1 else 10.0
    workers = max(1, round(3 * arena.scale))
    with ExitStack() as stack:
        links = [stack.enter_context(network.Link(number, delay=0.01)) for number in range(3)]
        # Long enough that the budget outlasts all of it.
        seconds = (90.0 + 3 * grace) * len(links) * workers / arena.budget
        plan = Faults({faults.INSIDE_LOCK: 1}, act="linger", chance=1.0, trial_seconds=seconds)
        field = arena.field(stack, plan, heartbeat_seconds=grace / 10, grace_seconds=grace)
        field.poll_seconds = 0.2  # its trials last for seconds

        def launch(link: network.Link) -> Machine:
            field.launch(machines=1, workers=workers, prefix=link.prefix, url=link.reach(field.url))
            return field.machines[-1]

        launch(links[0])
        field.wait_until(lambda: len(field.strikes()) == 1)
        links[0].cut()
        replace(plan, windows={}).write(field.folder)
        second, third = launch(links[1]), launch(links[2])
        waited = _wait_for_the_next_start(field)
        check(25 < waited < 45, f"the others went on after {waited:.1f} s")
        links[0].heal()

        _wait_for_trials_of(field, second, workers)
        links[1].cut()
        held = _trials_of(field, second)
        time.sleep(grace / 3)
        links[1].heal()
        field.wait_until(lambda: _states(field, held) <= set(FINISHED))

        _wait_for_trials_of(field, third, workers)
        given_up = _lose_and_go_on(field, third, links[2], grace)
        check(bool(held), "no trial was running when the link was cut")
        check(field.status().finished < arena.budget, "the study ended before the last strike")
        replace(plan, windows={}, trial_seconds=0.05).write(field.folder)
        field.launch(machines=1, workers=workers)
        field.machines.remove(second)
        second.kill()
        field.end(seconds=240)
        return (
            f"went on {waited:.1f} s after the lock's holder was cut off; kept {len(held)} trials over "
            f"{grace / 3:g} s, gave up {len(given_up)} after {grace:g} s and went on; one host killed"
        )


def _lose_and_go_on(field: Field, machine: Machine, link: network.Link, grace: float) -> list[int]:
    """Cuts a machine off until its trials are given up, and lets it go on with others; returns the former's numbers."""
    link.cut()
    given_up = _trials_of(field, machine)
    check(bool(given_up), "no trial was running when the link was cut")
    field.wait_until(lambda: _states(field, given_up) == {TrialState.FAIL})
    time.sleep(grace / 4)
    link.heal()
    field.wait_until(lambda: machine.said().count("its result is dropped") == len(given_up))
    later = _wait_for_trials_of(field, machine, 1)
    field.wait_until(lambda: _states(field, later) & set(FINISHED))
    return given_up


def _wait_for_trials_of(field: Field, machine: Machine, count: int) -> list[int]:
    """Waits until a machine runs so many trials, and returns their numbers."""
    found: list[int] = []

    def enough() -> bool:
        found[:] = _trials_of(field, machine)
        return len(found) >= count

    field.wait_until(enough)
    return found


def _trials_of(field: Field, machine: Machine) -> list[int]:
    """Returns the trials that a machine runs and knows of.

    One whose insertion has not been answered yet has no parameters; cut off then, its worker begins another.
    """
    return [
        trial.number
        for trial in read_trials(field.storage, "chaos", states=(TrialState.RUNNING,))
        if trial.params and Path(trial.attributes["worker"]["parent"]).name.startswith(f"{machine.pid}-")
    ]


def _states(field: Field, numbers: list[int]) -> set[TrialState]:
    return {trial.state for trial in read_trials(field.storage, "chaos") if trial.number in numbers}
