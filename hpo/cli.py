"""The command line: arguments in, calls out.

Every import of weight stands inside its command, so that `hpo --help` loads neither torch nor optuna. Exit codes: 0
done, 1 the work failed, 2 the request was wrong (one line), 130 interrupted.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from . import __version__
from .errors import HpoError

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_STORAGE = "sqlite:///hpo.db"


class _Program(click.Group):
    """Turns the program's errors into one line and their exit code."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        try:
            return super().main(*arguments, **{**settings, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as help_asked:
            click.echo(help_asked.format_message())
            sys.exit(2)
        except click.ClickException as error:
            _fail(error.format_message().rstrip("."), 2)
        except HpoError as error:
            _fail(str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(130)
        except Exception as error:
            _fail(_storage_failure(error), 1)


def _storage_failure(error: Exception) -> str:
    """Returns what to say of an error that the storage's database made; raises any other again, which is a bug."""
    if "hpo.storage" in sys.modules:
        from .storage import FAILURES, explain_failure

        if isinstance(error, FAILURES):
            return f"the storage failed: {explain_failure(error)}"
    raise error


def _fail(message: str, exit_code: int) -> None:
    click.echo(f"hpo: {message}", err=True)
    sys.exit(exit_code)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hpo")
def main() -> None:
    """Hyperparameter studies of small neural networks: which configuration is better, by how much, how sure.

    \b
    hpo list                                   what can be studied
    hpo optimize --study cnn --trials 200      search; again, anywhere, to join or to resume
    hpo best --study cnn                       the winner so far
    hpo dashboard                              watch live in optuna-dashboard
    """


def _storage_option(command: Command) -> Command:
    return click.option(
        "--storage",
        metavar="URL",
        envvar="HPO_STORAGE",
        default=DEFAULT_STORAGE,
        show_default=True,
        show_envvar=True,
        help="The database of studies.",
    )(command)


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(command)


@main.command()
@click.option("--study", required=True, metavar="NAME_OR_FILE", help="A study's name (see hpo list), or its TOML file.")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="Bring the study to N finished trials, over all workers and restarts.",
)
@click.option(
    "--workers",
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Worker processes; auto is one for each physical core.",
)
@_storage_option
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:i]", help="Where to train.")
@click.option(
    "--dataset",
    type=click.Choice(["mnist", "digits"]),
    help="Another dataset than the study's; makes it a study of its own, NAME-DATASET.",
)
@click.option("--name", metavar="STUDY", help="The name in the storage; the study file's own unless given.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of datasets.  [default: $HPO_DATA, else the cache folder]",
)
def optimize(
    study: str,
    trials: int | None,
    workers: str,
    storage: str,
    device: str,
    dataset: str | None,
    name: str | None,
    data: Path | None,
) -> None:
    """Create or join a study, and bring it to N trials.

    Run it again to resume, or from another terminal to join: N is the study's total. With one worker a study comes out
    the same every time.
    """
    from rich.console import Console

    from .datasets import data_folder
    from .optimize import begin, check_device, count_workers, make_plan, run_study
    from .results import read_best, read_status
    from .terminal import StudyProgress, best_table

    device = check_device(device)
    processes = count_workers(workers, device)
    plan = make_plan(storage, study, trials=trials, dataset=dataset, name=name)
    folder = data_folder(data)
    opened = begin(storage, plan, folder)
    console = Console(stderr=True, markup=False)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs begin with it ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with StudyProgress(console, plan.target) as progress:
            run_study(opened, plan, workers=processes, device=device, data_folder=folder, show=progress.show)
    except KeyboardInterrupt:
        status = read_status(opened, plan.name)
        again = shlex.join(["hpo", *sys.argv[1:]])
        click.echo(
            f"interrupted; {status.finished} of {plan.target} trials are finished, and this goes on with them: {again}",
            err=True,
        )
        raise
    status = read_status(opened, plan.name)
    if status.complete:
        _print(*best_table(read_best(opened, plan.name), plan.definition.protocol.decision))
    known = storage == os.environ.get("HPO_STORAGE", DEFAULT_STORAGE)
    where = "" if known else f" --storage {shlex.quote(storage)}"
    click.echo(f"\nnext:\n  hpo trials --study {plan.name}{where}\n  hpo dashboard{where}")


@main.command()
@click.option("--study", metavar="NAME", help="Only this one.")
@_storage_option
@_json_option
def status(study: str | None, storage: str, as_json: bool) -> None:
    """How far studies are, and who works on them."""
    from .records import study_names
    from .results import read_status
    from .storage import open_storage
    from .terminal import status_table, workers_table

    opened = open_storage(storage)
    statuses = [read_status(opened, name) for name in ([study] if study else study_names(opened))]
    if as_json:
        found = [asdict(status) for status in statuses]
        _print_json(found[0] if study else found)
        return
    _print(status_table(statuses), *(workers_table(status) for status in statuses if status.workers))


@main.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@_storage_option
@_json_option
def best(study: str, storage: str, as_json: bool) -> None:
    """The winner of a study, with its spread.

    The winner is the trial with the lowest mean error among those measured to the end.
    """
    from .results import read_best, read_definition
    from .storage import open_storage
    from .terminal import best_table

    opened = open_storage(storage)
    winner = read_best(opened, study)
    if as_json:
        _print_json(asdict(winner))
        return
    _print(*best_table(winner, read_definition(opened, study).protocol.decision))


@main.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@_storage_option
@_json_option
def trials(study: str, storage: str, as_json: bool) -> None:
    """All trials of a study."""
    from .results import read_rows
    from .storage import open_storage
    from .terminal import trials_table

    rows = read_rows(open_storage(storage), study)
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    _print(trials_table(rows))


@main.command("list")
@_json_option
def list_(as_json: bool) -> None:
    """The studies and architectures known here."""
    from . import catalog
    from .terminal import names_table

    found = {
        "studies": [
            {"name": name, "file": str(file), "title": _title(file)} for name, file in catalog.studies().items()
        ],
        "architectures": [
            {"name": a.name, "file": str(a.file), "title": a.summary} for a in catalog.architectures().values()
        ],
    }
    if as_json:
        _print_json(found)
        return
    _print(*(names_table(kind, entries) for kind, entries in found.items()))


@main.command()
@click.argument("name")
@_json_option
def show(name: str, as_json: bool) -> None:
    """A study resolved, or an architecture's layers.

    A study is printed with every default filled in, an architecture with shapes and parameters. Both are, where both
    have the name.
    """
    from . import catalog
    from .errors import UnknownName
    from .terminal import layers_table, study_text

    known = {**catalog.studies(), **catalog.architectures()}
    if name not in known and not name.endswith(".toml"):
        raise UnknownName("study or architecture", name, known)
    found: dict[str, Any] = {}
    if name in catalog.studies() or name.endswith(".toml"):
        found["study"] = catalog.load_study(name)[1].model_dump(mode="json")
    if name in catalog.architectures():
        found["architecture"] = _describe_architecture(name)
    if as_json:
        _print_json(found)
        return
    if "study" in found:
        click.echo(study_text(name, found["study"]))
    if "architecture" in found:
        _print(*layers_table(name, found["architecture"]))


@main.command()
@_storage_option
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="The port to listen on, at 127.0.0.1.",
)
def dashboard(storage: str, port: int) -> None:
    """Browse a storage in optuna-dashboard.

    It listens on the loopback address alone: the dashboard has no login yet.
    """
    from .dashboard import serve_dashboard
    from .storage import open_storage

    serve_dashboard(open_storage(storage), port)


def _title(file: Path) -> str:
    from .errors import StudyError
    from .study import read_study

    try:
        return read_study(file).title
    except StudyError as error:  # one broken file of many is no reason to list none
        return f"({error})"


def _describe_architecture(name: str) -> dict[str, Any]:
    from . import catalog
    from .architecture import count_parameters, list_layers

    build, relu = catalog.load_architecture(name), catalog.load_activations()("relu")
    shared, apart = (build(relu, weight_sharing=sharing) for sharing in (True, False))
    return {
        "summary": catalog.architectures()[name].summary,
        "layers": [asdict(layer) for layer in list_layers(shared)],
        "parameters": {"weight_sharing": count_parameters(shared), "no_weight_sharing": count_parameters(apart)},
    }


def _print(*parts: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for i, part in enumerate(parts):
        if i:
            console.print()
        console.print(part)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
