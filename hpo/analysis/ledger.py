"""Looks at the test: each time that something of a study was chosen, or could be, by what its test examples say.

Whatever is chosen by a figure makes that figure too good. A search that is measured on the test looks at it with every
trial, one that is measured on validation examples never; a list looks once, for its configurations are chosen among;
so does each confirmation, and each ablation. These are entered when they are begun, in the study itself, and stay there
though they are deleted. An ablation of a file that is no study yet keeps its entry itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from optuna.storages import RDBStorage

from hpo.analysis.fresh_rounds import ABLATES, CONFIRMS, ENTRY, Ablates, Look, read_looks
from hpo.storage.queries import finished_slots, set_study_attribute, study_attributes
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.definition import StudyDefinition
from hpo.text.formatting import count


@dataclass(frozen=True)
class Ledger:
    """All looks of a study.

    Attributes:
        searching: trials that were chosen among, or pruned, by their test errors.
        listed: whether it is a list, whose configurations are compared by them.
        confirmations: name -> its entry, in order of their being begun; ablations are among them.
        validation: by what trials are chosen in place of the test, as `1 000 validation pairs`; empty where by that.
    """

    searching: int
    listed: bool
    confirmations: Mapping[str, Look]
    validation: str = ""

    @property
    def selection(self) -> str:
        """By what trials are chosen; validation examples are labelled ones that count, though none trains on them."""
        return f"plus {self.validation} a round, for selection" if self.validation else "by the test"

    @property
    def looks(self) -> int:
        """How often anything was chosen by looking at the test."""
        return self.searching + self.listed + len(self.confirmations)

    @property
    def afterwards(self) -> str:
        """What looked after it, as `2 confirmations, 1 ablation`."""
        kinds: list[str] = [one.kind for one in self.confirmations.values()]
        said = [kind for kind in ("confirmation", "ablation") if kind in kinds] or ["confirmation"]
        return ", ".join(count(kinds.count(kind), kind) for kind in said)

    def __str__(self) -> str:
        parts = [f"{count(self.searching, 'trial')} while searching"] if self.searching else []
        parts += ["1 by which the list's configurations are compared"] if self.listed else []
        parts += [self.afterwards] if self.confirmations else []
        said = f" ({', '.join(parts)})" if parts else ""
        selected = f"; selection: {self.selection}" if self.validation else ""
        return f"looks at the test: {self.looks}{said}{selected}"

    def as_json(self) -> dict[str, Any]:
        """Returns all of it as JSON has it."""
        return {
            "looks": self.looks,
            "selection": self.selection,
            "trials_while_searching": self.searching,
            "list": self.listed,
            "confirmations": [{"name": name, **one.model_dump()} for name, one in self.confirmations.items()],
        }


def enter(storage: RDBStorage, study: str, name: str, definition: StudyDefinition, confirms: Mapping[str, Any]) -> None:
    """Enters a confirmation that is begun, or gone on with, into the study, and says in itself what it confirms."""
    set_study_attribute(storage, name, CONFIRMS, dict(confirms))
    _keep(storage, study, f"{ENTRY}{name}", _look(definition, "confirmation"))


def enter_ablation(storage: RDBStorage, studies: Collection[str], name: str, definition: StudyDefinition) -> None:
    """Enters an ablation that is begun, or gone on with, into the studies whose configurations it measures.

    Of studies that are not in the storage it says in itself that it does.
    """
    look, there = _look(definition, "ablation"), {*own_studies(storage)}
    for study in there.intersection(studies):
        _keep(storage, study, f"{ENTRY}{name}", look)
    if elsewhere := {*studies} - there:
        _keep(storage, name, ABLATES, Ablates(**look.model_dump(), studies=tuple(sorted(elsewhere))))


def _look(definition: StudyDefinition, kind: Literal["confirmation", "ablation"]) -> Look:
    protocol, now = definition.protocol, datetime.now(UTC).isoformat(timespec="seconds")
    measured = {"rounds": protocol.rounds, "first_round": protocol.first_round}
    return Look(configurations=len(definition.trial), **measured, at=now, kind=kind)


def _keep(storage: RDBStorage, study: str, key: str, look: Look) -> None:
    """Keeps an entry in a study, that of the beginning where there is one."""
    if key not in study_attributes(storage, study):
        set_study_attribute(storage, study, key, look.model_dump())


def read_ledger(storage: RDBStorage, study: str) -> Ledger:
    """Returns the looks at the test that a study has cost so far."""
    definition, metric = read_definition(storage, study), read_card(storage, study).metric
    on_test = definition.protocol.select_on == "test"
    finished = finished_slots(storage).get(study, 0)
    return Ledger(
        searching=finished if on_test and definition.space else 0,
        listed=bool(on_test and definition.trial and finished),
        confirmations=read_looks(storage, study),
        validation="" if on_test else _validation(definition, metric),
    )


def _validation(definition: StudyDefinition, metric: MetricCard) -> str:
    """Returns what a study selects on: as many as its settings say, or as its errors are multiples of one's share.

    Without a number where neither tells.
    """
    settings = definition.task.settings
    noun = "pairs" if "train_pairs" in settings else "examples"
    number = settings.get(f"validation_{noun}") or (metric.resolution and round(100 / metric.resolution))
    return f"{number:,} validation {noun}".replace(",", " ") if number else f"validation {noun}"
