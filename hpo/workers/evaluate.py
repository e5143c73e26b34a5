"""Evaluates one trial and tells its result: whatever happens, the trial does not stay RUNNING."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import HpoError
from hpo.signals import interrupt
from hpo.storage.fast_reads import TrialGone
from hpo.storage.trials import trial_id_of
from hpo.study.code import explain_code
from hpo.text.secrets import without_secrets

Evaluate = Callable[[optuna.Trial], float]


class Stop:
    """A stop request. While a trial is evaluated it interrupts; elsewhere it waits to be asked for."""

    def __init__(self) -> None:
        self.asked = False  # a plain flag: whatever takes a lock could deadlock in a signal handler
        self._in_trial = False

    def ask(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Takes a signal; a second one must not interrupt the first's work."""
        if self.asked and number != signal.SIGALRM:
            return
        self.asked = True
        if self._in_trial:
            # Once more, in a second: Python drops an exception that a callback of the garbage collector meets.
            signal.signal(signal.SIGALRM, self.ask)
            signal.alarm(1)
            interrupt()

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Context manager in which a signal raises KeyboardInterrupt."""
        self._in_trial = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._in_trial = False
            signal.alarm(0)


def run_trial(
    storage: RDBStorage, trial: optuna.Trial, objective: Evaluate, stop: Stop, heartbeat_seconds: float
) -> bool:
    """Evaluates a trial and tells its result; whatever happens, the trial does not stay RUNNING.

    A trial that was given up for dead meanwhile, or is not there any more, refuses whatever is told of it; its result
    is dropped. Returns whether it was told.
    """
    with _heartbeat(storage, trial, heartbeat_seconds):
        try:
            _evaluate(storage, trial, objective, stop)
        except UpdateFinishedTrialError:
            print(f"trial {trial.number} was given up for dead meanwhile; its result is dropped", file=sys.stderr)
            return False
        except TrialGone:
            print(f"trial {trial.number} was deleted meanwhile; its result is dropped", file=sys.stderr)
            return False
    return True


def _evaluate(storage: RDBStorage, trial: optuna.Trial, objective: Evaluate, stop: Stop) -> None:
    """The one place where an exception becomes a state.

    An interruption gives the slot back; an error in training is kept with its traceback.
    """

    def tell(state: TrialState, *values: float) -> None:
        # Not study.tell, which would give a pruned trial its last intermediate value for an objective.
        storage.set_trial_state_values(trial_id_of(trial), state, values or None)

    def fail(error: BaseException) -> None:
        trial.set_user_attr("error", without_secrets(explain_code(error)))
        trial.set_user_attr("traceback", without_secrets(traceback.format_exc()))

    try:
        with stop.interrupts():
            value = objective(trial)
    except optuna.TrialPruned:
        tell(TrialState.PRUNED)
    except KeyboardInterrupt as error:
        if not stop.asked:  # nobody else has interrupted it
            fail(error)
        tell(TrialState.FAIL)
    except HpoError:
        tell(TrialState.FAIL)
        raise
    except (UpdateFinishedTrialError, TrialGone):
        raise
    except (Exception, SystemExit) as error:
        fail(error)
        tell(TrialState.FAIL)
    else:
        tell(TrialState.COMPLETE, value)


@contextmanager
def _heartbeat(storage: RDBStorage, trial: optuna.Trial, seconds: float) -> Iterator[None]:
    """Records the trial's heartbeat in a thread of its own.

    Optuna's own thread would die at the first database error.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                storage.record_heartbeat(trial_id_of(trial))
            # The next beat may succeed; should none, the trial is given up after the grace period.
            except Exception as error:
                warnings.warn(f"trial {trial.number}: heartbeat not recorded: {error}", stacklevel=1)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
