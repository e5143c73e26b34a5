"""The two reports' tables, measured: every published figure beside ours, each with the code and the date that it is of.

A published table is a study of listed trials of the same name (`studies/report_a_table_1.toml` …); report B's table I
is a count of parameters. `studies/_reports.toml` says what no study does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.results import read_entries
from hpo.provenance import differing, time_text, versions
from hpo.reports.curves import summarize_curves
from hpo.reports.published import reports, studies_of
from hpo.storage.queries import StoredTrial, study_attributes
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.definition import Published
from hpo.study.range_tests import read_range_tests

Versions = dict[str, str]
PROVENANCE = {"device": str, "versions": dict, "measured": str}  # of a range test, as a study keeps it


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Where and when something was measured; empty where that was not kept.

    Attributes:
        versions: as in provenance.py.
        measured: the moment of its end, in UTC, as `2026-11-28T08:48:00Z`.
    """

    device: str = ""
    versions: Versions = field(default_factory=dict)
    measured: str = ""

    @property
    def differs_in(self) -> list[str]:
        """The versions that its numbers depend on and that are others here; none where it is of this code."""
        return differing(self.versions)


@dataclass(frozen=True)
class Cell(Measured):
    """A published error and the one measured for it, in percent.

    Attributes:
        std: the measured deviation; None for a single round.
        errors, errors_head, errors_recognition: of each round, by the objective and by both metrics.
        is_at_chance: whether no loss trains what the metric reads: recognition without auxiliary loss.
        curves: what `summarize_curves` makes of the training, by name, (R,) each.
        study: that has measured it; empty in files from before it was kept.
    """

    table: str
    label: str
    published_mean: float
    published_std: float
    published_rounds: int
    mean: float
    std: float | None
    errors: list[float]
    errors_head: list[float]
    errors_recognition: list[float]
    learning_rate: float
    is_at_chance: bool
    curves: dict[str, list[float]] = field(default_factory=dict)
    study: str = ""


@dataclass(frozen=True)
class RangeTestResult(Measured):
    """The optimum of a range test beside the published rate."""

    optimizer: str
    published: float
    mean: float
    std: float | None
    optima: list[float | None]


@dataclass(frozen=True)
class Reproduction:
    """All that has been measured.

    Attributes:
        parameters: architecture -> its parameters without weight sharing and with.
        conditions: rounds, dataset and seed.
        figures: item -> the versions of what its picture shows.
    """

    cells: list[Cell]
    range_tests: list[RangeTestResult]
    parameters: dict[str, list[int]]
    conditions: dict[str, Any]
    figures: dict[str, list[Versions]] = field(default_factory=dict)

    @property
    def is_comparable(self) -> bool:
        """Whether it was measured on the dataset of the reports, so that a verdict means something."""
        return self.conditions.get("dataset") == reports().dataset

    @classmethod
    def read(cls, file: Path) -> Reproduction:
        """Reads the JSON that was written of one."""
        kept = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            [Cell(**cell) for cell in kept["cells"]],
            [RangeTestResult(**test) for test in kept["range_tests"]],
            kept["parameters"],
            {key: kept["conditions"][key] for key in ("dataset", "rounds", "seed") if key in kept["conditions"]},
            kept.get("figures", {}),
        )

    def added_to(self, earlier: Reproduction) -> Reproduction:
        """Returns what was measured earlier, and instead of it what was measured again."""
        cells = {(cell.table, cell.label): cell for cell in (*earlier.cells, *self.cells)}
        tests = {test.optimizer: test for test in (*earlier.range_tests, *self.range_tests)}
        conditions = {**earlier.conditions, **self.conditions}
        figures = {**earlier.figures, **self.figures}
        return Reproduction(list(cells.values()), list(tests.values()), self.parameters, conditions, figures)

    def as_json(self) -> str:
        """Returns everything as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def note_drawn(self, items: Iterable[str]) -> None:
        """Keeps of figures whose pictures are drawn now, of which versions what they show is."""
        for item in items:
            studies = studies_of([item])
            shown = [cell.versions for cell in self.cells if cell.study in studies] if studies else [versions()]
            self.figures[item] = [one for i, one in enumerate(shown) if one not in shown[:i]]


def read_reproduction(
    storage: RDBStorage | None, names: Mapping[str, str], networks: Mapping[str, Any]
) -> Reproduction:
    """Reads what the studies of a storage have measured so far.

    Args:
        names: study -> its name in the storage.
        networks: architecture -> what `describe` in network_summary.py says of it.
    """
    parameters = {
        name: [networks[name]["parameters"][key] for key in ("no_weight_sharing", "weight_sharing")]
        for name in reports().parameters
    }
    found = Reproduction([], [], parameters, {})
    known = own_studies(storage) if storage is not None else {}
    for study, name in names.items():
        if storage is not None and name in known:
            _add_study(found, storage, study, name, networks)
    found.range_tests.sort(key=lambda test: list(reports().rates).index(test.optimizer))
    return found


def _add_study(found: Reproduction, storage: RDBStorage, study: str, name: str, networks: Mapping[str, Any]) -> None:
    """Adds what a study has measured: its cells, its range tests, and the conditions of both."""
    definition, card = read_definition(storage, name), read_card(storage, name)
    protocol = definition.protocol
    found.conditions.update(dataset=card.dataset, rounds=protocol.rounds, seed=protocol.seed)
    for entry, trial in read_entries(storage, name):
        shown: list[tuple[str, str, Published]] = [
            (other.table, other.label, other.published)
            for other in reports().elsewhere
            if (other.study, other.trial) == (study, entry.label)
        ]
        if entry.published:
            shown.insert(0, (study, entry.label, entry.published))
        layers = networks.get(str(trial.params.get("architecture")), {}).get("layers")
        at_chance = card.metric.name in card.at_chance.get(entry.label, ())
        for table, label, published in shown:
            cell = {"table": table, "label": label, "study": study, "is_at_chance": at_chance}
            found.cells.append(_cell(cell, published, trial, summarize_curves(trial.attributes, layers)))
    for stored in read_range_tests(study_attributes(storage, name)):
        optimizer = stored["optimizer"]
        if optimizer in reports().rates:
            where = {key: stored[key] for key, kind in PROVENANCE.items() if isinstance(stored.get(key), kind)}
            optimum = (reports().rates[optimizer], stored["mean"], stored.get("std"), stored["optima"])
            found.range_tests.append(RangeTestResult(optimizer, *optimum, **where))


def _cell(cell: Mapping[str, Any], published: Published, trial: StoredTrial, curves: dict[str, list[float]]) -> Cell:
    return Cell(
        **cell,
        published_mean=published.mean,
        published_std=published.std,
        published_rounds=published.rounds,
        mean=fmean(trial.attributes["errors"]),
        **{key: trial.attributes[key] for key in ("std", "errors", "errors_head", "errors_recognition")},
        learning_rate=trial.params["learning_rate"],
        curves=curves,
        device=trial.attributes.get("device", ""),
        versions=trial.attributes.get("versions", {}),
        measured=time_text(trial.finished) if trial.finished else "",
    )
