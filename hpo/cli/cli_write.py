"""The commands that write what a study has found: hpo report, hpo export."""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli.arguments import File, Folder
from hpo.cli.options import (
    ROUNDS,
    TRIAL,
    begin_work,
    data_option,
    device_option,
    json_option,
    print_json,
    print_parts,
    share_option,
    storage_option,
    written_by_request,
)
from hpo.text.output import say
from hpo.workers.signals import checked, stop_on_signals

ENDINGS = (".safetensors", ".json")  # of the files that hpo export writes


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option(
    "-o", "folder", required=True, type=Folder(), metavar="DIR",
    help="Write NAME.html and NAME.md here.",
)  # fmt: skip
@storage_option
@share_option
def report(study: str, folder: Path, storage: str, share: bool) -> None:
    """Write a study's results as an HTML page and as Markdown.

    The page needs no network, and is for reading, printing and sending; the Markdown has pictures where there is a
    Chromium.
    """
    from hpo.report.html import write_report
    from hpo.report.sections import read_report
    from hpo.report.sharing import cleaner, known_hosts
    from hpo.storage.backends import open_storage

    stop_on_signals()
    opened = open_storage(storage)
    found = read_report(opened, study, cleaner(known_hosts(opened, study)) if share else str)
    with written_by_request():
        folder.mkdir(parents=True, exist_ok=True)
        files, missing = write_report(found, folder)
    say(*found.headline, "", *map(str, files))
    if missing:
        say(f"no pictures for the Markdown: {missing}", err=True)


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option(
    "-o", "file", required=True, type=File(), metavar="FILE",
    help="Write FILE.safetensors, and FILE.json beside it.",
)  # fmt: skip
@click.option(
    "--rounds", default=1, show_default=True, type=ROUNDS, metavar="N",
    help="How many rounds to train; each makes one network.",
)  # fmt: skip
@click.option("--trial", type=TRIAL, metavar="N", help="Train this trial instead of the best.")
@storage_option
@device_option
@data_option
@share_option
@json_option
def export(
    study: str,
    file: Path,
    rounds: int,
    trial: int | None,
    storage: str,
    device: str,
    data: Path | None,
    share: bool,
    as_json: bool,
) -> None:
    """Train a study's best again, and save it as a file.

    It is saved with its configuration and its error. The files are also added to the study, where hpo dashboard shows
    them. hpo.load_network(FILE) loads a network again.
    """
    from rich.progress import track

    from hpo.analysis.confirmation import read_confirmed
    from hpo.analysis.results import read_definition, read_trial
    from hpo.cli.console import Console
    from hpo.cli.findings import export_view
    from hpo.report.sharing import cleaner, known_hosts
    from hpo.storage.artifacts import attach
    from hpo.storage.backends import open_storage
    from hpo.tasks.datasets import data_folder, prepare
    from hpo.text.files import check_writable
    from hpo.workers.launch import find_devices

    begin_work()
    from hpo.errors import RequestError
    from hpo.training.export import (  # torch, which cannot be imported in a working folder that is gone
        train_winner,
        write,
    )

    if file.name in ("", *ENDINGS) or (file.exists() and not file.is_file()):
        raise RequestError(f"-o must name a file, but is {str(file)!r}")
    stem = file.with_suffix("") if file.suffix in ENDINGS else file
    file = stem.with_name(f"{stem.name}.safetensors")
    place, folder = find_devices(device)[0], data_folder(data)
    definition, chosen = read_definition(open_storage(storage), study), read_trial(open_storage(storage), study, trial)
    opened = open_storage(storage, write=True)  # what cannot be written shall fail before the training
    with written_by_request():
        file.parent.mkdir(parents=True, exist_ok=True)
        for written in (file, file.with_suffix(".json")):
            check_writable(written)
    prepare(definition.protocol.dataset, folder)
    console = Console(stderr=True)
    trained, weights = train_winner(
        definition, chosen, rounds=rounds, device=place, data_folder=folder,
        watch=lambda epochs, total: track(
            checked(epochs), "training", total=total, console=console, transient=True, disable=not console.is_terminal
        ),
    )  # fmt: skip
    shown = cleaner(known_hosts(opened, study))(study) if share else study  # nothing else in it names a machine
    described = {"study": shown, **trained, "confirmed": read_confirmed(opened, study, chosen.number)}
    with written_by_request():
        write(file, described, weights)
    for written in (file, file.with_suffix(".json")):
        attach(opened, study, written)
    if as_json:
        print_json(described)
    else:
        print_parts(*export_view(described, file))
