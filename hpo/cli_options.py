"""What several commands share: their options, and how they print."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from . import address, limits

ROUNDS = click.IntRange(1, limits.ROUNDS)
TRIAL = click.IntRange(0, limits.TRIAL_NUMBER)
Command = TypeVar("Command", bound=Callable[..., Any])


def storage_option(command: Command) -> Command:
    """`--storage URL` or `--storage-file FILE`; the command is given the URL as `storage`."""

    @click.option(
        "--storage",
        metavar="URL",
        help="The database of studies.  "
        f"[default: ${address.URL}, or what ${address.FILE} holds, else {address.DEFAULT}]",
    )
    @click.option(
        "--storage-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A file that holds the URL, where its password is to stay out of command lines.",
    )
    @wraps(command)
    def resolved(*arguments: Any, storage: str | None, storage_file: Path | None, **settings: Any) -> Any:
        return command(*arguments, storage=address.find_url(storage, storage_file), **settings)

    return resolved  # type: ignore[return-value]


def same_storage() -> str:
    """Returns the options that name this command's storage, where another would not find it by itself."""
    params = click.get_current_context().params
    if params["storage_file"]:
        return f" --storage-file {shlex.quote(str(params['storage_file']))}"
    return f" --storage {shlex.quote(address.without_password(params['storage']))}" if params["storage"] else ""


def json_option(command: Command) -> Command:
    """`--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(command)


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
        type=click.Path(path_type=Path),
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


def this_command() -> str:
    """Returns the command that is running, as one would type it, without passwords."""
    return address.without_password(shlex.join(["hpo", *sys.argv[1:]]))


@contextmanager
def written_by_request() -> Iterator[None]:
    """Turns the failure to write where the user said into one line."""
    from .errors import RequestError

    try:
        yield
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        raise RequestError(f"{error.filename} cannot be written: {error.strerror}") from error


def print_parts(*parts: Any) -> None:
    """Prints tables and lines, an empty line between two."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for i, part in enumerate(parts):
        if i:
            console.print()
        console.print(part)


def print_json(value: Any) -> None:
    """Prints JSON."""
    click.echo(json.dumps(value, indent=2))
