"""Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed: before the work they end the process, then they interrupt.

An interruption is a KeyboardInterrupt. Where one is raised while a callback of the garbage collector runs, as
SQLAlchemy has some, Python prints and drops it, and an import may turn it into another exception; so whoever loops asks
here whether a signal came, and so does whoever ends the program.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from types import FrameType

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130  # the exit code
TOGETHER_SECONDS = 1.0  # signals closer than that are one: a key that is held, a shell and a service manager at once


@dataclass
class _Signals:
    """What came.

    Attributes:
        any: whether any ever did.
        pending: those that `check` has not seen yet.
        last: when the last one came that counted, on the monotonic clock.
    """

    any: bool = False
    pending: list[int] = field(default_factory=list)
    last: float = float("-inf")

    def add(self, number: int) -> bool:
        """Takes note of a signal; says whether it counts."""
        now = time.monotonic()
        if now - self.last < TOGETHER_SECONDS:
            return False
        self.any, self.last = True, now
        self.pending.append(number)
        return True


@dataclass
class _Held(threading.local):
    """What a thread holds back.

    Attributes:
        depth: how many `uninterrupted` it is in.
        waits: whether an interruption waits for their end.
    """

    depth: int = 0
    waits: bool = False


_signals = _Signals()
_held = _Held()


def end_on_signals() -> None:
    """Makes signals end the process at once: while it starts nothing has begun, and at its end all is done.

    Not those that are ignored, as a shell's background jobs ignore SIGINT.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def stop_on_signals() -> None:
    """Makes signals raise KeyboardInterrupt.

    SIGINT and SIGTERM do where they are ignored too, or a shell's background job could not be stopped; SIGHUP does not,
    for that is what nohup is for.
    """
    hush()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def hush() -> None:
    """Makes Python drop a KeyboardInterrupt without a word where it cannot raise it."""
    tell = sys.unraisablehook
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is KeyboardInterrupt else tell(dropped)


def check() -> None:
    """Raises the KeyboardInterrupt of a signal that came and has not been taken note of here.

    Raises:
        KeyboardInterrupt: where there is one.
    """
    if _signals.pending:
        _signals.pending.clear()
        raise KeyboardInterrupt


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, and calls `check` before each."""
    for item in items:
        check()
        yield item


def interrupt() -> None:
    """Raises KeyboardInterrupt, from a signal's handler: at once, or at the end of what must not be interrupted.

    Raises:
        KeyboardInterrupt: where nothing holds it back.
    """
    if not _held.depth:
        raise KeyboardInterrupt
    _held.waits = True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context manager in which `interrupt` raises nothing, and after which it does; costs no system call.

    A statement of a database is such a thing: interrupted between its parts it leaves a transaction open, which nobody
    ends, and which keeps out whoever comes next.
    """
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if _held.waits and not _held.depth:
            _held.waits = False
            raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[None]:
    """Context manager in which signals raise nothing, and after which they do, for what must not be left half done.

    Blocking them would not do: Python answers a signal in its main thread, whichever thread was sent it.
    """
    with _noted():
        yield
    check()


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Context manager for the end of what was begun: signals raise nothing there.

    It gives a function that says whether a further one came, of somebody in a hurry.
    """
    _signals.pending.clear()
    _signals.last = time.monotonic()
    with _noted():
        yield lambda: bool(_signals.pending)


@contextmanager
def _noted() -> Iterator[None]:
    heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, _note) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_behind(error: BaseException | None) -> bool:
    """Says whether a signal is behind an exception: one came, or it was raised because of a KeyboardInterrupt."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, KeyboardInterrupt):
            return True
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            waiting += [found.__cause__, found.__context__]
    return _signals.any


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _signals.add(number):
        interrupt()


def _note(number: int, frame: FrameType | None) -> None:
    _signals.add(number)
