"""A storage that rides out a restart of its database, and one that is locked for too long.

Optuna's own workers crash on a PostgreSQL that is away for a second, `pool_pre_ping` or not. Here an operation whose
connection broke is repeated with growing pauses: each of them either happened or did not, and doing it twice leaves
what doing it once leaves. Only to create a trial is not: `budget.start_trial` begins anew, and fails what it left.

Overrides private methods of Optuna's RDBStorage, because its cache calls them; `optuna>=5.0,<5.1` is pinned for it.
"""

from __future__ import annotations

import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo.signals import uninterrupted
from hpo.storage.fast_rdb import FastRDBStorage

P = ParamSpec("P")
R = TypeVar("R")

PASSING = (
    "08",  # connection exceptions
    "40",  # deadlock, serialization failure
    "53300",  # too many connections
    "57P",  # shutting down, crashed, starting up
    "25P03",  # idle in a transaction for too long, as a paused worker is
    "25P04",  # in a transaction for too long, by an administrator's transaction_timeout
    "25006",  # read-only, as a standby is until it takes over
    "55P03",  # an administrator's lock_timeout
    "57014",  # an administrator's statement_timeout
    "0A000",  # a statement that was prepared for a table that a restore has replaced
    "42P01",  # a table that a restore is about to make again,
    "42704",  # or a type,
    "XX000",  # or one that it has replaced
)
RECONNECT = ("25006", "0A000", "XX000")  # of these, what does not pass on the same connection
OUTAGE_SECONDS = 240.0  # shorter than the usual grace period: who waits longer has been given up for dead
RESTORE_SECONDS = 15.0  # where it lasts longer, the database is damaged, or the fault is ours
PATIENCE_SECONDS = dict.fromkeys(("0A000", "42P01", "42704", "XX000"), RESTORE_SECONDS)
LONGEST_PAUSE_SECONDS = 2.0
REPEATED = (
    "_get_best_trial_id",
    "_get_stale_trial_ids",
    "_get_trials",
    "_set_trial_param",
    "_write_rows",
    "create_new_study",
    "get_all_studies",
    "get_all_trials",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "record_heartbeat",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_param",
    "set_trial_system_attr",
    "set_trial_user_attr",
)


class RetryingStorage(FastRDBStorage):
    """A storage whose operations outlast an outage of up to `OUTAGE_SECONDS`."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        for name in REPEATED:
            setattr(self, name, retried(whole(getattr(self, name))))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Sets a trial's state; that it was already set, by an attempt whose answer got lost, counts as done."""
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                with uninterrupted():
                    return super(RetryingStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                if attempts > 1 and self._stands(trial_id, state, values):
                    return True
                raise

        return retried(attempt)()

    def _stands(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        trial = self.get_trial(trial_id)
        return trial.state == state and (values is None or list(trial.values or ()) == list(values))


def retried(operation: Callable[P, R]) -> Callable[P, R]:
    """Returns the operation, repeated with growing pauses while the database is away.

    Operations within operations share one clock.
    """

    @functools.wraps(operation)
    def repeat(*args: P.args, **kwargs: P.kwargs) -> R:
        pause = 0.1
        with _clock.running():
            while True:
                try:
                    result = operation(*args, **kwargs)
                except (StorageInternalError, sa.exc.SQLAlchemyError) as error:
                    if not is_outage(error) or _clock.is_over(_patience_seconds(error)):
                        raise
                    time.sleep(pause * random.uniform(0.5, 1.5))  # so that workers do not come back all at once
                    pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)
                else:
                    _clock.stop()
                    return result

    return repeat


def whole(operation: Callable[P, R]) -> Callable[P, R]:
    """Returns the operation, which an interruption waits for; not for its repetitions, between which it may come."""

    @functools.wraps(operation)
    def uninterruptedly(*args: P.args, **kwargs: P.kwargs) -> R:
        with uninterrupted():
            return operation(*args, **kwargs)

    return uninterruptedly


class _Clock(threading.local):
    """How long the outage lasts that this thread meets, whichever of its nested operations meets it."""

    depth, began = 0, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context manager in which an outage may be met; the clock stops with the outermost operation."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self.stop()

    def is_over(self, seconds: float) -> bool:
        """Says whether the outage has lasted for longer than so many seconds; the first to ask starts the clock.

        From the first failure, not from the call: a process that was paused in the middle of an operation has not tried
        yet.
        """
        self.began = self.began or time.monotonic()
        return time.monotonic() - self.began > seconds

    def stop(self) -> None:
        """Takes note that the database is there."""
        self.began = 0.0


_clock = _Clock()


def is_outage(error: BaseException) -> bool:
    """Says whether an error means that PostgreSQL or the way to it is away, rather than that the request was wrong.

    Of SQLite's errors one is: that its write lock is held for too long, as by a process that is paused in the middle of
    a transaction. A full disk or a damaged file does not mend itself.
    """
    cause = _cause(error)
    if isinstance(cause, sa.exc.PendingRollbackError):  # Optuna went on with a session whose connection had broken
        return True
    if not isinstance(cause, sa.exc.DBAPIError):
        return False
    if isinstance(cause.orig, sqlite3.OperationalError):
        code: int = getattr(cause.orig, "sqlite_errorcode", 0)
        return code & 0xFF == sqlite3.SQLITE_BUSY  # the low byte; the others say which kind
    if not type(cause.orig).__module__.startswith("psycopg"):
        return False
    state = getattr(cause.orig, "sqlstate", None)
    if state is None:  # no word from the server: refused, timed out, closed
        return isinstance(cause, sa.exc.OperationalError | sa.exc.InterfaceError)
    return bool(state.startswith(PASSING))


def _patience_seconds(error: BaseException) -> float:
    """Returns how long an outage may last that shows by this error."""
    state = getattr(getattr(_cause(error), "orig", None), "sqlstate", None)
    return PATIENCE_SECONDS.get(str(state), OUTAGE_SECONDS)


def _cause(error: BaseException) -> BaseException | None:
    """Returns what the database said, which Optuna wraps."""
    return error.__cause__ if isinstance(error, StorageInternalError) else error
