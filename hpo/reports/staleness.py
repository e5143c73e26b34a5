"""What of a reproduction is older than the code, and the names of the studies that measure it anew.

A study is never measured over: it is measured anew in another, NAME-again, NAME-again-2 …, and the last one counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from optuna.storages import RDBStorage

from hpo.analysis.results import read_entries
from hpo.provenance import differing
from hpo.reports.reproduction import Reproduction
from hpo.storage.queries import study_attributes
from hpo.study.range_tests import read_range_tests
from hpo.text.names import derived_name

RANGE_TESTS = "report_a_figure_2"  # the item that shows them


@dataclass(frozen=True)
class Stale:
    """A cell, a range test or a picture that is older than the code, or of other versions.

    Attributes:
        measured: when, in UTC; empty where that was not kept.
        differs_in: the versions that are others here.
    """

    item: str
    what: str
    measured: str
    differs_in: list[str]


def find_stale(found: Reproduction, items: Sequence[str]) -> list[Stale]:
    """Returns what of some items is stale, in the order of the items."""
    return [one for item in items for one in _stale_of(found, item) if one.differs_in]


def _stale_of(found: Reproduction, item: str) -> Iterator[Stale]:
    for cell in found.cells:
        if cell.table == item:
            yield Stale(item, cell.label, cell.measured, cell.differs_in)
    if item == RANGE_TESTS:
        for test in found.range_tests:
            yield Stale(item, f"range test of {test.optimizer}", test.measured, test.differs_in)
    if "figure" in item:
        shown = found.figures.get(item, [{}])
        differs = dict.fromkeys(name for versions in shown for name in differing(versions))
        yield Stale(item, "picture", "", list(differs))


def newest_name(name: str, known: Collection[str]) -> str:
    """Returns the name of the last study that measures this one anew, or its own."""
    newest = name
    for again in _names(name):
        if again not in known:
            return newest
        newest = again
    return newest


def next_name(name: str, known: Collection[str]) -> str:
    """Returns the first name of a study that would measure this one anew, and is free."""
    return next(again for again in _names(name) if again not in known)


def _names(name: str) -> Iterator[str]:
    return (derived_name(name, "-again" + (f"-{n}" if n > 1 else "")) for n in count(1))


def is_stale(storage: RDBStorage, study: str) -> bool:
    """Says whether a study has measured anything that is stale."""
    kept = [trial.attributes.get("versions", {}) for _, trial in read_entries(storage, study)]
    kept += [test.get("versions", {}) for test in read_range_tests(study_attributes(storage, study))]
    return any(map(differing, kept))
