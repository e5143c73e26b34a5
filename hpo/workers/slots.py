"""Which slot the next trial of a study takes, if any: the lowest that is free, or where a slot says what is measured,
one that has not failed.

Whoever asks holds the start lock, for the answer to stay true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable
from enum import Enum, auto

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import WorkError
from hpo.search.samplers import Slot
from hpo.storage.claims import FINISHED, Failure, Slots, read_failures, read_slots, read_taken
from hpo.storage.queries import read_trials
from hpo.study.definition import StudyDefinition
from hpo.study.repetition import identity_of
from hpo.text.commands import command_here
from hpo.text.formatting import count

BY_SLOT = ("grid", "qmc")  # samplers that propose the same in a slot, however often it failed
SAME_FAILURES = 3  # trials in a row that fail by one error, before any has finished, end a run


class NoTrial(Enum):
    """Why no trial was started."""

    DONE = auto()
    """The study has all the trials asked for."""
    TAKEN = auto()
    """All that are missing are running; should one of them fail, its slot is free again."""


def most_trials(storage: RDBStorage, study: str, definition: StudyDefinition) -> int | None:
    """Returns at how many finished trials every configuration is measured; None where they are countless."""
    if definition.configurations is None:
        return None
    finished = read_slots(storage, study).finished
    return finished + definition.configurations - len(measured(storage, study, FINISHED))


def measured(storage: RDBStorage, study: str, states: Collection[TrialState], but: int | None = None) -> set[Hashable]:
    """Returns the configurations of a study's trials in some states, but for one of that number."""
    trials = read_trials(storage, study, states=states)
    return {identity_of(trial.params) for trial in trials if trial.number != but}


def find_slot(
    storage: RDBStorage, study: str, definition: StudyDefinition, *, target: int, run_began_at: int
) -> Slot | NoTrial:
    """Returns the slot of the next trial; needs the start lock for the answer to stay true.

    Raises:
        WorkError: where too many trials of this run failed, or its first ones all failed by the same error.
    """
    slots = read_slots(storage, study)
    if slots.finished >= target:
        return NoTrial.DONE
    errors = [failure for failure in read_failures(storage, study) if failure.by_error]
    recent = [failure for failure in errors if failure.number >= run_began_at]
    if len(recent) >= definition.run.max_failed_trials:
        raise WorkError(
            f"study {study!r}: {count(len(recent), 'trial')} failed by an error, as many as "
            f"run.max_failed_trials allows, the last by {_errors(storage, study, run_began_at)[-1]}; "
            f"{command_here('trials', '--study', study)} shows all"
        )
    if len(recent) >= SAME_FAILURES and not slots.finished:
        _check_differ(storage, study, run_began_at)
    # The lowest free slot is not just their number: a worker that lost the lock may be adding a trial, to fail it.
    if slots.finished + slots.running >= target or slots.lowest_free >= target:
        return NoTrial.TAKEN
    if no_trial := _is_exhausted(storage, study, definition.configurations, slots):
        return no_trial
    slot = slots.lowest_free
    if recent and (definition.trial or definition.sampler.name in BY_SLOT):
        slot = _unfailed(storage, study, definition, recent, target, run_began_at)
    return Slot(slot, failures=sum(failure.slot == slot for failure in errors))


def _is_exhausted(storage: RDBStorage, study: str, different: int | None, slots: Slots) -> NoTrial | None:
    """Says whether every configuration of a space is measured, or is being measured."""
    if different is None or slots.finished + slots.running < different:
        return None
    finished = measured(storage, study, FINISHED)
    if len(finished) >= different:
        return NoTrial.DONE
    return NoTrial.TAKEN if len(finished | measured(storage, study, (TrialState.RUNNING,))) >= different else None


def _unfailed(
    storage: RDBStorage,
    study: str,
    definition: StudyDefinition,
    recent: Collection[Failure],
    target: int,
    run_began_at: int,
) -> int:
    """Returns the free slot that failed least often in this run, the first of these.

    Raises:
        WorkError: where all that are left have failed again and again.
    """
    failures = Counter(failure.slot for failure in recent)
    free = sorted(set(range(target)) - read_taken(storage, study), key=lambda slot: failures[slot])
    if failures[free[0]] < SAME_FAILURES:
        return free[0]
    labels = [repr(entry.label) for slot, entry in enumerate(definition.trial) if slot in free]
    failed = ", ".join(labels) or count(len(free), "configuration")
    raise WorkError(
        f"study {study!r}: {failed} failed {SAME_FAILURES} times, the last time by "
        f"{_errors(storage, study, run_began_at)[-1]}; {command_here('trials', '--study', study)} shows all"
    )


def _check_differ(storage: RDBStorage, study: str, run_began_at: int) -> None:
    """Makes sure that the latest trials of this run did not all fail by the same error: then so would the next.

    Raises:
        WorkError: with that error.
    """
    last = _errors(storage, study, run_began_at)[-SAME_FAILURES:]
    if len(last) == SAME_FAILURES and len(set(last)) == 1:
        raise WorkError(
            f"study {study!r}: {SAME_FAILURES} trials in a row failed by the same error, before any finished: "
            f"{last[0]}; {command_here('trials', '--study', study)} shows their configurations"
        )


def _errors(storage: RDBStorage, study: str, run_began_at: int) -> list[str]:
    """Returns the errors by which trials of this run failed."""
    failed = read_trials(storage, study, states=(TrialState.FAIL,))
    return [str(one.attributes["error"]) for one in failed if one.number >= run_began_at and "error" in one.attributes]
