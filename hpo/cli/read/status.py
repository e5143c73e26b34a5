"""`hpo status`: how far studies are, and which workers run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group

from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts, storage_option, stored_name, study_option
from hpo.signals import check, stop_on_signals
from hpo.text.formatting import count, duration, progress, spread
from hpo.text.streams import lost

if TYPE_CHECKING:
    from hpo.workers.status import Status

WATCH_SECONDS = 2.0


@click.command()
@study_option("Show it alone.", needed=False)
@storage_option
@click.option("--watch", is_flag=True, help="Draw it again every two seconds, until Ctrl-C.")
@json_option
def status(study: str | None, storage: str, watch: bool, as_json: bool) -> None:
    """Show how far studies are, and which workers run them."""
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import study_names
    from hpo.workers.status import read_status

    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    opened = open_storage(storage)

    def read() -> list[Status]:
        return [read_status(opened, name) for name in (study_names(opened) if study is None else [stored_name(study)])]

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


def status_table(statuses: Sequence[Status]) -> FittedTable:
    """Returns the studies of a storage as a table."""
    table = FittedTable()
    table.add_column("study", wraps=True)
    ranks = {"finished": 0, "pruned": 4, "running": 2, "failed": 3, "/h": 5, "left": 1, "best": 0}
    for heading, rank in ranks.items():
        table.add_column(heading, justify="right", rank=rank)
    for status in statuses:
        table.add_row(
            status.study,
            progress(status.finished, status.total),
            str(status.pruned),
            str(status.running),
            str(status.failed),
            "" if status.trials_per_hour is None else f"{status.trials_per_hour:.0f}",
            "" if status.eta_seconds is None else duration(status.eta_seconds),
            _best(status),
        )
    return table


def _best(status: Status) -> str:
    if not status.is_ours:
        return "made by an older hpo" if status.is_old else "not made by hpo"
    return "" if status.best is None else spread(status.best["value"], status.best["std"], status.unit)


def foreign_notes(statuses: Sequence[Status]) -> list[str]:
    """Returns a line for each study that another program has added trials to."""
    return [
        f"study {status.study}: {count(status.foreign, 'trial')} of other programs in it, not counted"
        for status in statuses
        if status.foreign
    ]


def workers_table(statuses: Sequence[Status]) -> FittedTable:
    """Returns the workers that run a trial now."""
    table = FittedTable()
    ranks = {"worker": 0, "pid": 4, "device": 3, "study": 0, "trial": 0, "since": 2, "heartbeat": 1}
    for heading, rank in ranks.items():
        numeric = heading in ("pid", "trial", "heartbeat")
        table.add_column(heading, justify="right" if numeric else "left", rank=rank, wraps=not numeric)
    for status in statuses:
        for worker in status.workers:
            age = worker["heartbeat_age_seconds"]
            table.add_row(
                worker["host"],
                str(worker["pid"]),
                worker["device"],
                status.study,
                str(worker["trial"]),
                "" if worker["since"] is None else _local_time(worker["since"]),
                "" if age is None else f"{age:.0f} s ago",
            )
    return table


def statuses_view(statuses: Sequence[Status]) -> Group:
    """Returns the studies of a storage, and who works on them."""
    if not statuses:
        return Group("no studies yet; hpo optimize creates one")
    parts: list[Any] = [status_table(statuses)]
    if any(status.workers for status in statuses):
        parts += ["", workers_table(statuses)]
    if notes := foreign_notes(statuses):
        parts += ["", *notes]
    return Group(*parts)


def _local_time(moment: str) -> str:
    """`14:03:07`, with the date where it is not today."""
    local = datetime.fromisoformat(moment).astimezone()
    return f"{local:%H:%M:%S}" if local.date() == datetime.now().date() else f"{local:%m-%d %H:%M}"
