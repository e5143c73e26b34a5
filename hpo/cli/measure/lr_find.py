"""`hpo lr-find`: a learning-rate range test."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hpo import limits
from hpo.cli.arguments import Folder, Number, WholeNumber
from hpo.cli.options import (
    ROUNDS,
    Given,
    device_option,
    json_option,
    print_json,
    print_parts,
    sources_options,
    storage_option,
    stored_name,
    study_option,
    written_by_request,
)
from hpo.cli.run import begin_work
from hpo.study.training import Optimizer
from hpo.text.capture import stdout_to_stderr
from hpo.text.names import safe_file_name
from hpo.text.output import say

if TYPE_CHECKING:
    from hpo.study.definition import StudyDefinition
    from hpo.study.loading import LoadedTask
    from hpo.study.references import Sources
    from hpo.study.task import Params
    from hpo.training.lr_curve import LRCurve

RATE = Number(limits.SMALLEST, limits.LARGEST)
STEPS = WholeNumber(2, limits.STEPS)
NARROWEST = 1.1  # from the lowest rate to the highest
BY_ITSELF = {"title": "range test", "task": {"name": "digit_pairs", "dataset": "mnist"}}  # without --study


@click.command("lr-find")
@click.option(
    "--optimizer", "optimizers", type=click.Choice(get_args(Optimizer)), multiple=True,
    help="Which optimizer to test. Can be repeated.  [default: sgd]",
)  # fmt: skip
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True,
    help="What to test, as in --set space.architecture=fnn; else the task's example, or the first values of the "
    "study's space. Can be repeated.",
)  # fmt: skip
@study_option("Take its task, training and protocol, and save the figure into it.", needed=False)
@click.option(
    "--dataset", metavar="NAME", help="What to train on: mnist or digits.  [default: the study's, else mnist]"
)
@click.option("--low", default=1e-4, show_default=True, type=RATE, metavar="RATE", help="The lowest rate.")
@click.option("--high", default=1.0, show_default=True, type=RATE, metavar="RATE", help="The highest rate.")
@click.option(
    "--steps", default=100, show_default=True, type=STEPS, metavar="N",
    help="How many rates, one batch at each.",
)  # fmt: skip
@click.option("--rounds", type=ROUNDS, metavar="N", help="How many networks.  [default: the study's, else 10]")
@click.option(
    "-o", "folder", type=Folder(), metavar="DIR",
    help="Write HTML, JSON and, where there is a Chromium, PNG here.",
)  # fmt: skip
@storage_option
@device_option
@sources_options
@json_option
def lr_find(
    optimizers: tuple[str, ...],
    settings: tuple[str, ...],
    study: str | None,
    dataset: str | None,
    low: float,
    high: float,
    steps: int,
    rounds: int | None,
    folder: Path | None,
    storage: str,
    device: str,
    given: Given,
    as_json: bool,
) -> None:
    """Find a learning rate by a range test.

    It raises the rate batch by batch, and watches the loss. The optimum is report A's: the mean, over the rounds, of
    the rate at which a round's loss is lowest.
    """
    from hpo.cli.measure.lr_curve import curve_view
    from hpo.report.figures import range_test_figure
    from hpo.text.short_names import short_name
    from hpo.workers.checking import open_stored

    begin_work()
    _check_rates(low, high)
    opened, table, unsaved, first = _find_study(study, storage)
    changed = _change(table, rounds, dataset, study)
    unsaved = unsaved or changed
    if folder:
        _check_writable(folder)
    sources = _find_sources(study or "", given, is_stored=opened is not None)
    if opened is not None:
        stdout_to_stderr()(open_stored)(opened, stored_name(study or ""), sources)
    tests = [_define(table, first, settings, optimizer, sources) for optimizer in optimizers or ("sgd",)]
    found: list[dict[str, Any]] = []
    for definition, loaded in tests:
        curve, described = _run_range_test(definition, loaded, (low, high, steps), device)
        found, name = [*found, described], short_name(described["params"])
        if not as_json:
            print_parts(*curve_view(name, curve, described["dataset"]))
        figure = range_test_figure(f"Range test: {name} ({described['dataset']})", curve)
        key = f"range_test_{safe_file_name(name.replace('+', '-').replace(' ', '-'))}"
        if folder:
            _write(figure, described, folder / key)
        if study:
            _save(figure, key, opened, stored_name(study), unsaved)
    if as_json:
        print_json(found[0] if len(found) == 1 else found)


def _save(figure: Any, key: str, opened: Any, study: str, unsaved: str) -> None:
    """Saves a figure into a study, or says why it cannot be."""
    if unsaved:
        say(f"not saved: {unsaved}", err=True)
        return
    from hpo.dashboard.server import save_figure

    save_figure(opened, study, key, figure)
    say(f"saved into study {study!r}, where hpo dashboard shows it", err=True)


def _change(table: dict[str, Any], rounds: int | None, dataset: str | None, study: str | None) -> str:
    """Changes a study's table as was asked for; returns why its figure cannot be saved then, if so."""
    changed = ""
    for where, key, value in (("protocol", "rounds", rounds), ("task", "dataset", dataset)):
        before = table.setdefault(where, {}).get(key)
        if value not in (None, before):
            changed = changed or f"study {stored_name(study or '')!r} has {key} = {before}"
            table[where][key] = value
    return changed


def _check_rates(low: float, high: float) -> None:
    from hpo.errors import RequestError

    if not high >= NARROWEST * low:  # nor where one is no number
        raise RequestError(f"--high must be at least {NARROWEST:g} times --low, but they are {high:g} and {low:g}")


def _check_writable(folder: Path) -> None:
    from hpo.text.files import check_writable

    with written_by_request():
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "range_test.json")


@stdout_to_stderr()  # what a network's code prints is no JSON
def _define(
    table: dict[str, Any], first: Params, settings: Sequence[str], optimizer: str, sources: Sources
) -> tuple[StudyDefinition, LoadedTask]:
    """Returns the study of one configuration that is tested, and its task: the task's example, but for what is set.

    Args:
        first: the first configuration of a study's space, for a task without an example.

    Raises:
        RequestError: where a setting is none, or the task does not take it.
    """
    from hpo.errors import RequestError, suggestion
    from hpo.study.definition import define_study
    from hpo.study.loading import load_task
    from hpo.study.resolving import resolve_by
    from hpo.study.space import LEARNING_RATE, RANGE_TEST, meets
    from hpo.study.training import MAY_BE_TRAINED_BY, NOT_OF_RANGE_TESTS

    chosen = dict(map(_parse, settings))
    given = define_study({**table, "trial": [{"label": "range test", "params": {}}]}, name="lr-find")
    loaded = load_task(given, study="lr-find", sources=sources)
    if not loaded.trains:
        raise RequestError(f"task {given.task.name!r} trains no networks, so it has no learning rate")
    takers = {name: taker for name, (taker, _) in loaded.keywords().items()}
    known = {*takers, *MAY_BE_TRAINED_BY}
    unused = {*NOT_OF_RANGE_TESTS, *(name for name, taker in takers.items() if taker == "vary")}
    for key in chosen:
        if key in ("optimizer", LEARNING_RATE):
            raise RequestError(f"--set space.{key} is not for a range test; --optimizer names the optimizer")
        if key not in known:
            raise RequestError(f"--set space.{key}: no parameter has this name; {suggestion(key, known)}")
        if key in unused:
            raise RequestError(f"--set space.{key} has no effect in a range test")
    usual = {name: value for name, value in (loaded.example or first).items() if name in known - unused}
    params = {**usual, **chosen, "optimizer": optimizer, LEARNING_RATE: RANGE_TEST}
    for name in usual.keys() - chosen.keys():  # what this optimizer, or what is chosen, does not have
        if not all(meets(wanted, params.get(key, "")) for key, wanted in loaded.conditions.get(name, {}).items()):
            del params[name]
    tested = {**table, "trial": [{"label": "range test", "params": params}]}
    definition = resolve_by(loaded, define_study(tested, name="lr-find"), study="lr-find")
    loaded.prepare(sources.data)
    return definition, loaded


@stdout_to_stderr()
def _run_range_test(
    definition: StudyDefinition, loaded: LoadedTask, rates: tuple[float, float, int], device: str
) -> tuple[LRCurve, dict[str, Any]]:
    """Returns the curve of what is tested, and what is said of it in JSON."""
    from rich.progress import Progress

    from hpo.cli.console import Console
    from hpo.errors import WorkError
    from hpo.study.code import explained
    from hpo.study.loading import open_task
    from hpo.study.space import LEARNING_RATE
    from hpo.text.formatting import count
    from hpo.text.short_names import short_name
    from hpo.training.lr_curve import describe_curve, spaced_rates
    from hpo.workers.devices import find_devices

    params = {name: value for name, value in definition.trial[0].params.items() if name != LEARNING_RATE}
    low, high, steps = rates
    task: Any = open_task(definition, loaded, find_devices(device)[0])
    say(f"{short_name(params)}: {count(definition.protocol.rounds, 'round')}, {steps} rates to {high:g}", err=True)
    console = Console(stderr=True)
    shows = Progress(console=console, transient=True, disable=not console.is_terminal)
    with shows as progress, explained(f"with {short_name(params)}", definition.references):
        curve = task.range_test(params, definition.rounds, spaced_rates(low, high, steps), progress.track)
    if math.isnan(curve.mean):
        raise WorkError(f"every round diverged at its first rates, from {low:g}; try a lower --low")
    described = describe_curve(curve, str(params["optimizer"]))
    return curve, {**described, "params": params, "dataset": loaded.dataset}


def _find_study(study: str | None, storage: str) -> tuple[Any, dict[str, Any], str, Params]:
    """Returns the storage, where it has the study, the tables to go by, why nothing can be saved, if so, and the first
    configuration of its space.
    """
    from hpo.errors import NoStorage
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import study_names
    from hpo.storage.studies import read_definition
    from hpo.study import catalog
    from hpo.study.definition import derived_table
    from hpo.text.secrets import show_url
    from hpo.workers.building import chosen_params

    if study is None:
        return None, {key: dict(part) if isinstance(part, dict) else part for key, part in BY_ITSELF.items()}, "", {}
    name = stored_name(study)
    try:
        opened = open_storage(storage)
        known = name in study_names(opened)
    except NoStorage:
        known = False
    if known:
        opened = open_storage(storage, write=True)  # to write the figure
        definition = read_definition(opened, name)
        return opened, derived_table(definition, "range test"), "", chosen_params(definition)
    definition = catalog.load_study(study)[1]
    unsaved = f"storage {show_url(storage)} has no study {name!r}"
    return None, derived_table(definition, "range test"), unsaved, chosen_params(definition)


def _find_sources(study: str, given: Given, *, is_stored: bool) -> Sources:
    """Returns where data and code are; whoever names a study that is not stored allows what its file names."""
    from hpo.study import catalog

    file = None if is_stored else catalog.studies().get(study)
    return given.sources(str(file) if file else study)


def _parse(setting: str) -> tuple[str, Any]:
    """Returns the parameter that a setting is of, and its value."""
    from hpo.errors import RequestError
    from hpo.study.overrides import parse_override

    key, value = parse_override(setting)
    table, _, name = key.partition(".")
    if table != "space" or "." in name:
        raise RequestError(f"--set {key} is not for a range test, but for a parameter: --set space.NAME=VALUE")
    return name, value


def _write(figure: Any, described: dict[str, Any], stem: Path) -> None:
    from hpo.report.figures import write_html, write_png
    from hpo.text.files import write_whole

    with written_by_request():
        # Not with_suffix: a name may have a point in it.
        write_whole(Path(f"{stem}.json"), json.dumps(described, indent=1) + "\n")
        write_html(figure, Path(f"{stem}.html"))
        missing = write_png(figure, Path(f"{stem}.png"))
    say(f"wrote {stem}.html, .json" + (f"; {missing}" if missing else " and .png"), err=True)
