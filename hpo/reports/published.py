"""What the two reports say besides their studies: tables, figures and claims, read from `studies/_reports.toml`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpo.errors import UnknownName
from hpo.study.catalog import shipped
from hpo.study.definition import Published, parse
from hpo.study.schema import Table
from hpo.text.files import read_text


def _as_list(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Names = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_as_list)]


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


class Claim(Table):
    """A sentence of a report that compares, or an order that the numbers of its tables imply.

    Attributes:
        place: its sections, tables and figures.
        of: what is compared, round by round. `error`; `spread`, how far errors lie from their median; `loss`, of
            training after the last epoch; `half_life`, the epochs until the training loss is half of what it was after
            the first; `norms`, the largest layer's gradient norm over the smallest's, in powers of ten, mean over the
            epochs; `rate`, a range test's optimum; `parameters`, counted.
        pairs: of labels of cells, or of several, whose mean it is: by the claim the first lies below the second. Of
            `rate` optimizers, of `parameters` architectures, with ` + WS` where they share weights.
        factor: times the first.
        why: why nothing is compared.
    """

    report: Literal["A", "B"]
    place: str
    says: str
    of: Literal["error", "spread", "loss", "half_life", "norms", "rate", "parameters"] = "error"
    pairs: Annotated[tuple[Annotated[tuple[Names, Names], Field(strict=False)], ...], Field(strict=False)] = ()
    factor: float = 1.0
    why: str = ""

    @model_validator(mode="after")
    def _check(self) -> Claim:
        if bool(self.pairs) == bool(self.why):
            raise ValueError("a claim must have either pairs, or why there are none")
        return self


class Reports(Table):
    """What the reports say besides their studies; `studies/_reports.toml`.

    Attributes:
        dataset: that the published figures are of.
        rates: optimizer -> the learning rate that report A found by a range test.
        parameters: architecture -> without weight sharing, with.
        beside: labels of rows that show a published cell a second time, measured another way; they are not counted.
        items: all tables and figures.
        claims: what the reports compare.
    """

    dataset: str
    rates: dict[str, float]
    parameters: dict[str, Annotated[tuple[int, int], Field(strict=False)]]
    beside: Names
    items: dict[str, Item]
    elsewhere: Annotated[tuple[Elsewhere, ...], Field(strict=False)]
    claims: Annotated[tuple[Claim, ...], Field(strict=False)]


@cache
def reports() -> Reports:
    """Returns what the reports say."""
    return Reports.model_validate(parse(read_text(shipped("studies") / "_reports.toml")))


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
