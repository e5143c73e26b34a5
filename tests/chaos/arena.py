"""Where a scenario is played."""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.chaos.faults import Faults
from tests.chaos.field import Field
from tests.postgres import TemporaryPostgres

Kind = Literal["sqlite", "postgresql"]


@dataclass
class Arena:
    """Where a scenario takes place: a folder, a kind of database, a seed.

    Attributes:
        postgres: a server that the scenario may stop.
        warm: whether processes are forked from one that has imported everything.
    """

    kind: Kind
    folder: Path
    seed: int
    postgres: TemporaryPostgres
    scale: float = 1.0
    warm: bool = False

    @property
    def budget(self) -> int:
        """100 trials at full scale."""
        return round(100 * self.scale)

    def new_url(self) -> str:
        """Returns the URL of a database that is new and empty."""
        name = uuid.uuid4().hex
        return f"sqlite:///{self.folder}/{name}.db" if self.kind == "sqlite" else self.postgres.create_database(name)

    def field(self, stack: ExitStack, plan: Faults | None = None, url: str | None = None, **run: Any) -> Field:
        """Makes a field, closed with the stack."""
        made = Field(url or self.new_url(), self.folder, seed=self.seed, budget=self.budget, faults=plan, **run)
        made.warm = self.warm
        stack.callback(made.close)
        return made

    def launch(self, field: Field) -> None:
        """Starts the usual machines: two with four workers each."""
        field.launch(machines=2, workers=max(2, round(4 * self.scale)))
