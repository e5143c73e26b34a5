"""`hpo list`: the studies and architectures known here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the studies and architectures known here."""
    from hpo.study import catalog
    from hpo.tasks.digit_pairs.architectures import architectures

    found = {
        "studies": [
            {"name": name, "file": str(file), "title": _title(file)} for name, file in catalog.studies().items()
        ],
        "architectures": [{"name": a.name, "file": str(a.file), "title": a.summary} for a in architectures().values()],
    }
    if as_json:
        print_json(found)
        return
    print_parts(*(names_table(kind, entries) for kind, entries in found.items()))


def _title(file: Path) -> str:
    from hpo.errors import StudyError
    from hpo.study.definition import read_study

    try:
        return read_study(file).title
    except StudyError as error:  # one broken file of many is no reason to list none
        return f"({error})"


def names_table(kind: str, entries: Sequence[dict[str, str]]) -> FittedTable:
    """Returns names with their titles."""
    table = FittedTable()
    table.add_column(kind)
    table.add_column(wraps=True)
    for entry in entries:
        table.add_row(entry["name"], entry["title"])
    return table
