"""The commands that work: hpo optimize, hpo confirm, hpo drift, hpo worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import limits
from .cli_options import (
    TRIAL,
    data_option,
    dataset_option,
    device_option,
    json_option,
    print_json,
    print_parts,
    same_storage,
    storage_option,
    this_command,
    workers_option,
)
from .signals import stop_on_signals


@click.command()
@click.option("--study", required=True, metavar="NAME_OR_FILE", help="A study's name (see hpo list), or its TOML file.")
@click.option(
    "--trials",
    type=click.IntRange(1, limits.TRIALS),
    metavar="N",
    help="Bring the study to N finished trials, over all workers and restarts.",
)
@click.option(
    "--lower-target", "lower", is_flag=True, help="Let N count for hpo worker too, though more were asked for earlier."
)
@workers_option
@storage_option
@device_option
@dataset_option
@click.option("--name", metavar="STUDY", help="The name in the storage; the study file's own unless given.")
@data_option
def optimize(
    study: str,
    trials: int | None,
    lower: bool,
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
    from .datasets import data_folder
    from .findings import all_measured, best_table
    from .optimize import assign_devices, begin, make_plan
    from .results import read_best, read_status

    if lower and trials is None:
        raise click.UsageError("--lower-target needs the new number, as in --trials 20")
    devices = assign_devices(workers, device)
    plan = make_plan(storage, study, trials=trials, lower=lower, dataset=dataset, name=name)
    for note in plan.notes:
        click.echo(note, err=True)
    folder = data_folder(data)
    opened = begin(storage, plan, folder)
    _run(opened, plan, devices, folder)
    status = read_status(opened, plan.name)
    where = same_storage()
    if status.complete:
        whole = plan.most is not None and status.finished >= plan.most
        said = [all_measured(plan.definition.configurations or 0)] if whole else []
        print_parts(*best_table(read_best(opened, plan.name), plan.definition.protocol.decision), *said)
        next_ones = [f"confirm --study {plan.name}"] if plan.definition.space else []
        next_ones += [f"trials --study {plan.name}", "dashboard"]
        click.echo("\n".join(["\nnext:", *(f"  hpo {command}{where}" for command in next_ones)]))


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option(
    "--top", default=3, show_default=True, type=click.IntRange(1, limits.TOP), metavar="K", help="So many of its best."
)
@click.option(
    "--rounds",
    default=30,
    show_default=True,
    type=click.IntRange(5, limits.ROUNDS),
    metavar="N",
    help="Fresh rounds of each.",
)
@workers_option
@storage_option
@device_option
@data_option
@json_option
def confirm(
    study: str, top: int, rounds: int, workers: str, storage: str, device: str, data: Path | None, as_json: bool
) -> None:
    """Measure a study's best again, on fresh rounds.

    The best of many measurements is flattered by having been chosen; rounds that the study never used say by how much.
    Stopped, it goes on where it was, as long as the study's best are the same; when all is measured, it only reads.
    """
    from .confirmation import CONFIRMS, define_confirmation, read_confirmation
    from .datasets import data_folder
    from .errors import WorkError
    from .findings import confirmation_json, confirmation_view
    from .optimize import Plan, assign_devices, begin
    from .records import set_study_attribute
    from .storage import open_storage

    devices = assign_devices(workers, device)
    name, definition, confirms = define_confirmation(open_storage(storage), study, top=top, rounds=rounds)
    plan, folder = Plan(name, definition, len(definition.trial)), data_folder(data)
    opened = begin(storage, plan, folder)
    set_study_attribute(opened, name, CONFIRMS, confirms)
    _run(opened, plan, devices, folder)
    found = read_confirmation(opened, name)
    if found is None:
        raise WorkError(f"study {name!r} is not finished")
    if as_json:
        print_json(confirmation_json(found))
    else:
        print_parts(*confirmation_view(found))


@click.command("drift")
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option("--trial", type=TRIAL, metavar="N", help="Another trial than the study's best.")
@click.option("--only-show", is_flag=True, help="Measure nothing; show what has been measured.")
@storage_option
@device_option
@data_option
@json_option
def drift_(
    study: str, trial: int | None, only_show: bool, storage: str, device: str, data: Path | None, as_json: bool
) -> None:
    """Measure a trial again on this machine, and compare.

    Run it on a machine of each kind that works on the study: the rounds are the trial's own, so what differs is what
    processors, GPUs and versions make of the same sums.
    """
    import platform

    from .datasets import data_folder
    from .drift import REPEATS, define_repetition, read_drift
    from .findings import drift_json, drift_view
    from .optimize import Plan, assign_devices, begin
    from .records import set_study_attribute
    from .results import read_trial
    from .storage import open_storage

    opened = open_storage(storage)
    found = read_trial(opened, study, trial)
    if not only_show:
        devices, folder = assign_devices("1", device), data_folder(data)
        name, definition, repeats = define_repetition(opened, study, found, host=platform.node(), device=devices[0])
        opened = begin(storage, Plan(name, definition, 0), folder)  # of no target, so that no other worker takes it
        set_study_attribute(opened, name, REPEATS, repeats)
        more = "" if trial is not None else f" --trial {found.number}"
        _run(opened, Plan(name, definition, 1), devices, folder, more)
        set_study_attribute(opened, name, "target", 1)
    drift = read_drift(opened, study, found.number)
    if as_json:
        print_json(drift_json(drift))
    else:
        print_parts(*drift_view(drift))
        again = f"hpo drift --study {study} --trial {found.number}{same_storage()}"
        click.echo(f"\non a machine of another kind:\n  {again}")


def _run(opened: Any, plan: Any, devices: list[str], data_folder: Path, more: str = "") -> None:
    """Brings a study to its trials, showing how far it is.

    Args:
        more: what this command needs besides, to go on after an interruption.
    """
    from rich.console import Console

    from .optimize import run_study
    from .terminal import StudyProgress

    stop_on_signals()
    progress = StudyProgress(Console(stderr=True, markup=False), plan.target)
    try:
        with progress:
            run_study(opened, plan, devices=devices, data_folder=data_folder, show=progress.show)
    except KeyboardInterrupt:  # the database may be away, so nothing is asked of it
        click.echo(
            f"interrupted; {progress.finished} of {plan.target} trials are finished, and this goes on with them: "
            + this_command()
            + more,
            err=True,
        )
        raise


@click.command()
@storage_option
@click.option("--study", "studies", metavar="NAME", multiple=True, help="Only this study; can be given several times.")
@workers_option
@device_option
@click.option("--exit-when-done", is_flag=True, help="End when every study has its trials; else wait for more.")
@data_option
def worker(
    storage: str, studies: tuple[str, ...], workers: str, device: str, exit_when_done: bool, data: Path | None
) -> None:
    """Serve every unfinished study in a storage, and wait for more.

    Start it on as many machines as there are. A study enters the storage with `hpo optimize`, which says how many
    trials it shall have.
    """
    from rich.console import Console

    from .datasets import data_folder
    from .optimize import assign_devices, serve
    from .storage import open_storage
    from .terminal import Watch
    from .views import statuses_view

    devices = assign_devices(workers, device)
    if studies:
        open_storage(storage)  # or a mistyped name would leave an empty database
    opened = open_storage(storage, create=True)
    stop_on_signals()
    try:
        with Watch(Console(stderr=True, markup=False)) as watch:
            serve(
                opened,
                studies or None,
                devices=devices,
                data_folder=data_folder(data),
                exit_when_done=exit_when_done,
                show=lambda statuses: watch.show(statuses_view(statuses)),
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted; this goes on: {this_command()}", err=True)
        raise
