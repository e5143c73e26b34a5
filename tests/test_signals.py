"""A signal counts even where Python drops the exception that its handler raises: in a callback of a weak reference."""

from __future__ import annotations

import subprocess
import sys

DROPPED = """
import os, signal, sys, time, weakref
from hpo import signals
from hpo.worker import Stop

class Thing:
    pass

def drop(number):
    thing = Thing()
    kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing  # prints that an exception was ignored

"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DROPPED + script], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_dropped_interrupt_is_raised_by_the_next_check() -> None:
    done = run(
        "signals.stop_on_signals()\n"
        "signals.check()\n"
        "drop(signal.SIGINT)\n"
        "try:\n    signals.check()\nexcept KeyboardInterrupt:\n    print('raised')\n"
        "signals.check()\n"
        "print('once')\n"
    )
    assert "ignored" in done.stderr
    assert done.stdout.split() == ["raised", "once"]


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
