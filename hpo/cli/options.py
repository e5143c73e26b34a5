"""What several commands share: their options, and how they print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpo import limits
from hpo.cli.arguments import File, Folder, StudyName, WholeNumber
from hpo.storage.url import DEFAULT, FILE, URL, find_url

if TYPE_CHECKING:
    from hpo.study.references import Sources

ROUNDS = WholeNumber(1, limits.ROUNDS)
TRIAL = WholeNumber(0, limits.TRIAL_NUMBER)

ALLOW = "HPO_ALLOW"  # the environment variable; patterns with blanks in between

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


def is_file(study: str) -> bool:
    """Says whether a study is given by its file."""
    return study.endswith(".toml")


def means_file_here(study: str) -> bool:
    """Says whether a file is in the working folder, so that its name without the ending means it."""
    from hpo.study.catalog import shipped

    return Path(study).parent == Path() and not (shipped("studies") / study).is_file()


def stored_name(study: str) -> str:
    """Returns the name under which a storage has a study that is given by its name or its file."""
    return Path(study).stem if is_file(study) else study


def study_option(
    help: str = "The study's name in the storage, or its TOML file.", *, needed: bool = True
) -> Callable[[Command], Command]:
    """`STUDY`, or `--study STUDY`; the command is given it as it stands, see `stored_name`."""

    def decorate(command: Command) -> Command:
        @click.argument("place", required=False, type=StudyName(), metavar="STUDY" if needed else "[STUDY]")
        @click.option("--study", type=StudyName(), metavar="STUDY", help=f"The same as STUDY. {help}")
        @wraps(command)
        def resolved(*arguments: Any, place: str | None, study: str | None, **settings: Any) -> Any:
            if place is not None and study is not None:
                raise click.UsageError(f"a study is named once, but twice here: {place!r} and --study {study!r}")
            named = study if place is None else place
            if named is None and needed:
                example = click.get_current_context().info_name
                raise click.UsageError(f"name a study, as in hpo {example} quickstart")
            return command(*arguments, study=named, **settings)

        return resolved  # type: ignore[return-value]

    return decorate


def _complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Returns what completes the name of a sampler or a pruner."""

    def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from hpo.study import search

        return [name for name in search.names_of(getattr(search, kind)) if name.startswith(incomplete)]

    return names


def overrides_option(command: Command) -> Command:
    """`--set`, `--sampler`, `--pruner` and `--dataset`, as `overrides`; each makes a study of its own."""

    @click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change a setting of the study's file, as in protocol.seed=1; makes it a study of its own, as --sampler, "
        "--pruner and --dataset do. Can be repeated.",
    )
    @click.option(
        "--sampler",
        metavar="NAME",
        shell_complete=_complete("Sampler"),
        help="Another sampler, as in sampler.name=NAME.",
    )
    @click.option(
        "--pruner", metavar="NAME", shell_complete=_complete("Pruner"), help="Another pruner, as in pruner.name=NAME."
    )
    @dataset_option
    @wraps(command)
    def resolved(
        *arguments: Any,
        settings: tuple[str, ...],
        sampler: str | None,
        pruner: str | None,
        dataset: str | None,
        **others: Any,
    ) -> Any:
        from hpo.study.overrides import parse_override

        named = {"task.dataset": dataset, "sampler.name": sampler, "pruner.name": pruner}
        overrides = [(key, value) for key, value in named.items() if value is not None]
        return command(*arguments, overrides=[*overrides, *map(parse_override, settings)], **others)

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


@dataclass(frozen=True)
class Given:
    """What was said of where data and code are.

    Attributes:
        code: the folder of code; None where it was not said.
        allowed: patterns of code that may be opened though a database asks for it.
    """

    data: Path | None
    code: Path | None
    allowed: tuple[str, ...]

    def words(self) -> list[str]:
        """Returns the options that say it again."""
        code = ["--code", str(self.code)] if self.code else []
        return [*code, *(word for pattern in self.allowed for word in ("--allow", pattern))]

    def sources(self, *studies: str) -> Sources:
        """Returns where data and code are; who names a study's file allows the code that it names.

        Args:
            studies: as they were given.

        Raises:
            RequestError: where one is a file that breaks a rule, or several lie in different folders.
        """
        from hpo.errors import RequestError
        from hpo.study.references import Sources
        from hpo.tasks.datasets import data_folder

        sources = Sources(data_folder(self.data), self.code or Path(), self.allowed)
        files = [Path(study) for study in studies if is_file(study)]
        if self.code is None and len({file.resolve().parent for file in files}) > 1:
            raise RequestError("studies of different folders need --code DIR, below which the code of all is")
        if files:
            from hpo.study.definition import read_study

            for file in files:
                given = read_study(file)
                folder = self.code or file.resolve().parent
                sources = sources.allowing_file(folder, given.references, given.network)
                sources = replace(sources, files={**sources.files, file.stem: given})
        return sources


def sources_options(command: Command) -> Command:
    """`--data DIR`, `--code DIR` and `--allow PATTERN`, as `given`."""

    @data_option
    @click.option(
        "--code",
        type=Folder(),
        metavar="DIR",
        help="Below it are the files of code that studies name.  [default: the study file's folder, else this one]",
    )
    @click.option(
        "--allow",
        metavar="PATTERN",
        multiple=True,
        help=f"Open such code though a database asks for it, as 'forest.py:*'; ${ALLOW} too. Can be repeated.",
    )
    @wraps(command)
    def resolved(*arguments: Any, data: Path | None, code: Path | None, allow: tuple[str, ...], **settings: Any) -> Any:
        allowed = (*allow, *os.environ.get(ALLOW, "").split())
        return command(*arguments, given=Given(data, code, allowed), **settings)

    return resolved  # type: ignore[return-value]


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
    """Prints tables and lines, an empty line between two; a list is of lines without one, and may be empty."""
    from hpo.cli.console import Console

    console = Console()
    for i, part in enumerate(part for part in parts if part != []):
        if i:
            console.print()
        for line in part if isinstance(part, list) else [part]:
            console.print(line)


def print_json(value: Any) -> None:
    """Prints JSON."""
    click.echo(json.dumps(value, indent=2))
