"""Evaluates trials and tells their results: whatever happens, a trial does not stay RUNNING."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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


def took_longer(seconds: float | None) -> str:
    """Returns why a trial was ended that took longer than it may."""
    return f"it took longer than {seconds:g} s (run.trial_timeout_seconds)"


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
    evaluation = Evaluation(storage, trial, lambda: objective(trial), stop, heartbeat_seconds)
    evaluation.go_on()
    return evaluation.was_told


class Evaluation:
    """The evaluation of one trial, to be gone on with until it has ended; the trial has a heartbeat meanwhile.

    Args:
        act: goes on with the trial; returns its value, or None where it is to go on later.
        stop: while `act` runs, a stop interrupts it.
        gives_back: says of an error that it is no failure of the trial's, which gives its slot back.

    Attributes:
        was_told: whether the storage took its result; not where the trial was given up for dead meanwhile, or deleted.
    """

    def __init__(
        self,
        storage: RDBStorage,
        trial: optuna.Trial,
        act: Callable[[], float | None],
        stop: Stop,
        heartbeat_seconds: float,
        gives_back: Callable[[BaseException], bool] = lambda error: False,
    ) -> None:
        self._storage, self.trial, self._act, self._stop = storage, trial, act, stop
        self._gives_back = gives_back
        self.was_told = True
        self._alive = ExitStack()
        self._alive.enter_context(_heartbeat(storage, trial, heartbeat_seconds))

    def go_on(self) -> bool:
        """Goes on with the trial; returns whether it has ended.

        Raises:
            HpoError: where the study cannot be gone on with; the trial is given back.
        """
        ended = True
        try:
            ended = self._go_on()
        except UpdateFinishedTrialError:
            self._drop("was given up for dead meanwhile")
        except TrialGone:
            self._drop("was deleted meanwhile")
        finally:
            if ended:
                self._alive.close()
        return ended

    def fail(self, cause: str | None = None) -> None:
        """Ends the trial: gives it back, or says why it failed."""
        with self._alive, suppress(UpdateFinishedTrialError, TrialGone):
            if cause is not None:
                self.trial.set_user_attr("error", cause)
            self._tell(TrialState.FAIL)

    def _drop(self, why: str) -> None:
        self.was_told = False
        print(f"trial {self.trial.number} {why}; its result is dropped", file=sys.stderr)

    def _go_on(self) -> bool:
        """The one place where an exception becomes a state.

        An interruption gives the slot back; an error in training is kept with its traceback.
        """
        try:
            with self._stop.interrupts():
                value = self._act()
        except optuna.TrialPruned:
            self._tell(TrialState.PRUNED)
        except KeyboardInterrupt as error:
            if not self._stop.asked:  # nobody else has interrupted it
                self._keep(error)
            self._tell(TrialState.FAIL)
        except HpoError:
            self._tell(TrialState.FAIL)
            raise
        except (UpdateFinishedTrialError, TrialGone):
            raise
        except (Exception, SystemExit) as error:
            if not self._gives_back(error):
                self._keep(error)
            self._tell(TrialState.FAIL)
        else:
            if value is None:
                return False
            self._tell(TrialState.COMPLETE, value)
        return True

    def _tell(self, state: TrialState, *values: float) -> None:
        # Not study.tell, which would give a pruned trial its last intermediate value for an objective.
        self._storage.set_trial_state_values(trial_id_of(self.trial), state, values or None)

    def _keep(self, error: BaseException) -> None:
        self.trial.set_user_attr("error", without_secrets(explain_code(error)))
        self.trial.set_user_attr("traceback", without_secrets(traceback.format_exc()))


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
