"""The commands that work: hpo optimize, hpo confirm, hpo drift, hpo worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpo import limits
from hpo.cli.arguments import WholeNumber
from hpo.cli.options import (
    TRIAL,
    begin_work,
    data_option,
    dataset_option,
    device_option,
    json_option,
    print_json,
    print_parts,
    serve_studies,
    storage_option,
    workers_option,
)
from hpo.text.commands import command_here, this_command
from hpo.text.formatting import count
from hpo.text.output import say


@click.command()
@click.option("--study", required=True, metavar="NAME_OR_FILE", help="A study's name (see hpo list), or its TOML file.")
@click.option(
    "--trials",
    type=WholeNumber(1, limits.TRIALS),
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
    from hpo.analysis.confirmation import read_winner
    from hpo.analysis.results import read_rows, read_status
    from hpo.cli.findings import all_measured, best_table, listed_view
    from hpo.cli.views import foreign_notes
    from hpo.tasks.datasets import data_folder
    from hpo.workers.launch import assign_devices, begin, make_plan

    if lower and trials is None:
        raise click.UsageError("--lower-target needs the new number, as in --trials 20")
    begin_work()
    devices = assign_devices(workers, device)
    plan = make_plan(storage, study, trials=trials, lower=lower, dataset=dataset, name=name)
    for note in plan.notes:
        say(note, err=True)
    folder = data_folder(data)
    opened = begin(storage, plan, folder)
    _run(opened, plan, devices, folder)
    status = read_status(opened, plan.name)
    say(*foreign_notes([status]), err=True)
    if not status.complete:
        return
    next_ones = [["report", "--study", plan.name, "-o", "report"], ["trials", "--study", plan.name], ["dashboard"]]
    if plan.definition.space:
        winner = read_winner(opened, plan.name)
        whole = plan.most is not None and status.finished >= plan.most
        said = [all_measured(plan.definition.configurations or 0)] if whole else []
        print_parts(*best_table(winner, plan.definition.protocol.decision), *said)
        if winner.confirmed is None:
            next_ones[0] = ["confirm", "--study", plan.name]
    else:
        print_parts(*listed_view(plan.name, read_rows(opened, plan.name), plan.definition))
    say("", "next:", *(f"  {command_here(*words)}" for words in next_ones))


@click.command()
@click.option("--study", required=True, metavar="NAME", help="The study's name in the storage.")
@click.option(
    "--top", default=3, show_default=True, type=WholeNumber(1, limits.TOP), metavar="K", help="Measure the best K."
)
@click.option(
    "--rounds",
    default=30,
    show_default=True,
    type=WholeNumber(limits.FEWEST_FRESH_ROUNDS, limits.ROUNDS),
    metavar="N",
    help="Fresh rounds for each.",
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

    The best of many noisy results looks better than it is (selection bias); rounds that the study never used say by how
    much. Stopped, it goes on where it was, as long as the study's best are the same; when all is measured, it only
    reads.
    """
    from hpo.analysis.confirmation import CONFIRMS, define_confirmation, read_confirmation
    from hpo.cli.findings import confirmation_json, confirmation_view
    from hpo.errors import WorkError
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import set_study_attribute
    from hpo.tasks.datasets import data_folder
    from hpo.workers.launch import Plan, assign_devices, begin

    begin_work()
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
@click.option("--trial", type=TRIAL, metavar="N", help="Measure this trial instead of the best.")
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

    from hpo.analysis.hardware_drift import REPEATS, define_repetition, read_drift
    from hpo.analysis.results import read_trial
    from hpo.cli.findings import drift_json, drift_view
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import set_study_attribute
    from hpo.tasks.datasets import data_folder
    from hpo.workers.launch import Plan, assign_devices, begin

    begin_work()
    opened = open_storage(storage)
    found = read_trial(opened, study, trial)
    if not only_show:
        devices, folder = assign_devices("1", device), data_folder(data)
        name, definition, repeats = define_repetition(opened, study, found, host=platform.node(), device=devices[0])
        opened = begin(storage, Plan(name, definition, 0), folder)  # of no target, so that no other worker takes it
        set_study_attribute(opened, name, REPEATS, repeats)
        more = () if trial is not None else ("--trial", str(found.number))
        _run(opened, Plan(name, definition, 1), devices, folder, *more)
        set_study_attribute(opened, name, "target", 1)
    drift = read_drift(opened, study, found.number)
    if as_json:
        print_json(drift_json(drift))
    else:
        print_parts(*drift_view(drift))
        again = command_here("drift", "--study", study, "--trial", str(found.number))
        say("", "on a machine of another kind:", f"  {again}")


def _run(opened: Any, plan: Any, devices: list[str], data_folder: Path, *more: str) -> None:
    """Brings a study to its trials, showing how far it is.

    Args:
        more: what this command needs besides, to go on after an interruption.
    """
    from hpo.cli.console import Console
    from hpo.cli.terminal import StudyProgress
    from hpo.workers.launch import run_study

    progress = StudyProgress(Console(stderr=True), plan.target, plan.definition.protocol.epochs)
    try:
        with progress:
            run_study(opened, plan, devices=devices, data_folder=data_folder, show=progress.show)
    except KeyboardInterrupt:  # the database may be away, so nothing is asked of it
        say(
            f"interrupted; {progress.finished} of {count(plan.target, 'trial')} finished, and this goes on with them:",
            f"  {this_command(*more)}",
            err=True,
        )
        raise


@click.command()
@storage_option
@click.option("--study", "studies", metavar="NAME", multiple=True, help="Serve this study only. Can be repeated.")
@workers_option
@device_option
@click.option(
    "--exit-when-done",
    is_flag=True,
    help="End when every study has its trials, those too that are still to come.",
)
@data_option
def worker(
    storage: str, studies: tuple[str, ...], workers: str, device: str, exit_when_done: bool, data: Path | None
) -> None:
    """Serve every unfinished study in a storage, and wait for more.

    Start it on as many machines as there are. A study enters the storage with `hpo optimize`, which says how many
    trials it shall have; a worker that was started before waits for it.
    """
    from hpo.storage.backends import open_storage
    from hpo.tasks.datasets import data_folder
    from hpo.workers.launch import assign_devices

    begin_work()
    devices = assign_devices(workers, device)
    opened = open_storage(storage, create=True)
    folder = data_folder(data)
    serve_studies(opened, studies or None, devices=devices, data_folder=folder, exit_when_done=exit_when_done)
