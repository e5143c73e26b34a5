"""`hpo ablate`: what each ingredient of a configuration gives."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from hpo import limits
from hpo.cli.arguments import StudyName, WholeNumber
from hpo.cli.measure.ablation_view import ablation_json, ablation_view
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
from hpo.cli.run import begin_work, checked_by, run_trials
from hpo.text.capture import capture

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from hpo.analysis.ablation import Ablation
    from hpo.analysis.ingredients import Configuration
    from hpo.study.definition import StudyDefinition
    from hpo.study.references import Sources
    from hpo.workers.plan import Plan
    from hpo.workers.supervisor import Supervisor

ROUNDS = 10


@click.command()
@study_option("The study whose best configuration is taken apart, or a file that lists it alone.")
@click.option(
    "--from",
    "base",
    required=True,
    type=StudyName(),
    metavar="STUDY",
    help="The study whose best it is held against, or a file that lists that alone.",
)
@click.option(
    "--together",
    multiple=True,
    metavar="A,B",
    help="Parameters that are one ingredient, as in optimizer,learning_rate. Can be repeated.",
)
@click.option(
    "--rounds",
    default=ROUNDS,
    show_default=True,
    type=WholeNumber(limits.FEWEST_FRESH_ROUNDS, limits.ROUNDS),
    metavar="N",
    help="Fresh rounds for each configuration, the same for all.",
)
@workers_option
@storage_option
@device_option
@sources_options
@json_option
def ablate(
    study: str,
    base: str,
    together: tuple[str, ...],
    rounds: int,
    workers: str,
    storage: str,
    device: str,
    given: Given,
    as_json: bool,
) -> None:
    """Measure what each ingredient of a study's best configuration gives.

    In which parameters it differs from another configuration, its base, is found out. Each is taken out of it alone,
    and put into the base alone; then the way from the base to it is gone, one at a time, the one first that alone gave
    most. All are measured as the study says, which is of the same task. Stopped, it goes on where it was; when all is
    measured, it only reads.
    """
    from hpo.workers.devices import assign_devices, trials_at_once

    begin_work()
    devices, sources = assign_devices(workers, device), given.sources(study)

    def measure(name: str, definition: StudyDefinition, looked_at: Collection[str]) -> None:
        _measure(storage, looked_at, name, definition, devices, sources, trials_at_once(workers))

    both = sources, given.sources(base)
    found = _ablation(storage, study, base, both, measure, together=together, rounds=rounds)
    if as_json:
        print_json(ablation_json(found))
    else:
        print_parts(*ablation_view(found))


def _measure(
    url: str,
    looked_at: Collection[str],
    name: str,
    definition: StudyDefinition,
    devices: list[str],
    sources: Sources,
    at_once: int | None,
) -> None:
    """Measures a part of an ablation, and enters it into the ledgers of studies whose configurations it looks at."""
    from hpo.analysis.ledger import enter_ablation
    from hpo.dashboard.note import note_study
    from hpo.errors import NoStorage
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import study_names
    from hpo.study.card import make_card
    from hpo.study.loading import load_task
    from hpo.workers.launch import begin
    from hpo.workers.plan import Plan
    from hpo.workers.supervisor import Supervisor

    with capture() if definition.references else nullcontext():
        loaded = load_task(definition, study=name, sources=sources)
        loaded.prepare(sources.data)
        card = make_card(definition, loaded, sources)
    # Values come from two studies, so code that a file allows is given those that stand here, and no others.
    ours = replace(sources, files={name: definition} if sources.files else {})
    plan = Plan(name, definition, len(definition.trial), card=card)
    try:
        is_new = name not in study_names(open_storage(url))
    except NoStorage:
        is_new = True
    with Supervisor(devices) if is_new else nullcontext() as supervisor:
        if supervisor:
            _check(supervisor, plan, devices[0], ours)
        opened = begin(url, plan, ours)
        if looked_at:
            enter_ablation(opened, looked_at, name, definition)
        for study in sorted({*looked_at} & {*study_names(opened)}):
            note_study(opened, study)
        run_trials(opened, plan, devices, ours, at_once=at_once, supervisor=supervisor)


def _check(supervisor: Supervisor, plan: Plan, device: str, sources: Sources) -> None:
    """Makes sure that all configurations can be measured, before one is: most of them nobody has tried.

    Raises:
        RequestError: where one cannot.
    """
    from hpo.errors import RequestError

    try:
        checked_by(supervisor, plan, device, sources)
    except RequestError as error:
        raise RequestError(
            f"{error} (--together A,B takes parameters as one that cannot be without each other)"
        ) from error


def _ablation(
    url: str,
    study: str,
    base: str,
    both: tuple[Sources, Sources],
    measure: Callable[[str, StudyDefinition, Collection[str]], None],
    *,
    together: Sequence[str],
    rounds: int,
) -> Ablation:
    """Measures what is not yet measured of an ablation, and returns it.

    Args:
        both: the sources of the study, and of its base.
        measure: measures a study of this name, which is a look at the configurations of some others.
    """
    from hpo.analysis.ablation import by_gain, define_ablation, define_path, read_ablation
    from hpo.analysis.ingredients import find_ingredients, overruled
    from hpo.errors import NoStorage
    from hpo.storage.backends import open_storage
    from hpo.study.loading import load_task

    sources, of_base = both
    try:
        there = open_storage(url)
    except NoStorage:
        there = None  # which the first measurement creates
    whole, start = _configurations(there, study, base, both)
    with capture() if whole.definition.references else nullcontext():
        conditions = load_task(whole.definition, study=whole.study, sources=sources).conditions
    ingredients = find_ingredients(start, whole, conditions, together)
    name, definition = define_ablation(there, start, whole, ingredients, rounds, sources)
    measure(name, definition, {stored_name(study), stored_name(base)})
    read = open_storage(url)
    found = read_ablation(read, name, ingredients, None)
    order = by_gain(found)
    between = define_path(read, start, whole, order, definition.protocol.round_numbers, sources)
    if between:
        measure(*between, ())  # on the same rounds: no look of its own
    found = read_ablation(read, name, ingredients, (between[0] if between else "", order))
    return replace(found, overruled=overruled(start, whole, of_base, sources))


def _configurations(
    there: Any, study: str, base: str, both: tuple[Sources, Sources]
) -> tuple[Configuration, Configuration]:
    """Returns the whole and the base, which are of one task; their code may be given them.

    Args:
        there: the storage; None where there is none yet.
    """
    from hpo.analysis.ingredients import find_configuration, with_defaults
    from hpo.storage.queries import study_names
    from hpo.workers.checking import check_allowed_configuration, open_stored

    sources, of_base = both
    if there is not None and stored_name(study) in study_names(there):
        open_stored(there, stored_name(study), sources)  # its code and data are those by which its best was found
    whole = find_configuration(there, study, sources)
    start = find_configuration(there, base, of_base, like=whole)
    for one, given in ((whole, sources), (start, of_base)):
        if one.definition.references:
            with capture():
                check_allowed_configuration(one.definition, one.params, given, study=one.study)
    return with_defaults(whole, sources), with_defaults(start, of_base)
