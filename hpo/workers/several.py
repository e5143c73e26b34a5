"""Several trials at once in one worker: each is gone on with when the device has done what it was told.

A GPU is at work on one trial while another's numbers are told to the storage, and a third is proposed. One thread does
all of that, for what it would wait for is the device, and it asks instead whether that is ready.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import optuna
from optuna.storages import RDBStorage

from hpo.errors import HpoError, StorageGone, is_out_of_memory
from hpo.storage.studies import UnfinishedStudy
from hpo.storage.trials import trial_id_of
from hpo.study.task import Measurement
from hpo.workers.evaluate import Evaluation, Stop, took_longer

POLL_SECONDS = 0.0005  # while each trial waits for the device
PATIENCE_SECONDS = 300.0  # that a supervisor leaves a worker to end a trial itself, while it may be busy with another


class Underway:
    """A trial that a process runs beside others: it is gone on with when the device has done what it was told.

    Args:
        steps: yields whenever it would wait for the device, and returns the trial's value.
        limit_seconds: that it may take.
        gives_back: see `Evaluation`.
    """

    def __init__(
        self,
        storage: RDBStorage,
        trial: optuna.Trial,
        steps: Generator[Measurement, None, float],
        stop: Stop,
        *,
        heartbeat_seconds: float,
        limit_seconds: float | None,
        gives_back: Callable[[BaseException], bool],
    ) -> None:
        self._steps, self._limit, self._began = steps, limit_seconds, time.monotonic()
        self._awaited: Measurement | None = None
        self._evaluation = Evaluation(storage, trial, self._step, stop, heartbeat_seconds, gives_back)

    @property
    def trial_id(self) -> int:
        """The id by which the storage knows the trial."""
        return trial_id_of(self._evaluation.trial)

    @property
    def was_told(self) -> bool:
        """Whether the storage took its result."""
        return self._evaluation.was_told

    def is_ready(self) -> bool:
        """Says whether it can be gone on with without waiting."""
        return self._awaited is None or self._awaited.ready() or self._is_overdue

    def go_on(self) -> bool:
        """Goes on with the trial; returns whether it has ended, by what it came to or because it took too long.

        Raises:
            HpoError: where the study cannot be gone on with; the trial is given back.
        """
        if self._is_overdue:
            self.end(took_longer(self._limit))
            return True
        ended = True
        try:
            ended = self._evaluation.go_on()
        finally:
            if ended:
                self._steps.close()
        return ended

    def pass_over(self, seconds: float) -> None:
        """Leaves out of what it may take the time in which its process was busy with another, as with compiling."""
        self._began += seconds

    def end(self, cause: str | None = None) -> None:
        """Ends the trial: gives it back, or says why it failed."""
        self._evaluation.fail(cause)
        self._steps.close()

    @property
    def _is_overdue(self) -> bool:
        return self._limit is not None and time.monotonic() - self._began > self._limit

    def _step(self) -> float | None:
        try:
            self._awaited = next(self._steps)
        except StopIteration as end:
            return float(end.value)
        return None


class Running:
    """The trials that a worker runs beside each other.

    Args:
        gives_up: is told of a study that cannot be gone on with.
        ended: is told of a trial that has ended, by its study and number, and whether the storage took its result.

    Attributes:
        most: for how many there is memory, as far as is known.
    """

    def __init__(
        self, gives_up: Callable[[UnfinishedStudy, HpoError], None], ended: Callable[[str, int, bool], None]
    ) -> None:
        self._gives_up, self._ended = gives_up, ended
        self._trials: dict[tuple[str, int], tuple[UnfinishedStudy, Underway]] = {}
        self.most = math.inf

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def ids(self) -> list[int]:
        """The ids by which the storage knows them."""
        return [trial.trial_id for _, trial in self._trials.values()]

    def add(self, study: UnfinishedStudy, number: int, trial: Underway) -> None:
        """Takes another."""
        self._trials[study.name, number] = study, trial

    def are_of(self, name: str, identity: str | None) -> bool:
        """Says whether all of them are trials of one study."""
        return all((study.name, study.identity) == (name, identity) for study, _ in self._trials.values())

    def lack_memory(self, error: BaseException) -> bool:
        """Says whether an error is for lack of memory that others than its trial hold; then there may be fewer."""
        others = len(self._trials) - 1
        if not (others and is_out_of_memory(error)):
            return False
        self.most = others
        return True

    def go_on(self) -> bool:
        """Goes on with the trials that are ready; returns whether any has ended."""
        before = len(self._trials)
        for key, (study, trial) in list(self._trials.items()):
            if not trial.is_ready():
                continue
            try:
                if not self._go_on_with(trial):
                    continue
            except StorageGone:
                raise
            except HpoError as error:
                self._gives_up(study, error)
            del self._trials[key]
            self._ended(*key, trial.was_told)
        return len(self._trials) < before

    def _go_on_with(self, trial: Underway) -> bool:
        with self.passing_over(but=trial):
            return trial.go_on()

    @contextmanager
    def passing_over(self, but: Underway | None = None) -> Iterator[None]:
        """Context manager whose time the trials are not charged for, as that of beginning another."""
        began, here = time.monotonic(), [trial for _, trial in self._trials.values() if trial is not but]
        try:
            yield
        finally:
            for trial in here:
                trial.pass_over(time.monotonic() - began)

    def wait(self) -> None:
        """Waits a moment, unless one is ready, or there is none."""
        if self._trials and not any(trial.is_ready() for _, trial in self._trials.values()):
            time.sleep(POLL_SECONDS)

    def give_back(self) -> None:
        """Gives all of them back."""
        while self._trials:
            key, (_, trial) = self._trials.popitem()
            trial.end()
            self._ended(*key, True)
