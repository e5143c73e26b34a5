"""Ctrl-C and SIGTERM as KeyboardInterrupt, which counts even where Python drops it.

An exception that a signal handler raises while a callback of the garbage collector runs, as SQLAlchemy has some, is
printed and dropped. Whoever loops asks here whether one was.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # SIGINT too: a shell's background jobs begin with it ignored
_came: list[int] = []


def stop_on_signals() -> None:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def check() -> None:
    """Raises the KeyboardInterrupt of a signal that came and has not been taken note of here.

    Raises:
        KeyboardInterrupt: where there is one.
    """
    if _came:
        _came.clear()
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    raise KeyboardInterrupt
