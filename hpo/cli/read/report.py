"""`hpo report`: a study's results as an HTML page and as Markdown."""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli.arguments import Folder
from hpo.cli.options import (
    print_parts,
    share_option,
    storage_option,
    stored_name,
    study_option,
    written_by_request,
)
from hpo.signals import stop_on_signals
from hpo.text.output import say


@click.command()
@study_option()
@click.option(
    "-o", "folder", default=Path("report"), show_default=True, type=Folder(), metavar="DIR",
    help="Write STUDY.html and STUDY.md here.",
)  # fmt: skip
@storage_option
@share_option
def report(study: str, folder: Path, storage: str, share: bool) -> None:
    """Write a study's results as an HTML page and as Markdown.

    The page needs no network, and is for reading, printing and sending; the Markdown has pictures where there is a
    Chromium.
    """
    from hpo.report.html import write_report
    from hpo.report.report import read_report
    from hpo.report.sharing import cleaner, known_hosts
    from hpo.storage.backends import open_storage

    stop_on_signals()
    opened = open_storage(storage)
    study = stored_name(study)
    found = read_report(opened, study, cleaner(known_hosts(opened, study)) if share else str)
    with written_by_request():
        folder.mkdir(parents=True, exist_ok=True)
        files, missing = write_report(found, folder)
    print_parts(found.headline, [str(file) for file in files])
    if missing:
        say(f"no pictures for the Markdown: {missing}", err=True)
