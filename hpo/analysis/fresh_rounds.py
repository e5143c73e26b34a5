"""Rounds that nobody has looked at: a confirmation measures the best of a study on those that come after all used ones.

What was chosen for its figure looks better than it is, on the rounds by which it was chosen; that is also so of rounds
that an earlier confirmation has had. A confirmation is a study of listed trials like any other: any worker can help,
and it resumes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from optuna.storages import RDBStorage
from optuna.trial import TrialState
from pydantic import Field, ValidationError

from hpo import limits
from hpo.analysis.results import entry_of, read_best, read_entries
from hpo.errors import RequestError
from hpo.storage.queries import StoredTrial, read_trials, study_names
from hpo.storage.studies import own_studies, read_definition
from hpo.study.definition import Entry, StudyDefinition, derived_table
from hpo.study.repetition import identity_of
from hpo.study.resolving import resolve_derived
from hpo.study.schema import Table
from hpo.text.names import free_name

Batch = tuple[str, StudyDefinition, dict[str, Any]]
"""A confirmation's name and definition, and what it is to remember."""
EXPECTED = -1  # the number of a configuration that no trial has, but that a model expects most of
CONFIRMS = "confirms"  # the attribute of a confirmation that says what it confirms, as `Confirms` has it
ABLATES = "ablates"  # that of an ablation whose configurations are files' alone, as `Ablates` has it
ENTRY = "look at the test: "  # with the name of what looked, the attribute of a study that it is entered by (ledger.py)


class Confirms(Table):
    """What a confirmation confirms: trials of a study, and their mean errors there.

    Attributes:
        trials: their numbers; `EXPECTED` for a configuration that is none's, and its expectation among `searched`.
        series: the first of a series of confirmations to which this belongs (until_sure.py); empty for the first
            itself, None for one by itself.
    """

    study: str
    identity: str
    series: str | None = None
    trials: Annotated[tuple[int, ...], Field(strict=False, min_length=1)]
    searched: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]


class Look(Table):
    """An entry of what measured a study's configurations after it.

    Attributes:
        configurations: that were looked at, in so many `rounds`, the first with this number.
        at: when it was entered, in UTC.
        kind: what looked.
    """

    configurations: int
    rounds: int
    first_round: int
    at: str
    kind: Literal["confirmation", "ablation"] = "confirmation"


class Ablates(Look):
    """The entry of an ablation that it keeps itself, for studies that were not in the storage when it was begun."""

    studies: Annotated[tuple[str, ...], Field(strict=False)]


def read_looks(storage: RDBStorage, study: str) -> dict[str, Look]:
    """Returns what has looked at a study's configurations, by the name of what did, in order of their being begun.

    It is entered in the study; what ablations looked at while it was a file alone, in these.
    """
    ours, entered = own_studies(storage), dict[str, Look]()
    for name, attributes in ours.items():
        with suppress(ValidationError):  # no ablation, or of studies that are there
            ablated = Ablates.model_validate(attributes.get(ABLATES))
            if study in ablated.studies:
                entered[name] = Look.model_validate(ablated.model_dump(exclude={"studies"}))
    for key, value in ours.get(study, {}).items():
        if key.startswith(ENTRY):
            with suppress(ValidationError):  # none of ours
                entered[key.removeprefix(ENTRY)] = Look.model_validate(value)
    return dict(sorted(entered.items(), key=lambda item: item[1].at))


def read_confirms(attributes: Mapping[str, Any]) -> Confirms | None:
    """Returns what a study of ours confirms; None for one that is no confirmation."""
    try:
        confirms = Confirms.model_validate(attributes.get(CONFIRMS))
    except ValidationError:
        return None
    listed = attributes["definition"].get("trial")
    fits = isinstance(listed, list) and len(listed) == len(confirms.trials) == len(confirms.searched)
    return confirms if fits else None


def define_confirmation(
    storage: RDBStorage, study: str, *, top: int, rounds: int, others: Sequence[StoredTrial] = ()
) -> Batch:
    """Returns the name and the definition of the study that confirms another's best, and what it is to remember.

    The study that was begun for the same trials and rounds is found again.

    Args:
        top: so many of the best configurations, all different; fewer where the best `10 * top` trials hold no more.
        others: to be measured besides, where they are none of these.

    Raises:
        StorageError: where no trial was measured to the end.
        RequestError: where `rounds` are too few for an interval.
    """
    fewest = limits.FEWEST_FRESH_ROUNDS
    if rounds < fewest:
        raise RequestError(f"--rounds must be at least {fewest}, or its interval says nothing, but is {rounds}")
    best = best_different(storage, study, top)
    known = {trial.number for trial in best}
    return define_fresh(storage, study, [*best, *(one for one in others if one.number not in known)], rounds)


def define_fresh(
    storage: RDBStorage, study: str, trials: Sequence[StoredTrial], rounds: int, *, series: str | None = None
) -> Batch:
    """Returns the study that measures some trials of another on rounds that neither it nor a confirmation of it has.

    One that was begun for the same is found again; of a series only one that is not finished.

    Args:
        series: of confirmations to which it belongs, see `Confirms`.
    """
    definition, ours = read_definition(storage, study), own_studies(storage)
    protocol, limit = definition.protocol, definition.run.trial_timeout_seconds
    longest = min(limits.LONGEST_SECONDS, limit * max(1.0, rounds / protocol.rounds)) if limit else None
    confirms = {
        "study": study,
        "identity": ours[study]["identity"],
        "trials": [trial.number for trial in trials],
        "searched": [trial.value for trial in trials],
        **({} if series is None else {"series": series}),
    }
    table = {
        **derived_table(definition, f"The best of {study}, measured again on fresh rounds"),
        "trial": [{"label": name_of(trial, definition.trial), "params": trial.params} for trial in trials],
        "run": {**definition.run.model_dump(mode="json"), "keep": [], "trial_timeout_seconds": longest},
    }

    def defined(first: int) -> StudyDefinition:
        fresh = {"rounds": rounds, "first_round": first, "select_on": "test"}
        return resolve_derived({**table, "protocol": {**protocol.model_dump(mode="json"), **fresh}}, study=study)

    for name, attributes in confirming(ours, study):
        begun = read_definition(storage, name)
        is_same = attributes[CONFIRMS] == confirms and not defined(begun.protocol.first_round).differences(begun)
        if is_same and (series is None or len(read_entries(storage, name)) < len(trials)):
            return name, begun, confirms
    suffix = "-confirm" if series is None else "-sure"
    taken = {*study_names(storage), *read_looks(storage, study)}
    return free_name(study, suffix, taken, lambda name: False), defined(first_fresh(storage, study)), confirms


def first_fresh(storage: RDBStorage, study: str) -> int:
    """Returns the first round that neither a study has had, nor what measured its configurations after it.

    What is deleted by now counts: somebody has looked at it. The study may be a file that is not in the storage.
    """
    ours = own_studies(storage)
    names = [study, *(name for name, _ in confirming(ours, study))] if study in ours else []
    used = [read_definition(storage, name).protocol.round_numbers.stop for name in names]
    return max([*used, *(look.first_round + look.rounds for look in read_looks(storage, study).values()), 0])


def confirming(ours: Mapping[str, Mapping[str, Any]], study: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the confirmations of a study, by name and attributes, in order of their creation."""
    for name, attributes in ours.items():
        confirms = read_confirms(attributes)
        if confirms and (confirms.study, confirms.identity) == (study, ours[study]["identity"]):
            yield name, attributes


def name_of(trial: StoredTrial, listed: Sequence[Entry]) -> str:
    """Returns what a trial is called: by its label in a list, else `trial 3`; `expected`, where it is none."""
    if trial.number == EXPECTED:
        return "expected"
    entry = entry_of(trial, listed)
    return entry.label if entry else f"trial {trial.number}"


def best_different(storage: RDBStorage, study: str, top: int) -> list[StoredTrial]:
    """Returns the best trials of a study, no two of the same configuration.

    Raises:
        StorageError: where no trial was measured to the end.
    """
    read_best(storage, study)  # says so where there is none
    different: dict[Hashable, StoredTrial] = {}
    for trial in read_trials(storage, study, states=(TrialState.COMPLETE,), best=10 * top):
        different.setdefault(identity_of(trial.params), trial)
    return list(different.values())[:top]
