"""`hpo optimize`: creates or joins a study, and brings it to its trials."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo import limits
from hpo.cli.arguments import WholeNumber
from hpo.cli.columns import FittedTable
from hpo.cli.options import (
    Given,
    device_option,
    is_file,
    means_file_here,
    overrides_option,
    print_parts,
    sources_options,
    storage_option,
    stored_name,
    study_option,
    workers_option,
)
from hpo.cli.run import begin_work, checked_by, run_trials
from hpo.text.commands import command_here
from hpo.text.formatting import count, mean_and_deviation, over_rounds, with_unit
from hpo.text.output import say

if TYPE_CHECKING:
    from hpo.analysis.results import TrialRow
    from hpo.study.card import Card
    from hpo.study.definition import StudyDefinition
    from hpo.study.overrides import Override
    from hpo.workers.plan import Plan


@click.command()
@study_option("Its name (see hpo list), or its TOML file.")
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
@overrides_option
@click.option("--name", metavar="STUDY", help="The name in the storage; the study file's own unless given.")
@sources_options
def optimize(
    study: str,
    trials: int | None,
    lower: bool,
    workers: str,
    storage: str,
    device: str,
    overrides: list[Override],
    name: str | None,
    given: Given,
) -> None:
    """Create or join a study, and bring it to N trials.

    Run it again to resume, or from another terminal to join: N is the study's total. With one worker a study comes out
    the same every time.
    """
    from hpo.cli.read.status import foreign_notes
    from hpo.workers.devices import assign_devices, trials_at_once
    from hpo.workers.launch import begin
    from hpo.workers.plan import find_study, make_plan
    from hpo.workers.status import read_status
    from hpo.workers.supervisor import Supervisor

    if lower and trials is None:
        raise click.UsageError("--lower-target needs the new number, as in --trials 20")
    begin_work()
    devices = assign_devices(workers, device)
    wanted = find_study(storage, study, trials=trials, overrides=overrides, name=name)
    sources = wanted.sources(given.sources(), given.code)
    needs_check = wanted.must_be_checked
    with Supervisor(devices[: wanted.asked], preload=wanted.preload) if needs_check else nullcontext() as supervisor:
        checked = checked_by(supervisor, wanted, devices[0], sources) if supervisor else None
        plan = make_plan(storage, wanted, checked, lower=lower)
        for note in plan.notes:
            say(note, err=True)
        opened = begin(storage, plan, sources)
        run_trials(opened, plan, devices, sources, at_once=trials_at_once(workers), supervisor=supervisor)
    status = read_status(opened, plan.name)
    say(*foreign_notes([status]), *_failures(opened, plan.name), err=True)
    if status.complete:
        _print_outcome(
            opened, plan, _words(study, plan, given), whole=plan.most is not None and status.finished >= plan.most
        )


def _failures(opened: Any, study: str) -> list[str]:
    """Returns a line on trials that failed by errors, with the commonest; none where none did."""
    from hpo.analysis.results import read_errors

    errors = read_errors(opened, study)
    if not errors:
        return []
    ((commonest, times),) = errors.most_common(1)
    which = "by" if len(errors) == 1 else f"{times} of them by"
    return [f"study {study}: {count(errors.total(), 'trial')} failed, {which}: {commonest}"]


def _words(study: str, plan: Plan, given: Given) -> list[str]:
    """Returns the words by which a command that runs a study's code finds the study and may open its code.

    Args:
        study: as it was given.
    """
    from hpo.study.references import study_words

    references = plan.definition.references
    if not references:
        return ["--study", plan.name]
    folder = given.code or (Path(study).parent if is_file(study) else Path())
    if is_file(study) and stored_name(study) == plan.name:
        short = plan.name if means_file_here(study) else study
        return ["--study", short, *(["--code", str(given.code)] if given.code else [])]
    return [*study_words(plan.name, references), *(["--code", str(folder)] if folder != Path() else [])]


def _print_outcome(opened: Any, plan: Plan, words: list[str], *, whole: bool) -> None:
    """Prints what a study has found, and what to do next.

    Args:
        words: name the study, see `_words`.
        whole: whether every configuration of its space is measured.
    """
    from hpo.analysis.comparison import compare
    from hpo.analysis.confirmation import read_winner
    from hpo.analysis.results import read_rows
    from hpo.cli.read.best import best_table
    from hpo.cli.read.compare import comparison_view
    from hpo.storage.studies import read_card

    next_ones = [["report", "--study", plan.name], ["trials", "--study", plan.name], ["dashboard"]]
    if plan.definition.space:
        winner = read_winner(opened, plan.name)
        said = [all_measured(plan.definition.configurations or 0)] if whole else []
        print_parts(*best_table(winner), *said)
        if winner.confirmed is None:
            next_ones[0] = ["confirm", *words]
    elif len(plan.definition.trial) > 1 and not any(entry.published for entry in plan.definition.trial):
        print_parts(*comparison_view(compare(opened, plan.name)))
    else:
        print_parts(
            *listed_view(plan.name, read_rows(opened, plan.name), plan.definition, read_card(opened, plan.name))
        )
    say("", "next:", *(f"  {command_here(*words)}" for words in next_ones))


def listed_view(study: str, rows: Sequence[TrialRow], definition: StudyDefinition, card: Card) -> list[Any]:
    """Returns what a list has measured, in the list's order, by its labels."""
    measured = {row.label: row for row in rows if row.state == "COMPLETE" and row.value is not None}
    metric = card.metric
    published = any(entry.published for entry in definition.trial)
    table = FittedTable()
    table.add_column("configuration", wraps=True)
    for rank, heading in enumerate((metric.noun, *(["published"] if published else []))):
        table.add_column(with_unit(heading, metric.unit), justify="right", rank=rank)
    for entry in definition.trial:
        row = measured.get(entry.label)
        error = "" if row is None or row.value is None else mean_and_deviation(row.value, row.std, metric.unit)
        beside = mean_and_deviation(entry.published.mean, entry.published.std, metric.unit) if entry.published else ""
        table.add_row(entry.label, error, *([beside] if published else []))
    headline = (
        f"study {study}: {len(measured)} of {count(len(definition.trial), 'configuration')} measured, "
        f"{metric.title} ({over_rounds(definition.protocol.rounds, card.dataset)})"
    )
    return [headline, table]


def all_measured(configurations: int) -> str:
    """Returns what to say of a space that has been measured whole."""
    return (
        f"the space has {count(configurations, 'configuration')}; all are measured, and more trials would repeat their "
        "numbers (run.repeat_configurations = true in the study's file allows it)"
    )
