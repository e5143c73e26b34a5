"""What a study in Python says: read from its storage, by whoever has measured it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo.analysis.comparison import Comparison, compare
from hpo.analysis.confirmation import read_winner
from hpo.analysis.expected import Expected, read_expected
from hpo.analysis.ledger import Ledger, read_ledger
from hpo.analysis.results import Best, flatten, read_rows
from hpo.api.arguments import in_python
from hpo.errors import RequestError, explain_os_error
from hpo.report.html import write_report
from hpo.report.report import read_report
from hpo.storage.backends import open_storage
from hpo.storage.studies import read_definition


class Results:
    """The part of a study that only reads.

    Attributes:
        name: the study's in the storage.
        storage: the database's URL.
    """

    name: str
    storage: str

    @in_python
    def best(self) -> Best:
        """Returns the best trial, and what fresh rounds say of it."""
        return read_winner(open_storage(self.storage), self.name)

    @in_python
    def trials(self) -> list[dict[str, Any]]:
        """Returns the trials, one flat dictionary each, as `pandas.DataFrame` takes them; see `hpo.load_results`."""
        opened = open_storage(self.storage)
        definition = read_definition(opened, self.name)
        return [flatten(row, definition) for row in read_rows(opened, self.name)]

    @in_python
    def compare(self, *names: str | int) -> Comparison:
        """Says which configuration is better, by how much, how sure; printed, it is the answer in a sentence.

        Args:
            names: two or more labels of a list, or numbers of trials. Unless given, a list is compared whole; of a
                search what was confirmed, or else its two best.
        """
        return compare(open_storage(self.storage), self.name, [str(name) for name in names])

    @in_python
    def report(self, folder: str | Path = "report") -> Path:
        """Writes the results into a folder, as an HTML page and as Markdown; returns the page's file."""
        found = read_report(open_storage(self.storage), self.name)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            files, _ = write_report(found, Path(folder))
        except OSError as error:
            raise RequestError(explain_os_error(error)) from error
        return files[0]

    @in_python
    def expected(self) -> Expected:
        """Returns the configuration of which most can be expected, by a model of all trials; no judge, but a guess."""
        return read_expected(open_storage(self.storage), self.name)

    @in_python
    def ledger(self) -> Ledger:
        """Returns how often anything was chosen by looking at the test."""
        return read_ledger(open_storage(self.storage), self.name)
