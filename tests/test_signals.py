"""A signal counts even where Python drops the exception that its handler raises: in a callback of a weak reference."""

from __future__ import annotations

import subprocess
import sys

DROPPED = """
import os, signal, sys, time, weakref
from hpo import signals
from hpo.workers.evaluate import Stop

class Thing:
    pass

def drop(number):
    thing = Thing()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing  # prints that an exception was ignored

"""
STRIKES = """
import os, signal, time
from hpo import signals

signals.TOGETHER_SECONDS = 0.2
signals.stop_on_signals()

def strike(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)

"""


def run(script: str, *, beginning: str = DROPPED) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", beginning + script], capture_output=True, text=True, check=False, timeout=60
    )


def run_struck(script: str) -> subprocess.CompletedProcess[str]:
    return run(script, beginning=STRIKES)


def test_a_dropped_interrupt_is_raised_by_the_next_check() -> None:
    done = run(
        "signals.stop_on_signals()\n"
        "signals.check()\n"
        "drop(signal.SIGINT)\n"
        "print('dropped')\n"
        "try:\n    signals.check()\nexcept KeyboardInterrupt:\n    print('raised')\n"
        "signals.check()\n"
        "print('once')\n"
    )
    assert done.stdout.split() == ["dropped", "raised", "once"]
    assert done.stderr == ""


def test_what_must_not_be_interrupted_is_so_at_its_end_and_once() -> None:
    done = run_struck(
        "try:\n"
        "    with signals.uninterrupted():\n"
        "        with signals.uninterrupted():\n"
        "            strike()\n"
        "            print('inner')\n"
        "        print('outer')\n"
        "except KeyboardInterrupt:\n    print('raised')\n"
        "with signals.uninterrupted():\n    print('again')\n"
    )
    assert done.stdout.split() == ["inner", "outer", "raised", "again"]
    assert done.stderr == ""


def test_a_dropped_wish_to_stop_interrupts_the_trial_a_second_later() -> None:
    done = run(
        "stop = Stop()\n"
        "signal.signal(signal.SIGTERM, stop.ask)\n"
        "try:\n"
        "    with stop.interrupts():\n"
        "        drop(signal.SIGTERM)\n"
        "        print('goes on', flush=True)\n"
        "        time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
        "time.sleep(1.5)  # and no further signal comes\n"
    )
    assert "ignored" in done.stderr
    assert done.stdout.split("\n")[:2] == ["goes on", "raised"]
    assert done.returncode == 0


def test_a_key_that_is_held_interrupts_once() -> None:
    done = run_struck(
        "try:\n    strike()\nexcept KeyboardInterrupt:\n    strike(10)\n    print('once', flush=True)\n"
        "time.sleep(0.3)\n"
        "try:\n    strike()\nexcept KeyboardInterrupt:\n    print('and again')\n"
    )
    assert (done.stdout, done.stderr) == ("once\nand again\n", "")


def test_what_must_not_be_left_half_done_is_interrupted_at_its_end() -> None:
    done = run_struck(
        "try:\n"
        "    with signals.deferred():\n"
        "        strike(3)\n"
        "        print('done', flush=True)\n"
        "    print('never')\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
    )
    assert (done.stdout, done.stderr) == ("done\nraised\n", "")


def test_who_stops_is_told_of_a_hurry_but_not_of_a_key_that_is_held() -> None:
    done = run_struck(
        "with signals.stopping() as is_hurried:\n"
        "    strike(10)\n"
        "    print(is_hurried())\n"
        "    time.sleep(0.3)\n"
        "    strike()\n"
        "    print(is_hurried())\n"
    )
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


def test_loops_over_items_notice_a_dropped_interrupt() -> None:
    done = run(
        "signals.stop_on_signals()\n"
        "try:\n"
        "    for item in signals.checked('abc'):\n"
        "        print(item)\n"
        "        drop(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
    )
    assert (done.stdout, done.stderr) == ("a\nraised\n", "")
