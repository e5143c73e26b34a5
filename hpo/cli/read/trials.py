"""`hpo trials`: all trials of a study, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts, storage_option, stored_name, study_option
from hpo.study.card import MetricCard
from hpo.text.formatting import mean_and_deviation, with_unit
from hpo.text.short_names import short_name

if TYPE_CHECKING:
    from hpo.analysis.results import TrialRow


@click.command()
@study_option()
@storage_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a column for each round and parameter.")
def trials(study: str, storage: str, as_json: bool, as_csv: bool) -> None:
    """Show all trials of a study."""
    from hpo.analysis.results import columns_of, flatten, read_rows
    from hpo.storage.backends import open_storage
    from hpo.storage.studies import read_card, read_definition
    from hpo.text.escaping import escape_csv

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    opened = open_storage(storage)
    study = stored_name(study)
    rows = read_rows(opened, study)
    if as_json:
        print_json([asdict(row) for row in rows])
    elif as_csv:
        definition = read_definition(opened, study)
        flat = [flatten(row, definition) for row in rows]
        columns = list(dict.fromkeys(key for row in (columns_of(definition), *flat) for key in row))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(escape_csv, columns))
        writer.writerows([escape_csv(row.get(column)) for column in columns] for row in flat)
    else:
        print_parts(trials_table(rows, read_card(opened, study).metric))


def trials_table(rows: Sequence[TrialRow], metric: MetricCard) -> FittedTable:
    """Returns trials as a table."""
    table = FittedTable()
    table.add_column("trial", justify="right")
    table.add_column("state", rank=1)
    table.add_column(with_unit(metric.noun, metric.unit), justify="right")
    table.add_column("s", justify="right", rank=2)
    table.add_column("configuration", wraps=True)
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        table.add_row(
            str(row.number),
            "interrupted" if row.state == "FAIL" and row.error is None else row.state.lower(),
            "" if row.value is None else mean_and_deviation(row.value, row.std, metric.unit),
            seconds,
            _described(row),
        )
    return table


def _described(row: TrialRow) -> str:
    if row.state == "FOREIGN":
        return "not measured by hpo, and not counted"
    if row.error is not None:
        return row.error
    described = row.label if row.label is not None else short_name(row.params)
    if not (row.diverged_rounds and row.errors):
        return described
    return f"{described} ({len(row.diverged_rounds)}/{len(row.errors)} diverged)"
