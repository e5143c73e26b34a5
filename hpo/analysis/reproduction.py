"""The two reports' tables, measured: every published figure beside ours, and how sure the difference is.

A published table is a study of listed trials of the same name (`studies/report_a_table_1.toml` …); report B's table I
is a count of parameters. What stands here beside them: one configuration that report A measured twice and we once, and
which studies a figure is drawn from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.results import read_entries, read_range_tests
from hpo.analysis.statistics import difference_of_means, ratio_of_deviations
from hpo.errors import UnknownName
from hpo.storage.queries import StoredTrial, study_attributes
from hpo.storage.studies import own_studies, read_definition
from hpo.study.definition import Published

CONSISTENT = 3.0  # standard errors
CERTAIN = 0.9973  # what three standard errors either way hold of a normal distribution


@dataclass(frozen=True)
class Item:
    """A table or a figure of a report.

    Attributes:
        studies: those that must have been measured.
        architectures: those whose layers it shows.
    """

    title: str
    studies: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()


ITEMS: Mapping[str, Item] = {
    "report_a_table_1": Item("Report A, table I: the linear network", ("report_a_table_1",)),
    "report_a_table_2": Item("Report A, table II: the convolutional network", ("report_a_table_2",)),
    "report_a_table_3": Item("Report A, table III: with batch normalisation", ("report_a_table_3",)),
    "report_a_table_4": Item("Report A, table IV: activations", ("report_a_table_4", "report_a_table_3")),
    "report_a_table_5": Item("Report A, table V: optimizers", ("report_a_table_5",)),
    "report_a_figure_1": Item(
        "Report A, figure 1: gradient norms", ("report_a_table_2", "report_a_table_3"), ("cnn", "cnn_bn")
    ),
    "report_a_figure_2": Item("Report A, figure 2: loss against learning rate", ("report_a_table_5",)),
    "report_a_figure_3": Item("Report A, figure 3: the convolutional network", architectures=("cnn_bn",)),
    "report_b_table_1": Item("Report B, table I: parameters"),
    "report_b_table_2": Item("Report B, table II: without weight sharing", ("report_b_table_2",)),
    "report_b_table_3": Item("Report B, table III: with weight sharing", ("report_b_table_3",)),
    "report_b_figure_2": Item("Report B, figure 2: the fully connected network", architectures=("fully_connected",)),
    "report_b_figure_3": Item("Report B, figure 3: the simple convolutional network", architectures=("simple_cnn",)),
    "report_b_figure_4": Item("Report B, figure 4: the residual network", architectures=("residual",)),
    "report_b_figure_5": Item("Report B, figure 5: test errors", ("report_b_table_2", "report_b_table_3")),
    "report_b_figure_6": Item("Report B, figure 6: losses, fully connected", ("report_b_table_2", "report_b_table_3")),
    "report_b_figure_7": Item("Report B, figure 7: losses, convolutional", ("report_b_table_2", "report_b_table_3")),
    "report_b_figure_8": Item("Report B, figure 8: losses, residual", ("report_b_table_2", "report_b_table_3")),
}


@dataclass(frozen=True)
class Elsewhere:
    """A row of a table that another table's study measures: the report has measured one configuration twice."""

    table: str
    label: str
    study: str
    trial: str
    published: Published


ELSEWHERE = (
    Elsewhere(
        "report_a_table_4", "ReLU (measured in table III)", "report_a_table_3", "CNN + BN + WS + AL",
        Published(mean=2.30, std=0.26),
    ),
)  # fmt: skip
PUBLISHED_DATASET = "mnist"
PUBLISHED_RATES = {"sgd": 0.1383, "rmsprop": 0.0115, "adam": 0.0117}  # report A, table V
PUBLISHED_PARAMETERS = {  # report B, table I: architecture -> without weight sharing, with
    "fully_connected": (21_182, 10_822),
    "simple_cnn": (9_702, 5_082),
    "residual": (44_386, 22_424),
}


@dataclass(frozen=True)
class Cell:
    """A published error and the one measured for it, in percent.

    Attributes:
        std: the measured deviation; None for a single round.
        errors, errors_head, errors_recognition: of each round, by the study's decision and by both.
        is_at_chance: whether nothing trains what the decision reads: recognition without auxiliary loss.
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
        return self.conditions.get("dataset") == PUBLISHED_DATASET

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
    for name in names:
        if not name or not any(item.startswith(name) for item in ITEMS):
            raise UnknownName("table or figure", name, ITEMS)
    return [item for item in ITEMS if not names or any(item.startswith(name) for name in names)]


def studies_of(items: Iterable[str]) -> list[str]:
    """Returns the studies that must have been measured for these items."""
    return list(dict.fromkeys(study for item in items for study in ITEMS[item].studies))


def architectures_of(items: Iterable[str]) -> list[str]:
    """Returns the architectures that these items show, and those whose parameters are published."""
    shown = (architecture for item in items for architecture in ITEMS[item].architectures)
    return list(dict.fromkeys([*PUBLISHED_PARAMETERS, *shown]))


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
        for name in PUBLISHED_PARAMETERS
    }
    if storage is None:
        return Reproduction([], [], parameters, {"devices": [], "versions": []})
    known = _known(storage, names)
    cells: list[Cell] = []
    tests: list[RangeTestResult] = []
    conditions: dict[str, Any] = {"devices": [], "versions": []}
    for study, name in known.items():
        definition = read_definition(storage, name)
        conditions |= {key: getattr(definition.protocol, key) for key in ("dataset", "rounds", "seed")}
        for entry, trial in read_entries(storage, name):
            label, published = entry.label, entry.published
            for kind, key in (("devices", "device"), ("versions", "versions")):
                one = trial.attributes.get(key)
                if one is not None and one not in conditions[kind]:
                    conditions[kind].append(one)
            if published:
                cells.append(_cell(study, label, published, trial, definition.protocol.decision))
            cells += [
                _cell(other.table, other.label, other.published, trial, definition.protocol.decision)
                for other in ELSEWHERE
                if (other.study, other.trial) == (study, label)
            ]
        for stored in read_range_tests(study_attributes(storage, name)):
            if stored["optimizer"] in PUBLISHED_RATES:
                rate = PUBLISHED_RATES[stored["optimizer"]]
                tests.append(
                    RangeTestResult(stored["optimizer"], rate, stored["mean"], stored.get("std"), stored["optima"])
                )
    order = list(PUBLISHED_RATES)
    return Reproduction(cells, sorted(tests, key=lambda test: order.index(test.optimizer)), parameters, conditions)


def _known(storage: RDBStorage, names: Mapping[str, str]) -> dict[str, str]:
    ours = own_studies(storage)
    return {study: name for study, name in names.items() if name in ours}


def _cell(table: str, label: str, published: Published, trial: StoredTrial, decision: str) -> Cell:
    return Cell(
        table=table,
        label=label,
        published_mean=published.mean,
        published_std=published.std,
        published_rounds=published.rounds,
        mean=fmean(trial.attributes["errors"]),
        **{key: trial.attributes[key] for key in ("std", "errors", "errors_head", "errors_recognition")},
        learning_rate=trial.params["learning_rate"],
        is_at_chance=decision == "recognition" and not trial.params["auxiliary_loss"],
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
