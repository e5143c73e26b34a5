"""How far a study is: its slots, its best so far, who works on it, how much longer it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import StudyError, UnknownName
from hpo.storage.claims import FINISHED, ActiveClaim, read_failures, read_running, read_slots
from hpo.storage.queries import count_trials, last_finishes, read_trials, study_attributes
from hpo.storage.studies import is_old, own_attributes, read_target
from hpo.storage.trial_attributes import Worker
from hpo.study.card import parse_card
from hpo.text.formatting import time_left

RATE_TRIALS = 30  # so many of the last make the rate
FEWEST_TRIALS, FEWEST_SECONDS = 4, 60.0  # below both, the last ones say nothing of the rate


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        is_ours: whether this program has made the study; of another's nothing but trials are counted.
        is_old: whether a version of it has that made studies of another format.
        unit: of the best's value.
        total: the trials asked for; None where none were yet.
        failed: by an error.
        interrupted: given back or lost with their workers, and started again.
        foreign: trials that another program has added; they do not count.
        trials: all trials whatever, the number of the next.
        workers: those that run a trial now: host, pid, device, trial, since when, and how old its last heartbeat is.
        trials_per_hour: the rate of the last thirty trials; None where nothing can be said.
        eta_seconds: None where nothing can be foretold.
    """

    study: str
    total: int | None
    complete: int
    pruned: int
    running: int
    failed: int
    interrupted: int
    best: dict[str, Any] | None
    workers: list[dict[str, Any]]
    trials_per_hour: float | None
    eta_seconds: float | None
    foreign: int = 0
    trials: int = 0
    is_ours: bool = True
    is_old: bool = False
    unit: str = ""

    @property
    def finished(self) -> int:
        """The trials that count."""
        return self.complete + self.pruned


def read_status(storage: RDBStorage, study: str) -> Status:
    """Returns how far a study is, without loading its trials."""
    attributes = own_attributes(storage, study)
    counts = count_trials(storage, study)
    trials = sum(counts.values())
    if attributes is None:
        complete, pruned, running, failed = (
            counts[state] for state in (*FINISHED, TrialState.RUNNING, TrialState.FAIL)
        )
        return Status(
            study, None, complete, pruned, running, failed, 0, None, [], None, None, trials=trials, is_ours=False,
            is_old=is_old(study_attributes(storage, study)),
        )  # fmt: skip
    slots, failures = read_slots(storage, study), read_failures(storage, study)
    total = read_target(attributes)
    best = read_trials(storage, study, states=(TrialState.COMPLETE,), best=1)
    per_hour = trials_per_hour(last_finishes(storage, study, RATE_TRIALS))
    failed = sum(failure.by_error for failure in failures)
    started = trials - counts[TrialState.WAITING]
    return Status(
        study=study,
        total=total,
        complete=slots.complete,
        pruned=slots.pruned,
        running=slots.running,
        failed=failed,
        interrupted=sum(not (failure.by_error or failure.refused) for failure in failures),
        best={"trial": best[0].number, "value": best[0].value, "std": best[0].attributes["std"]} if best else None,
        workers=[_worker(trial, trial.worker) for trial in read_running(storage, study) if trial.worker is not None],
        trials_per_hour=per_hour,
        eta_seconds=None if total is None else time_left(total - slots.finished, per_hour),
        foreign=max(0, started - slots.trials - len(failures)),  # one may have ended between the two readings
        trials=trials,
        unit=_unit(attributes),
    )


def _unit(attributes: Mapping[str, Any]) -> str:
    """Returns the unit of a study's objective; nothing where somebody has spoiled its card."""
    try:
        return parse_card(attributes["card"], study="").metric.unit
    except StudyError:
        return ""


def read_statuses(storage: RDBStorage, studies: Iterable[str]) -> list[Status]:
    """Returns how far studies are, leaving out those that were deleted meanwhile."""
    statuses = []
    for study in studies:
        with suppress(UnknownName):
            statuses.append(read_status(storage, study))
    return statuses


def _worker(trial: ActiveClaim, claim: Worker) -> dict[str, Any]:
    since = trial.started.isoformat(timespec="seconds") if trial.started else None
    age = trial.heartbeat_age_seconds
    return {
        "host": claim.host,
        "pid": claim.pid,
        "device": claim.device,
        "trial": trial.number,
        "since": since,
        "heartbeat_age_seconds": None if age is None else max(0.0, age),  # a clock may have been set back
    }


def trials_per_hour(finishes: Sequence[datetime]) -> float | None:
    """Returns the rate at which trials finish, from the latest finishing times; None where they are too few to say.

    A pause, as of a study that was resumed the next day, begins the count anew: a gap of more than a quarter of an hour
    that is also over ten times the usual one.
    """
    times = sorted(finishes)
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    if not gaps:
        return None
    pause = max(900.0, 10 * median(gaps))
    since = max((i + 1 for i, gap in enumerate(gaps) if gap > pause), default=0)
    lasted, trials = (times[-1] - times[since]).total_seconds(), len(times) - 1 - since
    if trials < FEWEST_TRIALS and lasted < FEWEST_SECONDS:  # two workers that begin together end together, too
        return None
    return 3600 * trials / lasted if trials and lasted else None
