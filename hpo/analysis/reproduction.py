"""The two reports' tables, measured: every published figure beside ours, and how sure the difference is.

A published table is a study of listed trials of the same name (`studies/report_a_table_1.toml` …); report B's table I
is a count of parameters. `studies/_reports.toml` says what no study does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from optuna.storages import RDBStorage
from pydantic import Field

from hpo.analysis.results import read_entries
from hpo.analysis.statistics import difference_of_means, ratio_of_deviations
from hpo.errors import UnknownName
from hpo.storage.queries import StoredTrial, study_attributes
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.catalog import shipped
from hpo.study.definition import Published, parse
from hpo.study.range_tests import read_range_tests
from hpo.study.schema import Table
from hpo.text.files import read_text

CONSISTENT = 3.0  # standard errors
Names = Annotated[tuple[str, ...], Field(strict=False)]
CERTAIN = 0.9973  # what three standard errors either way hold of a normal distribution


class Item(Table):
    """A table or a figure of a report.

    Attributes:
        studies: those that must have been measured.
        architectures: those whose layers it shows.
    """

    title: str
    studies: Names = ()
    architectures: Names = ()


class Elsewhere(Table):
    """A row of a table that another table's study measures: the report has measured one configuration twice."""

    table: str
    label: str
    study: str
    trial: str
    published: Published


class Reports(Table):
    """What the reports say besides their studies; `studies/_reports.toml`.

    Attributes:
        dataset: that the published figures are of.
        rates: optimizer -> the learning rate that report A found by a range test.
        parameters: architecture -> without weight sharing, with.
        items: all tables and figures.
    """

    dataset: str
    rates: dict[str, float]
    parameters: dict[str, Annotated[tuple[int, int], Field(strict=False)]]
    items: dict[str, Item]
    elsewhere: Annotated[tuple[Elsewhere, ...], Field(strict=False)]


@cache
def reports() -> Reports:
    """Returns what the reports say."""
    return Reports.model_validate(parse(read_text(shipped("studies") / "_reports.toml")))


@dataclass(frozen=True)
class Cell:
    """A published error and the one measured for it, in percent.

    Attributes:
        std: the measured deviation; None for a single round.
        errors, errors_head, errors_recognition: of each round, by the objective and by both metrics.
        is_at_chance: whether no loss trains what the metric reads: recognition without auxiliary loss.
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


@dataclass(frozen=True)
class RangeTestResult:
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
        conditions: rounds, dataset, seed, and all devices and versions that it was measured with.
    """

    cells: list[Cell]
    range_tests: list[RangeTestResult]
    parameters: dict[str, list[int]]
    conditions: dict[str, Any]

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
            kept["conditions"],
        )

    def added_to(self, earlier: Reproduction) -> Reproduction:
        """Returns what was measured earlier, and instead of it what was measured again."""
        cells = {(cell.table, cell.label): cell for cell in (*earlier.cells, *self.cells)}
        tests = {test.optimizer: test for test in (*earlier.range_tests, *self.range_tests)}
        conditions = {**earlier.conditions, **self.conditions}
        for kind in ("devices", "versions"):
            before, now = earlier.conditions.get(kind, []), self.conditions.get(kind, [])
            conditions[kind] = [*before, *(one for one in now if one not in before)]
        return Reproduction(list(cells.values()), list(tests.values()), self.parameters, conditions)

    def as_json(self) -> str:
        """Returns everything as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def find_items(names: Sequence[str]) -> list[str]:
    """Returns the items that names, or beginnings of names, stand for; all for none.

    Raises:
        UnknownName: where a name stands for nothing.
    """
    known = reports().items
    for name in names:
        if not name or not any(item.startswith(name) for item in known):
            raise UnknownName("table or figure", name, known)
    return [item for item in known if not names or any(item.startswith(name) for name in names)]


def studies_of(items: Iterable[str]) -> list[str]:
    """Returns the studies that must have been measured for these items."""
    return list(dict.fromkeys(study for item in items for study in reports().items[item].studies))


def architectures_of(items: Iterable[str]) -> list[str]:
    """Returns the architectures that these items show, and those whose parameters are published."""
    shown = (architecture for item in items for architecture in reports().items[item].architectures)
    return list(dict.fromkeys([*reports().parameters, *shown]))


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
    found = Reproduction([], [], parameters, {"devices": [], "versions": []})
    known = own_studies(storage) if storage is not None else {}
    for study, name in names.items():
        if storage is not None and name in known:
            _add_study(found, storage, study, name)
    found.range_tests.sort(key=lambda test: list(reports().rates).index(test.optimizer))
    return found


def _add_study(found: Reproduction, storage: RDBStorage, study: str, name: str) -> None:
    """Adds what a study has measured: its cells, its range tests, and the conditions of both."""
    definition, card = read_definition(storage, name), read_card(storage, name)
    protocol = definition.protocol
    found.conditions.update(dataset=card.dataset, rounds=protocol.rounds, seed=protocol.seed)
    for entry, trial in read_entries(storage, name):
        for kind, key in (("devices", "device"), ("versions", "versions")):
            one = trial.attributes.get(key)
            if one is not None and one not in found.conditions[kind]:
                found.conditions[kind].append(one)
        at_chance = card.metric.name in card.at_chance.get(entry.label, ())
        if entry.published:
            found.cells.append(_cell(study, entry.label, entry.published, trial, at_chance))
        found.cells.extend(
            _cell(other.table, other.label, other.published, trial, at_chance)
            for other in reports().elsewhere
            if (other.study, other.trial) == (study, entry.label)
        )
    for stored in read_range_tests(study_attributes(storage, name)):
        optimizer = stored["optimizer"]
        if optimizer in reports().rates:
            rate = reports().rates[optimizer]
            result = RangeTestResult(optimizer, rate, stored["mean"], stored.get("std"), stored["optima"])
            found.range_tests.append(result)


def _cell(table: str, label: str, published: Published, trial: StoredTrial, at_chance: bool) -> Cell:
    return Cell(
        table=table,
        label=label,
        published_mean=published.mean,
        published_std=published.std,
        published_rounds=published.rounds,
        mean=fmean(trial.attributes["errors"]),
        **{key: trial.attributes[key] for key in ("std", "errors", "errors_head", "errors_recognition")},
        learning_rate=trial.params["learning_rate"],
        is_at_chance=at_chance,
    )


@dataclass(frozen=True)
class Verdict:
    """How a cell stands to its published figure; differences in percentage points, measured minus published.

    Attributes:
        spread: the measured deviation over the published.
        same_spread: whether that ratio could be 1, at the same level: two normal samples leave its interval in 0.27 %.
    """

    difference: float
    low: float
    high: float
    standard_errors: float
    spread: float
    same_spread: bool

    @property
    def is_consistent(self) -> bool:
        """Whether mean and spread could be the published; not rejected is not the same as equal."""
        return abs(self.standard_errors) <= CONSISTENT and self.same_spread

    def __str__(self) -> str:
        side = "lower" if self.difference < 0 else "higher"
        away = f"{abs(self.standard_errors):.1f} s.e."
        if self.is_consistent:
            return f"consistent ({away})"
        if abs(self.standard_errors) <= CONSISTENT:  # a wide spread makes a large standard error, which proves nothing
            return f"not: {self.spread:.3g} times the spread ({away})"
        return f"not: {abs(self.difference):.2f} {side}, {away}"


def judge(cell: Cell) -> Verdict | None:
    """Returns the verdict on a cell; None where too few rounds, or a published deviation of 0, leave it open."""
    if cell.std is None or not cell.published_std:
        return None
    found = difference_of_means(
        cell.mean, cell.std, len(cell.errors), cell.published_mean, cell.published_std, cell.published_rounds
    ).within(-100, 100)
    if found.low is None or found.high is None:
        return None
    spread = ratio_of_deviations(
        cell.std, len(cell.errors), cell.published_std, cell.published_rounds, confidence=CERTAIN
    )
    return Verdict(
        found.estimate,
        found.low,
        found.high,
        found.estimate / found.standard_error if found.standard_error else 0.0,
        spread.estimate,
        spread.holds(1),
    )
