"""`hpo reproduce`: the two reports' tables and figures, measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.arguments import Folder
from hpo.cli.columns import FittedTable
from hpo.cli.options import (
    ROUNDS,
    data_option,
    dataset_option,
    device_option,
    print_parts,
    storage_option,
    workers_option,
    written_by_request,
)
from hpo.cli.run import begin_work, serve_studies
from hpo.provenance import DECIDING
from hpo.text.output import say

if TYPE_CHECKING:
    from hpo.errors import WorkError
    from hpo.study.references import Sources
    from hpo.workers.plan import Plan


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--rounds", type=ROUNDS, metavar="N", help="A quick look with this many rounds, marked as such.")
@click.option(
    "-o", "folder", type=Folder(), default=Path("reproduction"), show_default=True,
    metavar="DIR", help="Write the document and its figures here.",
)  # fmt: skip
@click.option("--stale", is_flag=True, help="List what is older than the code, or of other versions; measure nothing.")
@click.option("--again", is_flag=True, help="Measure what is stale anew, in new studies; the old ones stay.")
@workers_option
@storage_option
@device_option
@dataset_option
@data_option
def reproduce(
    names: tuple[str, ...],
    rounds: int | None,
    folder: Path,
    stale: bool,
    again: bool,
    workers: str,
    storage: str,
    device: str,
    dataset: str | None,
    data: Path | None,
) -> None:
    """Measure the two reports' tables and figures again.

    All of them, or those whose names begin so: report_a, report_a_table_1, report_b_figure_5. The document sets each
    figure beside the published one. Stopped, it goes on where it was; other machines can help by hpo worker.
    """
    from hpo.reports.published import find_items, reports, studies_of
    from hpo.study import catalog
    from hpo.study.references import Sources
    from hpo.tasks.datasets import data_folder
    from hpo.workers.devices import assign_devices, trials_at_once
    from hpo.workers.plan import find_study, make_plan

    items = find_items(names)
    overrides = [(k, v) for k, v in (("task.dataset", dataset), ("protocol.rounds", rounds)) if v is not None]
    own = {study: catalog.load_study(study, overrides)[0] for study in studies_of(reports().items)}
    suffix = own["report_a_table_1"].removeprefix("report_a_table_1")
    if stale:
        _list_stale(items, folder, suffix)
        return
    begin_work()
    devices = assign_devices(workers, device)
    stored = _stored_names(storage, own, studies_of(items) if again else ())
    wanted = [find_study(storage, study, overrides=overrides, name=stored[study]) for study in studies_of(items)]
    plans = [make_plan(storage, one) for one in wanted]
    opened, given_up = _measure(storage, plans, devices, trials_at_once(workers), Sources(data_folder(data)))
    _show(items, opened, stored, folder, suffix)
    if given_up is not None:
        raise given_up


def _stored_names(storage: str, own: Mapping[str, str], again: Sequence[str]) -> dict[str, str]:
    """Returns study -> its name in the storage: its own, or that of the last study that measures it anew.

    Args:
        again: the studies that are to be measured anew, in yet another one, where they hold anything stale.
    """
    from hpo.errors import NoStorage
    from hpo.reports.staleness import is_stale, newest_name, next_name
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import study_names
    from hpo.storage.studies import own_studies

    try:
        opened = open_storage(storage)
    except NoStorage:
        return dict(own)
    known, ours = study_names(opened), own_studies(opened)
    names = {study: newest_name(name, known) for study, name in own.items()}
    stale = [study for study in again if names[study] in ours and is_stale(opened, names[study])]
    return {**names, **{study: next_name(own[study], known) for study in stale}}


def _list_stale(items: Sequence[str], folder: Path, suffix: str) -> None:
    """Prints what of a document is stale, and the command that measures it anew."""
    from hpo.errors import RequestError
    from hpo.provenance import versions
    from hpo.reports.reproduction import Reproduction
    from hpo.reports.staleness import find_stale
    from hpo.text.commands import this_command

    file = folder / f"reproduction{suffix}.json"
    if not file.exists():
        raise RequestError(f"there is no {file} that could be stale; hpo reproduce without --stale makes one")
    found = find_stale(Reproduction.read(file), items)
    if not found:
        say(f"{file}: nothing is stale")
        return
    rows = [["", "", "measured", "differs in"]]
    rows += [[one.item, one.what, one.measured or "unknown", _differences(one.differs_in)] for one in found]
    here = ", ".join(f"{name} {versions()[name]}" for name in DECIDING)
    print_parts(*rows_table([f"{file}, against {here}"], rows)[:-1])
    say("", "measured anew by", f"  {this_command('--again').replace(' --stale', '', 1)}")


def _differences(names: Sequence[str]) -> str:
    return "all, or not kept" if len(names) == len(DECIDING) else ", ".join(names)


def _show(items: Sequence[str], opened: Any, stored: dict[str, str], folder: Path, suffix: str) -> None:
    """Prints the tables of what is measured, and writes the document."""
    from hpo.reports.document import looked_at, table_of
    from hpo.reports.published import architectures_of, reports
    from hpo.reports.reproduction import read_reproduction
    from hpo.reports.staleness import find_stale
    from hpo.text.commands import this_command

    networks = {name: _describe(name) for name in architectures_of(reports().items)}
    found = read_reproduction(opened, stored, networks)
    mark = [f"a quick look ({looked_at(suffix)}), no reproduction"] if suffix else []
    for item in items:
        rows = table_of(item, found)
        if rows:
            print_parts(*rows_table([reports().items[item].title, *mark], rows))
    _write_reproduction(items, found, opened, stored, networks, folder, suffix)
    stale = [one for one in find_stale(found, items) if one.what != "picture"]
    if stale:
        what = f"cells and range tests that are older than the code, or of other versions: {len(stale)}"
        say(f"{what}; measured anew, in new studies, by", f"  {this_command('--again')}", err=True)


def _measure(
    storage: str, plans: Sequence[Plan], devices: list[str], at_once: int | None, sources: Sources
) -> tuple[Any, WorkError | None]:
    """Brings studies to their trials; returns their storage, if any, and the error where one had to be given up."""
    from hpo.errors import WorkError
    from hpo.workers.launch import begin

    opened = None
    for plan in plans:
        opened = begin(storage, plan, sources)
    if opened is not None:
        try:
            names = tuple(plan.name for plan in plans)
            serve_studies(opened, names, devices=devices, at_once=at_once, sources=sources, exit_when_done=True)
        except WorkError as error:  # what the other studies have measured is written all the same
            return opened, error
    return opened, None


def _write_reproduction(
    items: Sequence[str],
    found: Any,
    opened: Any,
    stored: dict[str, str],
    networks: dict[str, Any],
    folder: Path,
    suffix: str,
) -> None:
    from hpo.dashboard.server import save_figure
    from hpo.report.figures import write_pngs
    from hpo.reports.document import picture_of, write_document
    from hpo.reports.document_figures import draw, draw_range_tests
    from hpo.reports.published import studies_of

    if opened is not None and "report_a_table_5" in studies_of(items):
        for optimizer, figure in draw_range_tests(opened, stored["report_a_table_5"]).items():
            save_figure(opened, stored["report_a_table_5"], f"range_test_{optimizer}", figure)
    figures = {item: draw(item, opened, stored, found, networks) for item in items}
    with written_by_request():
        (folder / picture_of("", suffix)).parent.mkdir(parents=True, exist_ok=True)
        drawn = {folder / picture_of(item, suffix): figure for item, figure in figures.items() if figure is not None}
        missing = write_pngs(drawn)
        if not missing:
            found.note_drawn(item for item, figure in figures.items() if figure is not None)
        document = write_document(folder, suffix, found)
    say(f"wrote {document}" + (f"; {missing}" if missing else ""), err=True)


def _describe(name: str) -> dict[str, Any]:
    from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture
    from hpo.training.network_summary import describe

    return describe(load_architecture(name), load_activations()("relu"))


def rows_table(title: list[str], rows: Sequence[Sequence[str]]) -> list[Any]:
    """Returns rows, their headings the first, as a table under its title's lines."""
    table = FittedTable()
    for i, heading in enumerate(rows[0]):
        table.add_column(heading, wraps=i == 0)
    for row in rows[1:]:
        table.add_row(*row)
    return [title, table, ""]
