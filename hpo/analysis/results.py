"""Reads a study into rows: its trials, its best, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.convergence import convergence_json, convergence_of
from hpo.analysis.statistics import AS_SEARCHED
from hpo.errors import StorageError
from hpo.storage.queries import StoredTrial, read_trials
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.definition import Entry, StudyDefinition
from hpo.text.commands import command_here
from hpo.text.formatting import join_words, over_rounds, spread

NAMED = 5  # trials that have the same as the best


@dataclass(frozen=True)
class TrialRow:
    """A trial. Errors in the metric's unit; those of a trial that was not measured to the end are None.

    Attributes:
        label, published: of the listed entry that it measured, else None.
        error: why it failed, where it failed by an error.
        diverged_rounds: those that ended with logits that are not finite, the study's first round being 0.
        convergence: how often it diverged, and what it errs else, as JSON has it; None where it never did. Of a search
            without an interval of the error, as the best may be any of them.

    A trial that another program has added is `FOREIGN`: nothing of it is believed but its number.
    """

    number: int
    state: str
    value: float | None = None
    std: float | None = None
    errors: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    published: dict[str, Any] | None = None
    seconds: float | None = None
    device: str | None = None
    precision: str | None = None
    worker: dict[str, Any] | None = None
    error: str | None = None
    diverged_rounds: list[int] | None = None
    convergence: dict[str, Any] | None = None


@dataclass(frozen=True)
class Best:
    """The winner of a study: the trial with the best mean among those measured to the end.

    Attributes:
        metric: the objective's name; `title` is what it is called in a sentence.
        direction: `minimize` or `maximize`.
        label: of the listed entry that it measured; None in a search.
        interval, on_new: 95 % of the mean, on these test examples and on new ones, of a list's only configuration; the
            best of several has none, for it was chosen by these errors.
        convergence: how often it diverged, and what it errs else, as JSON has it; None where it never did.
        ties: trials that came to the very same value.
    """

    study: str
    trial: int
    value: float
    std: float | None
    errors: list[float]
    params: dict[str, Any]
    rounds: int
    dataset: str
    metric: str
    title: str
    unit: str
    direction: str
    confirmed: dict[str, Any] | None
    label: str | None = None
    interval: dict[str, float | None] | None = None
    on_new: dict[str, float | None] | None = None
    convergence: dict[str, Any] | None = None
    ties: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        extreme = "highest" if self.direction == "maximize" else "lowest"
        which = f"trial {self.trial}" if self.label is None else f"{self.label} (trial {self.trial})"
        besides = [f"it {self.convergence['text']}"] if self.convergence else []
        besides += [have_the_same(self.ties)] if self.ties else []
        headline = (
            f"study {self.study}: {which} has the {extreme} {self.title}, {spread(self.value, self.std, self.unit)} "
            f"({over_rounds(self.rounds, self.dataset)})"
        )
        return "; ".join([headline, *besides])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as a notebook shows it
        printer.text(str(self))


def have_the_same(trials: Sequence[int]) -> str:
    """Returns `trials 3 and 7 have the same`, of those that are as good as the best; of many, `and 9 more`."""
    more = [f"{len(trials) - NAMED} more"] if len(trials) > NAMED else []
    names = join_words([*map(str, trials[:NAMED]), *more])
    return f"trial {names} has the same" if len(trials) == 1 else f"trials {names} have the same"


def read_rows(storage: RDBStorage, study: str) -> list[TrialRow]:
    """Returns all trials of a study."""
    listed, metric = read_definition(storage, study).trial, read_card(storage, study).metric
    return [_row(trial, listed, metric) for trial in read_trials(storage, study, foreign=True)]


def flatten(row: TrialRow, definition: StudyDefinition) -> dict[str, Any]:
    """Returns a trial as one flat dictionary, its rounds and all parameters of its study among the keys."""
    published, convergence = row.published or {}, row.convergence or {}
    share, mean = convergence.get("percent_interval") or {}, convergence.get("mean_interval") or {}
    return {
        **{key: getattr(row, key) for key in ("number", "state", "value", "std")},
        **{f"round {r}": error for r, error in enumerate(row.errors or [], definition.protocol.first_round)},
        **dict.fromkeys(definition.parameters),
        **row.params,
        "label": row.label,
        "published_mean": published.get("mean"),
        "published_std": published.get("std"),
        **{key: getattr(row, key) for key in ("seconds", "device", "precision", "error")},
        "diverged_percent": convergence.get("percent"),
        **{f"diverged_percent_{end}": share.get(end) for end in ("low", "high")},
        "converged_mean": convergence.get("mean"),
        **{f"converged_mean_{end}": mean.get(end) for end in ("low", "high")},
    }


def columns_of(definition: StudyDefinition) -> list[str]:
    """Returns the keys of a study's flat trials, in their order, whether or not it has any trial yet."""
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in fields(TrialRow))
    whole = {"errors": [0.0] * definition.protocol.rounds, "params": dict.fromkeys(definition.parameters)}
    return list(flatten(TrialRow(**{**nothing, **whole}), definition))


def read_best(storage: RDBStorage, study: str) -> Best:
    """Returns the winner of a study.

    Raises:
        StorageError: where no trial has been measured to the end.
    """
    definition, card = read_definition(storage, study), read_card(storage, study)
    best = read_trials(storage, study, states=(TrialState.COMPLETE,), best=1)
    if not best or best[0].value is None:
        raise StorageError(
            f"study {study!r} has no trial yet that was measured to the end; "
            f"{command_here('status', '--study', study)} tells how far it is"
        )
    (trial,) = best
    entry = entry_of(trial, definition.trial)
    return Best(
        study=study,
        trial=trial.number,
        value=best[0].value,
        std=trial.attributes["std"],
        errors=trial.attributes["errors"],
        params=trial.params,
        rounds=definition.protocol.rounds,
        dataset=card.dataset,
        metric=card.metric.name,
        title=card.metric.title,
        unit=card.metric.unit,
        direction=card.metric.direction,
        confirmed=None,
        label=entry.label if entry else None,
    )


def read_trial(storage: RDBStorage, study: str, number: int | None) -> StoredTrial:
    """Returns the winner of a study, or another trial that was measured to the end, by its number.

    Raises:
        StorageError: where there is no such trial.
    """
    wanted = read_best(storage, study).trial if number is None else number
    found = read_trials(storage, study, states=(TrialState.COMPLETE,), number=wanted)
    if not found:
        raise StorageError(f"study {study!r} has no trial {wanted} that was measured to the end")
    return found[0]


def read_errors(storage: RDBStorage, study: str) -> Counter[str]:
    """Returns the errors by which trials of a study failed, each with how often."""
    failed = read_trials(storage, study, states=(TrialState.FAIL,))
    return Counter(str(trial.attributes["error"]) for trial in failed if "error" in trial.attributes)


def entry_of(trial: StoredTrial, listed: Sequence[Entry]) -> Entry | None:
    """Returns the entry of a list that a trial measures; None in a search, and where the list has no such entry."""
    slot = trial.attributes.get("slot", len(listed))
    return listed[slot] if slot < len(listed) else None


def read_entries(storage: RDBStorage, study: str) -> list[tuple[Entry, StoredTrial]]:
    """Returns the entries of a study's list that are measured to the end, as `measured_entries` does."""
    trials = read_trials(storage, study, states=(TrialState.COMPLETE,))
    return measured_entries(trials, read_definition(storage, study))


def measured_entries(trials: Iterable[StoredTrial], definition: StudyDefinition) -> list[tuple[Entry, StoredTrial]]:
    """Returns the entries of a list that are measured in all rounds, each with its trial, in the order of the list."""
    found: dict[int, StoredTrial] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE and len(trial.attributes["errors"]) == definition.protocol.rounds:
            found.setdefault(trial.attributes["slot"], trial)
    return [(entry, found[slot]) for slot, entry in enumerate(definition.trial) if slot in found]


def _row(trial: StoredTrial, listed: tuple[Entry, ...], metric: MetricCard) -> TrialRow:
    if not trial.is_ours:
        return TrialRow(trial.number, "FOREIGN")
    attributes = trial.attributes
    entry = entry_of(trial, listed)
    errors, diverged = attributes.get("errors"), attributes.get("diverged_rounds")
    found = convergence_of(errors, diverged, metric) if errors and diverged else None
    shown = found if listed or found is None else found.without_interval(AS_SEARCHED)
    is_refused = trial.state is TrialState.FAIL and "refused" in attributes
    return TrialRow(
        number=trial.number,
        state="REFUSED" if is_refused else trial.state.name,
        value=trial.value,
        std=attributes.get("std"),
        errors=errors,
        params=trial.params,
        label=entry.label if entry else None,
        published=entry.published.model_dump() if entry and entry.published else None,
        seconds=attributes.get("seconds"),
        device=attributes.get("device"),
        precision=attributes.get("precision"),
        worker=attributes.get("worker"),
        error=attributes.get("error", attributes.get("refused")),
        diverged_rounds=diverged,
        convergence=convergence_json(shown, metric) if shown else None,
    )
