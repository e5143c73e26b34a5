"""Tables that fit any terminal: where it is narrow, the least important columns go, and at last rows become blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hpo.text.escaping import printable

LONGEST_WORD = 40  # cells; a column that wraps is at least as wide as its longest word, but a longer one is broken
NARROWEST = 16  # cells to which a column is wrapped, whose words are short
GAP = 1


@dataclass
class _Column:
    heading: str
    justify: Literal["left", "right"]
    rank: int
    wraps: bool
    cells: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """What its longest line takes."""
        return max((cell_len(line) for text in [self.heading, *self.cells] for line in text.splitlines()), default=0)

    @property
    def least(self) -> int:
        """The width to which it can shrink."""
        if not self.wraps:
            return self.width
        words = [cell_len(word) for text in [self.heading, *self.cells] for word in text.split()]
        return min(self.width, max(NARROWEST, min(max(words, default=0), LONGEST_WORD)))


class FittedTable:
    """A table as wide as the terminal allows. Cells are text, and shown as they are.

    Where it is too wide, text columns wrap between words and columns of a rank above 0 are left out, the highest rank
    first. Where that is not enough, each row is a block: its first cell, and the others below it, a line each.
    """

    def __init__(self) -> None:
        self._columns: list[_Column] = []

    def add_column(
        self, heading: str = "", *, justify: Literal["left", "right"] = "left", rank: int = 0, wraps: bool = False
    ) -> None:
        """Adds a column; without any heading the table has no head."""
        self._columns.append(_Column(heading, justify, rank, wraps))

    def add_row(self, *cells: str) -> None:
        """Adds a row, a cell for each column."""
        for column, cell in zip(self._columns, cells, strict=True):
            column.cells.append(printable(cell))  # rich would drop some characters that a terminal acts on

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the table in the width that there is."""
        kept = self._columns
        while _least(kept) > options.max_width and any(column.rank for column in kept):
            last = max(kept, key=lambda column: column.rank)
            kept = [column for column in kept if column is not last]
        yield _table(kept, options.max_width) if _least(kept) <= options.max_width else _blocks(self._columns)


def _least(columns: Sequence[_Column]) -> int:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _table(columns: Sequence[_Column], width: int) -> Table:
    table = Table(
        box=None,
        header_style="bold",
        padding=(0, GAP, 0, 0),
        pad_edge=False,
        show_header=any(column.heading for column in columns),
    )
    spare = width - _least(columns)
    for column in columns:
        more = min(spare, column.width - column.least)
        spare -= more
        table.add_column(
            Text(column.heading), justify=column.justify, width=column.least + more, no_wrap=not column.wraps,
            overflow="fold",
        )  # fmt: skip
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    return table


def _blocks(columns: Sequence[_Column]) -> Group:
    first, *others = columns
    lines: list[Text | Padding] = []
    for i, cell in enumerate(first.cells):
        lines.append(Text(f"{first.heading} {cell}" if first.justify == "right" else cell, overflow="fold"))
        for column in others:
            text = f"{column.heading}: {column.cells[i]}" if column.heading else column.cells[i]
            if column.cells[i]:
                lines.append(Padding(Text(text, overflow="fold"), (0, 0, 0, 2)))
    return Group(*lines)
