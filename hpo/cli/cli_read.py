"""The commands that read: hpo status, best, trials, list, show, dashboard. They create nothing."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hpo.cli.arguments import File, Host, WholeNumber
from hpo.cli.options import begin_work, json_option, print_json, print_parts, storage_option, written_by_request
from hpo.text.output import say
from hpo.text.streams import lost
from hpo.workers.signals import check, stop_on_signals

WATCH_SECONDS = 2.0


@click.command()
@click.option("--study", metavar="NAME", help="Show this study only.")
@storage_option
@click.option("--watch", is_flag=True, help="Draw it again every two seconds, until Ctrl-C.")
@json_option
def status(study: str | None, storage: str, watch: bool, as_json: bool) -> None:
    """Show how far studies are, and which workers run them."""
    from hpo.analysis.results import Status, read_status
    from hpo.cli.views import statuses_view
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import study_names

    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    opened = open_storage(storage)

    def read() -> list[Status]:
        return [read_status(opened, name) for name in (study_names(opened) if study is None else [study])]

    if watch:
        _watch(lambda: statuses_view(read()))
    elif as_json:
        found = [asdict(status) for status in read()]
        print_json(found if study is None else found[0])
    else:
        print_parts(statuses_view(read()))


def _watch(view: Callable[[], Any]) -> None:
    from hpo.cli.console import Console
    from hpo.cli.terminal import Watch

    stop_on_signals()
    with Watch(Console()) as watch:
        watch.show(view())
        while not lost(WATCH_SECONDS):
            check()
            watch.show(view())


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@storage_option
@json_option
def best(study: str, storage: str, as_json: bool) -> None:
    """Show a study's best trial, and what fresh rounds say of it.

    The best is the trial with the lowest mean error among those measured to the end.
    """
    from hpo.analysis.confirmation import read_winner
    from hpo.analysis.results import read_definition
    from hpo.cli.findings import best_table
    from hpo.storage.backends import open_storage

    opened = open_storage(storage)
    winner = read_winner(opened, study)
    if as_json:
        print_json(asdict(winner))
        return
    print_parts(*best_table(winner, read_definition(opened, study).protocol.decision))


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@storage_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a column for each round and parameter.")
def trials(study: str, storage: str, as_json: bool, as_csv: bool) -> None:
    """Show all trials of a study."""
    from hpo.analysis.results import columns_of, flatten, read_definition, read_rows
    from hpo.cli.views import trials_table
    from hpo.storage.backends import open_storage
    from hpo.text.escaping import escape_csv

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    opened = open_storage(storage)
    rows = read_rows(opened, study)
    if as_json:
        print_json([asdict(row) for row in rows])
    elif as_csv:
        definition = read_definition(opened, study)
        flat = [flatten(row, definition.protocol.first_round) for row in rows]
        columns = list(dict.fromkeys(key for row in (columns_of(definition), *flat) for key in row))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(escape_csv, columns))
        writer.writerows([escape_csv(row.get(column)) for column in columns] for row in flat)
    else:
        print_parts(trials_table(rows))


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the studies and architectures known here."""
    from hpo.cli.views import names_table
    from hpo.study import catalog

    found = {
        "studies": [
            {"name": name, "file": str(file), "title": _title(file)} for name, file in catalog.studies().items()
        ],
        "architectures": [
            {"name": a.name, "file": str(a.file), "title": a.summary} for a in catalog.architectures().values()
        ],
    }
    if as_json:
        print_json(found)
        return
    print_parts(*(names_table(kind, entries) for kind, entries in found.items()))


@click.command()
@click.argument("name")
@click.option(
    "-o", "picture", type=File(), metavar="FILE",
    help="Draw the architecture into FILE.png or FILE.html.",
)  # fmt: skip
@json_option
def show(name: str, picture: Path | None, as_json: bool) -> None:
    """Show a study resolved, or an architecture's layers.

    A study is printed with every default filled in, an architecture with shapes and parameters. Both are, where both
    have the name.
    """
    from hpo.cli.views import layers_table, study_text
    from hpo.errors import RequestError, UnknownName
    from hpo.study import catalog

    begin_work()
    known = {**catalog.studies(), **catalog.architectures()}
    if name not in known and not name.endswith(".toml"):
        raise UnknownName("study or architecture", name, known)
    found: dict[str, Any] = {}
    if name in catalog.studies() or name.endswith(".toml"):
        found["study"] = catalog.load_study(name)[1].model_dump(mode="json")
    if name in catalog.architectures():
        from hpo.training.network_summary import describe

        summary = catalog.architectures()[name].summary
        build, relu = catalog.load_architecture(name), catalog.load_activations()("relu")
        found["architecture"] = {"summary": summary, **describe(build, relu)}
    if picture is not None:
        if "architecture" not in found or picture.suffix not in (".png", ".html"):
            raise RequestError(f"-o draws an architecture into a .png or .html, not {name!r} into {picture}")
        _draw(name, found["architecture"]["layers"], picture)
    if as_json:
        print_json(found)
        return
    if "study" in found:
        say(*study_text(name, found["study"]))
    if "architecture" in found:
        print_parts(*layers_table(name, found["architecture"]))


def _draw(name: str, layers: list[dict[str, Any]], picture: Path) -> None:
    from hpo.errors import WorkError
    from hpo.report.figures import network_figure, write_html, write_png

    figure, missing = network_figure(name, layers), ""
    with written_by_request():
        picture.parent.mkdir(parents=True, exist_ok=True)
        if picture.suffix == ".html":
            write_html(figure, picture)
        else:
            missing = write_png(figure, picture)
    if missing:
        raise WorkError(f"{missing}; a .html does not")


@click.command()
@storage_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, type=Host(), metavar="ADDRESS", help="The address to listen on."
)
@click.option("--port", default=8080, show_default=True, type=WholeNumber(1, 65535), metavar="PORT", help="Its port.")
@click.option(
    "--allow-host", "names", multiple=True, type=Host(), metavar="NAME[:PORT]",
    help="Another name by which it may be opened, as behind a proxy. Can be repeated.",
)  # fmt: skip
@click.option("--writable", is_flag=True, help="Let the page change and delete studies.")
def dashboard(storage: str, host: str, port: int, names: tuple[str, ...], writable: bool) -> None:
    """Browse studies in optuna-dashboard, by a link with a token.

    HPO_DASHBOARD_TOKEN sets the token; beyond this machine (--host) it must. The connection is not encrypted: put a
    proxy with TLS before it where it leaves the machine. Without --writable the page's buttons that create, rename and
    delete are still there, and fail.
    """
    from hpo.dashboard.server import serve_dashboard
    from hpo.storage.backends import open_storage

    opened = open_storage(storage)  # or a mistyped name would leave an empty database
    if writable:
        opened = open_storage(storage, write=True)
    serve_dashboard(opened, host=host, port=port, names=names, writable=writable)


def _title(file: Path) -> str:
    from hpo.errors import StudyError
    from hpo.study.definition import read_study

    try:
        return read_study(file).title
    except StudyError as error:  # one broken file of many is no reason to list none
        return f"({error})"
