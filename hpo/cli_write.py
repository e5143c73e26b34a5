"""The commands that write what a study has found: hpo report, hpo export."""

from __future__ import annotations

from pathlib import Path

import click

from .cli_options import (
    ROUNDS,
    TRIAL,
    data_option,
    device_option,
    json_option,
    print_json,
    print_parts,
    storage_option,
    written_by_request,
)
from .signals import stop_on_signals


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option(
    "-o", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Write NAME.html and NAME.md here.",
)  # fmt: skip
@storage_option
def report(study: str, folder: Path, storage: str) -> None:
    """Write what a study says: one page that needs no network, and Markdown.

    The page is for reading, printing and sending; the Markdown has pictures where there is a Chromium.
    """
    from .page import write_report
    from .report import read_report
    from .storage import open_storage

    found = read_report(open_storage(storage), study)
    with written_by_request():
        folder.mkdir(parents=True, exist_ok=True)
        files, missing = write_report(found, folder)
    print_parts("\n".join(found.headline), "\n".join(str(file) for file in files))
    if missing:
        click.echo(f"no pictures for the Markdown: {missing}", err=True)


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option(
    "-o", "file", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write FILE.safetensors, and FILE.json beside it.",
)  # fmt: skip
@click.option(
    "--rounds",
    default=1,
    show_default=True,
    type=ROUNDS,
    metavar="N",
    help="A network for each.",
)
@click.option("--trial", type=TRIAL, metavar="N", help="Another trial than the winner.")
@storage_option
@device_option
@data_option
@json_option
def export(
    study: str, file: Path, rounds: int, trial: int | None, storage: str, device: str, data: Path | None, as_json: bool
) -> None:
    """Train a study's winner again and save it, with its configuration and its error.

    The files are also added to the study, where hpo dashboard shows them. hpo.load_network(FILE) loads a network again.
    """
    from rich.console import Console
    from rich.progress import track

    from .artifacts import attach
    from .confirmation import read_confirmed
    from .datasets import data_folder, prepare
    from .export import train_winner, write
    from .findings import export_view
    from .optimize import find_devices
    from .results import read_definition, read_trial
    from .storage import open_storage

    file = file if file.suffix == ".safetensors" else file.with_name(f"{file.name}.safetensors")
    place, folder = find_devices(device)[0], data_folder(data)
    definition, chosen = read_definition(open_storage(storage), study), read_trial(open_storage(storage), study, trial)
    opened = open_storage(storage, create=True)  # what cannot be written shall fail before the training
    with written_by_request():
        file.parent.mkdir(parents=True, exist_ok=True)
        was_there = file.exists()
        file.touch()
        if not was_there:  # an interruption is to leave nothing that looks like an export
            file.unlink()
    prepare(definition.protocol.dataset, folder)
    stop_on_signals()
    console = Console(stderr=True)
    trained, weights = train_winner(
        definition, chosen, rounds=rounds, device=place, data_folder=folder,
        watch=lambda epochs, total: track(
            epochs, "training", total=total, console=console, transient=True, disable=not console.is_terminal
        ),
    )  # fmt: skip
    described = {"study": study, **trained, "confirmed": read_confirmed(opened, study, chosen.number)}
    with written_by_request():
        write(file, described, weights)
    for written in (file, file.with_suffix(".json")):
        attach(opened, study, written)
    if as_json:
        print_json(described)
    else:
        print_parts(*export_view(described, file))
