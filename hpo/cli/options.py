"""What several commands share: their options, and how they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from hpo import limits
from hpo.cli.arguments import File, Folder, WholeNumber
from hpo.storage.url import DEFAULT, FILE, URL, find_url

ROUNDS = WholeNumber(1, limits.ROUNDS)
TRIAL = WholeNumber(0, limits.TRIAL_NUMBER)

Command = TypeVar("Command", bound=Callable[..., Any])


def storage_option(command: Command) -> Command:
    """`--storage URL` or `--storage-file FILE`; the command is given the URL as `storage`."""

    @click.option(
        "--storage",
        metavar="URL",
        help=f"The database of studies.  [default: ${URL}, or what ${FILE} holds, else {DEFAULT}]",
    )
    @click.option(
        "--storage-file",
        type=File(),
        metavar="FILE",
        help="A file that holds the URL (keeps the password off the command line).",
    )
    @wraps(command)
    def resolved(*arguments: Any, storage: str | None, storage_file: Path | None, **settings: Any) -> Any:
        return command(*arguments, storage=find_url(storage, storage_file), **settings)

    return resolved  # type: ignore[return-value]


def json_option(command: Command) -> Command:
    """`--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(command)


def share_option(command: Command) -> Command:
    """`--share`."""
    return click.option(
        "--share", is_flag=True, help="For giving away: without host names, user names, paths and storage URLs."
    )(command)


def workers_option(command: Command) -> Command:
    """`--workers`."""
    return click.option(
        "--workers",
        default="auto",
        show_default=True,
        metavar="N|auto",
        help="Worker processes; auto is one for each physical core, or for each GPU.",
    )(command)


def device_option(command: Command) -> Command:
    """`--device`."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:i]",
        help="Where to train; worker processes take several GPUs in turn.",
    )(command)


def data_option(command: Command) -> Command:
    """`--data DIR`."""
    return click.option(
        "--data",
        type=Folder(),
        metavar="DIR",
        help="The folder of datasets.  [default: $HPO_DATA, else the cache folder]",
    )(command)


def dataset_option(command: Command) -> Command:
    """`--dataset`."""
    return click.option(
        "--dataset",
        type=click.Choice(["mnist", "digits"]),
        help="Another dataset than the study's; makes it a study of its own, NAME-DATASET.",
    )(command)


@contextmanager
def written_by_request() -> Iterator[None]:
    """Turns the failure to write where the user said into one line."""
    from hpo.errors import RequestError

    try:
        yield
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        raise RequestError(f"{error.filename} cannot be written: {error.strerror}") from error


def print_parts(*parts: Any) -> None:
    """Prints tables and lines, an empty line between two; a list is of lines without one."""
    from hpo.cli.console import Console

    console = Console()
    for i, part in enumerate(parts):
        if i:
            console.print()
        for line in part if isinstance(part, list) else [part]:
            console.print(line)


def print_json(value: Any) -> None:
    """Prints JSON."""
    click.echo(json.dumps(value, indent=2))
