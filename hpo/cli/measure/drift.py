"""`hpo drift`: a trial again on this machine, compared with other machines."""

from __future__ import annotations

from statistics import stdev
from typing import TYPE_CHECKING, Any

import click

from hpo.analysis.caveats import too_few_to_tell
from hpo.analysis.statistics import LEVEL, Interval
from hpo.cli.columns import FittedTable
from hpo.cli.options import (
    TRIAL,
    Given,
    device_option,
    json_option,
    print_json,
    print_parts,
    sources_options,
    storage_option,
    stored_name,
    study_option,
)
from hpo.cli.run import begin_work, run_trials
from hpo.text.commands import command_here
from hpo.text.formatting import change, count, figure, with_unit
from hpo.text.output import say
from hpo.text.short_names import short_name

if TYPE_CHECKING:
    from hpo.analysis.hardware_drift import Drift, OnMachine


@click.command("drift")
@study_option()
@click.option("--trial", type=TRIAL, metavar="N", help="Measure this trial instead of the best.")
@click.option("--only-show", is_flag=True, help="Measure nothing; show what has been measured.")
@storage_option
@device_option
@sources_options
@json_option
def drift_(
    study: str,
    trial: int | None,
    only_show: bool,
    storage: str,
    device: str,
    given: Given,
    as_json: bool,
) -> None:
    """Measure a trial again on this machine, and compare.

    Run it on a machine of each kind that works on the study: the rounds are the trial's own, so what differs is what
    processors, GPUs and versions make of the same sums.
    """
    import platform

    from hpo.analysis.hardware_drift import REPEATS, define_repetition, read_drift
    from hpo.analysis.results import read_trial
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import set_study_attribute
    from hpo.storage.studies import derived_card
    from hpo.workers.devices import assign_devices
    from hpo.workers.launch import begin
    from hpo.workers.plan import Plan

    begin_work()
    opened, given_study, study = open_storage(storage), study, stored_name(study)
    found = read_trial(opened, study, trial)
    if not only_show:
        devices, card, sources = assign_devices("1", device), derived_card(opened, study), given.sources(given_study)
        name, definition, repeats = define_repetition(opened, study, found, host=platform.node(), device=devices[0])
        opened = begin(storage, Plan(name, definition, 0, card=card), sources)  # of no target: no other works on it
        set_study_attribute(opened, name, REPEATS, repeats)
        more = () if trial is not None else ("--trial", str(found.number))
        run_trials(opened, Plan(name, definition, 1), devices, sources, *more)
        set_study_attribute(opened, name, "target", 1)
    drift = read_drift(opened, study, found.number)
    if as_json:
        print_json(drift_json(drift))
    else:
        print_parts(*drift_view(drift))
        again = command_here("drift", "--study", given_study, "--trial", str(found.number), *given.words())
        say("", "on a machine of another kind:", f"  {again}")


def drift_view(found: Drift) -> list[Any]:
    """Returns what machines make of one trial: each repetition beside the first, and the study's own."""
    from hpo.analysis.contrasts import estimate_of

    first = found.repetitions[0].measurement if found.repetitions else found.own
    others = len(found.repetitions) - 1
    table = FittedTable()
    beside_the_first = ("less the first", "95 %") if others > 0 else ()
    for heading in (with_unit(found.noun, found.unit), *beside_the_first, "rounds that differ"):
        table.add_column(heading, justify="right", rank={"95 %": 1, "rounds that differ": 2}.get(heading, 0))
    table.add_column("measured on", wraps=True)

    def add(one: OnMachine, by: Interval | None, what: str) -> None:
        differ = sum(error != other for error, other in zip(one.errors, first.errors, strict=True))
        beside = "" if one is first else f"{differ} of {len(one.errors)}"
        unit, scale = found.unit, by.standard_error if by else None
        estimate = estimate_of(by) if by else None
        shown = "" if estimate is None else change(estimate, unit, scale)
        reach = (shown, by.text(unit, "+") if by else "")
        spread = stdev(one.errors) if len(one.errors) > 1 else None
        diverged = f"; diverged in {len(one.diverged)} of {count(len(one.errors), 'round')}" if one.diverged else ""
        where = f"{what}{place(one)}{diverged}"
        table.add_row(figure(one.mean, unit, spread), *(reach if others > 0 else ()), beside, where)

    add(found.own, None, "in the study: ")
    for one in found.repetitions:
        add(one.measurement, one.difference, "")
    apart = sum(one.is_significant for one in found.repetitions)
    if others < 1:
        said = "a repetition on a machine of another kind is to be compared with the first"
    elif too_few := too_few_to_tell(len(first.errors)):
        said = too_few
    elif apart:
        differ = "differs" if apart == 1 else "differ"
        said = f"{apart} of {count(others, 'machine')} {differ} significantly from the first"
    elif any(one.measurement.diverged for one in found.repetitions):
        said = "rounds diverged; neither that nor the errors of the others differ significantly"
    else:
        said = f"no significant difference between {others + 1} repetitions"
    how = (
        "compared with the first over the rounds in which both converged, and in how often they diverge; significant: "
        f"p < {LEVEL:g} by flipping the signs of the differences, of all together"
    )
    headline = f"study {found.study}, trial {found.trial} ({short_name(found.params)}): {said}"
    return [headline, table, how] if others > 0 else [headline, table]


def place(one: OnMachine) -> str:
    """Returns where a trial was measured, and by what."""
    return ", ".join([one.host, one.device, *([f"{one.precision}, torch {one.torch}"] if one.precision else [])])


def drift_json(found: Drift) -> dict[str, Any]:
    """Returns what machines make of one trial as `hpo drift --json` has it."""
    from hpo.analysis.contrasts import estimate_of

    def described(one: OnMachine) -> dict[str, Any]:
        return {key: getattr(one, key) for key in ("host", "device", "precision", "torch", "mean", "errors")}

    return {
        **{key: getattr(found, key) for key in ("study", "trial", "unit", "params")},
        "own": described(found.own),
        "repetitions": [
            {
                **described(one.measurement),
                "difference": one.difference
                and {"estimate": estimate_of(one.difference)}
                | {key: getattr(one.difference, key) for key in ("low", "high", "p_value")},
                "diverged_rounds": list(one.measurement.diverged),
                "diverged_p_value": one.diverged_p_value,
            }
            for one in found.repetitions
        ],
    }
