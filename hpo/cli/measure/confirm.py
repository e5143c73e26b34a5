"""`hpo confirm`: a study's best again, on fresh rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpo import limits
from hpo.analysis.caveats import NEW_SELECTION, SEED_UNUSED, of_intervals, too_few_to_tell
from hpo.cli.arguments import Number, WholeNumber
from hpo.cli.columns import FittedTable
from hpo.cli.measure.until_sure import series_json, series_view
from hpo.cli.options import (
    Given,
    device_option,
    json_option,
    print_json,
    print_parts,
    sources_options,
    storage_option,
    stored_name,
    study_option,
    workers_option,
)
from hpo.cli.run import begin_work, run_trials
from hpo.text.formatting import (
    change,
    count,
    figure,
    join_words,
    mean_and_deviation,
    p_value,
    points,
    with_unit,
)
from hpo.text.short_names import short_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.analysis.confirmation import Confirmation
    from hpo.analysis.contrasts import Contrast
    from hpo.analysis.fresh_rounds import Batch
    from hpo.analysis.until_sure import Series
    from hpo.study.references import Sources

ROUNDS = 30  # of a confirmation
MOST_ROUNDS = 100  # of a series


@click.command()
@study_option()
@click.option(
    "--top", default=3, show_default=True, type=WholeNumber(1, limits.TOP), metavar="K", help="Measure the best K."
)
@click.option(
    "--rounds",
    default=None,
    type=WholeNumber(limits.FEWEST_FRESH_ROUNDS, limits.ROUNDS),
    metavar="N",
    help=f"Fresh rounds for each; with --until-sure the most.  [default: {ROUNDS}; {MOST_ROUNDS}]",
)
@click.option(
    "--until-sure", is_flag=True, help="Give those that are close more fresh rounds, until one is surely the best."
)
@click.option(
    "--margin",
    default=None,
    type=Number(limits.SMALLEST, limits.LARGEST),
    metavar="X",
    help="With --until-sure: a difference that does not matter; all within it will do.",
)
@click.option("--expected", is_flag=True, help="Measure beside them what hpo best --expected shows.")
@workers_option
@storage_option
@device_option
@sources_options
@json_option
def confirm(
    study: str,
    top: int,
    rounds: int | None,
    until_sure: bool,
    margin: float | None,
    expected: bool,
    workers: str,
    storage: str,
    device: str,
    given: Given,
    as_json: bool,
) -> None:
    """Measure a study's best again, on fresh rounds.

    The best of many noisy results looks better than it is (selection bias); rounds that neither the study nor an
    earlier confirmation has used say by how much. Stopped, it goes on where it was, as long as the study's best are the
    same; when all is measured, it only reads.

    With --until-sure those that cannot be told from the best get ten more rounds, again and again, until one is left,
    or all that are left differ by no more than --margin.
    """
    from hpo.errors import RequestError
    from hpo.storage.backends import open_storage
    from hpo.workers.devices import assign_devices, trials_at_once

    if margin is not None and not until_sure:
        raise RequestError("--margin says when --until-sure may end, so it needs that")
    if until_sure and expected:
        raise RequestError("--until-sure is for trials, so it cannot have --expected beside it")
    begin_work()
    devices = assign_devices(workers, device)
    sources, study = given.sources(study), stored_name(study)
    read = open_storage(storage)

    def measure(batch: Batch) -> None:
        _measure(storage, study, batch, devices, sources, trials_at_once(workers))

    if until_sure:
        series = _until_sure(read, study, measure, top=top, margin=margin, most=rounds or MOST_ROUNDS)
        shown: tuple[Any, list[Any]] = series_json(series), series_view(series)
    else:
        found = _once(read, study, measure, top=top, rounds=rounds or ROUNDS, expected=expected)
        shown = confirmation_json(found), confirmation_view(found)
    if as_json:
        print_json(shown[0])
    else:
        print_parts(*shown[1])


def _measure(storage: str, study: str, batch: Batch, devices: list[str], sources: Sources, at_once: int | None) -> None:
    """Measures a confirmation of a study, and enters it into its ledger."""
    from hpo.analysis.ledger import enter
    from hpo.dashboard.note import note_study
    from hpo.storage.backends import open_storage
    from hpo.storage.studies import derived_card
    from hpo.workers.launch import begin
    from hpo.workers.plan import Plan

    name, definition, confirms = batch
    card = derived_card(open_storage(storage), study, is_test=True)
    plan = Plan(name, definition, len(definition.trial), card=card)
    opened = begin(storage, plan, sources)
    enter(opened, study, name, definition, confirms)
    note_study(opened, study)
    run_trials(opened, plan, devices, sources, at_once=at_once)


def _until_sure(read: Any, study: str, measure: Callable[[Batch], None], **how: Any) -> Series:
    from hpo.analysis.until_sure import next_batch, read_series
    from hpo.errors import WorkError

    while batch := next_batch(read, study, **how):
        measure(batch)
    series = read_series(read, study, **how)
    if series is None:
        raise WorkError(f"study {study!r} has no confirmation that is finished")
    return series


def _once(
    read: Any, study: str, measure: Callable[[Batch], None], *, top: int, rounds: int, expected: bool
) -> Confirmation:
    from hpo.analysis.confirmation import read_confirmation
    from hpo.analysis.expected import as_trial, read_expected
    from hpo.analysis.fresh_rounds import define_confirmation
    from hpo.errors import WorkError

    others = [as_trial(read, read_expected(read, study))] if expected else []
    batch = define_confirmation(read, study, top=top, rounds=rounds, others=others)
    measure(batch)
    found = read_confirmation(read, batch[0])
    if found is None:
        raise WorkError(f"study {batch[0]!r} is not finished")
    return found


def confirmation_view(found: Confirmation) -> list[Any]:
    """Returns what fresh rounds say of a study's best: the headline, all of them, and which differ significantly."""
    metric, is_list = found.metric, found.confirmed[0].is_labelled
    table = FittedTable()
    table.add_column("configuration" if is_list else "trial", justify="left" if is_list else "right", wraps=is_list)
    table.add_column(with_unit("list" if is_list else "search", metric.unit), justify="right", rank=1)
    table.add_column(with_unit("fresh", metric.unit), justify="right")
    has_new = any(one.on_new for one in found.confirmed)
    table.add_column("95 %, these examples" if has_new else "95 %", rank=2)
    if has_new:
        table.add_column("95 %, new ones", rank=3)
    if not is_list:
        table.add_column("configuration", wraps=True)
    for one in found.confirmed:
        fresh = mean_and_deviation(one.mean.estimate, one.std, metric.unit)
        searched = figure(one.searched, metric.unit, one.std)
        row = (
            searched,
            fresh,
            one.mean.text(metric.unit),
            *([one.on_new.text(metric.unit) if one.on_new else ""] if has_new else []),
        )
        name = one.name if is_list else one.name.removeprefix("trial ")
        table.add_row(name, *row, *([] if is_list else [short_name(one.params)]))
    lines = []
    names = {one.trial: one.name if is_list else one.name.removeprefix("trial ") for one in found.confirmed}
    for contrast in found.contrasts:
        lines.append(_said_of(contrast, names[contrast.first], names[contrast.second], found))
    diverged = [f"{names[one.trial]} {one.convergence.text(metric)}" for one in found.confirmed if one.convergence]
    equal = not any(one.std for one in found.confirmed)
    notes = [SEED_UNUSED] if equal else of_intervals(found.rounds, found.confirmed, metric)
    if len(found.confirmed) == 1:
        return [str(found), table, *notes]
    how = (
        "compared round by round; p by flipping the signs of the differences, of all together; intervals are of each "
        f"alone; {NEW_SELECTION}"
    )
    return [str(found), table, *([diverged] if diverged else []), lines, how, *notes]


def _said_of(contrast: Contrast, before: str, after: str, found: Confirmation) -> str:
    """Returns what the rounds say of two neighbours."""
    metric, by, too_few = found.metric, contrast.difference, too_few_to_tell(contrast.rounds)
    often = [
        f"{name} diverged in {number or 'none'} of {count(found.rounds, 'round')}"
        for name, number in zip((before, after), contrast.diverged, strict=True)
    ]
    where = f"{join_words(often)} (p {p_value(contrast.diverged_p_value)}); where both converged, "
    where = where if contrast.diverges else ""
    if contrast.diverges and not contrast.rounds:
        return where.replace("; where both converged, ", ", and never both converged")
    if too_few:
        apart = f"{before} and {after}, of which {too_few}"
    elif contrast.is_significant:
        apart = f"{after} is {'worse' if metric.sign * by.estimate > 0 else 'better'} than {before}"
    elif contrast.diverges:
        apart = f"the difference of {after} from {before}"
    elif by.estimate == 0:
        apart = f"{before} and {after} have the very same mean"
    else:
        apart = f"{before} and {after} do not differ significantly"
    apart = f"{where}{apart}"
    apart_by = points(change(by.estimate, metric.unit, by.standard_error), metric.unit)
    on_new = f" on these examples, {contrast.on_new.text(metric.unit, '+')} on new ones" if contrast.on_new else ""
    return f"{apart}: {apart_by} (95 %: {by.text(metric.unit, '+')}{on_new}; p {p_value(contrast.p_value)})"


def confirmation_json(found: Confirmation) -> dict[str, Any]:
    """Returns a confirmation as `hpo confirm --json` has it."""
    from hpo.analysis.confirmation import describe
    from hpo.analysis.contrasts import estimate_of

    return {
        **{key: getattr(found, key) for key in ("study", "name", "rounds", "dataset")},
        "direction": found.metric.direction,
        **{"metric": found.metric.name, "unit": found.metric.unit},
        "confirmed": [
            {"trial": one.trial, "name": one.name, "searched": one.searched, "errors": one.errors, "params": one.params}
            | describe(one, found.rounds, found.metric)
            for one in found.confirmed
        ],
        "contrasts": [
            {"first": one.first, "second": one.second, "difference": estimate_of(one.difference)}
            | {"low": one.difference.low, "high": one.difference.high, "p_value": one.p_value}
            | {"on_new": one.on_new and {"low": one.on_new.low, "high": one.on_new.high}}
            | {"diverged": list(one.diverged), "diverged_p_value": one.diverged_p_value}
            for one in found.contrasts
        ],
    }
