"""The commands of the laboratory: hpo lr-find, hpo reproduce."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hpo import limits
from hpo.cli.arguments import Folder, Number, WholeNumber
from hpo.cli.options import (
    ROUNDS,
    data_option,
    device_option,
    json_option,
    print_json,
    print_parts,
    storage_option,
    written_by_request,
)
from hpo.cli.run import begin_work
from hpo.text.names import safe_file_name
from hpo.text.output import say

RATE = Number(limits.SMALLEST, limits.LARGEST)
STEPS = WholeNumber(2, limits.STEPS)
NARROWEST = 1.1  # from the lowest rate to the highest
OPTIMIZERS = ("sgd", "rmsprop", "adam")
FINAL = {  # report A's final network
    "architecture": "cnn_bn",
    "weight_sharing": True,
    "auxiliary_loss": True,
    "activation": "leaky_relu",
}


@click.command("lr-find")
@click.option(
    "--optimizer", "optimizers", type=click.Choice(OPTIMIZERS), multiple=True,
    help="Which optimizer to test. Can be repeated.  [default: sgd]",
)  # fmt: skip
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True,
    help="What to test; report A's final network unless set, as in --set architecture=fnn. Can be repeated.",
)  # fmt: skip
@click.option("--study", metavar="NAME", help="Take this study's protocol, and save the figure into it.")
@click.option(
    "--dataset", type=click.Choice(["mnist", "digits"]), help="What to train on.  [default: the study's, else mnist]"
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
@data_option
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
    data: Path | None,
    as_json: bool,
) -> None:
    """Find a learning rate by a range test.

    It raises the rate batch by batch, and watches the loss. The optimum is report A's: the mean, over the rounds, of
    the rate at which a round's loss is lowest.
    """
    from hpo.cli.measure.lr_curve import curve_view
    from hpo.report.figures import range_test_figure
    from hpo.tasks.datasets import data_folder, prepare
    from hpo.training.lr_curve import describe_curve, spaced_rates
    from hpo.workers.devices import find_devices

    begin_work()
    _check_rates(low, high)
    chosen = _parse(settings)
    opened, protocol, unsaved = _find_protocol(study, storage)
    for key, value in (("rounds", rounds), ("dataset", dataset)):
        if value not in (None, protocol[key]):
            unsaved = unsaved or f"study {study!r} has {key} = {protocol[key]}"
            protocol[key] = value
    protocol["evaluate_at"] = []
    place, where = find_devices(device)[0], data_folder(data)
    if folder is not None:
        _check_writable(folder)
    prepare(protocol["dataset"], where)
    found = []
    for optimizer in optimizers or ("sgd",):
        params = {**FINAL, **chosen, "optimizer": optimizer}
        name, curve = _run_range_test(protocol, params, spaced_rates(low, high, steps), place, where)
        described = {**describe_curve(curve, optimizer), "params": params, "dataset": protocol["dataset"]}
        found.append(described)
        if not as_json:
            print_parts(*curve_view(name, curve, protocol["dataset"]))
        figure = range_test_figure(f"Range test: {name} ({protocol['dataset']})", curve)
        key = f"range_test_{safe_file_name(name.replace('+', '-').replace(' ', '-'))}"
        if folder is not None:
            _write(figure, described, folder / key)
        if study is not None:
            _save(figure, key, opened, study, unsaved)
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


def _check_rates(low: float, high: float) -> None:
    from hpo.errors import RequestError

    if not high >= NARROWEST * low:  # nor where one is no number
        raise RequestError(f"--high must be at least {NARROWEST:g} times --low, but they are {high:g} and {low:g}")


def _check_writable(folder: Path) -> None:
    from hpo.text.files import check_writable

    with written_by_request():
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "range_test.json")


def _run_range_test(
    protocol: dict[str, Any], params: dict[str, Any], rates: Any, device: str, folder: Path
) -> tuple[str, Any]:
    """Returns the short name of what is tested, and its curve."""
    from rich.progress import Progress

    from hpo.cli.console import Console
    from hpo.errors import UnknownName, WorkError
    from hpo.study import catalog
    from hpo.study.definition import define_study
    from hpo.study.space import RANGE_TEST, short_name
    from hpo.text.formatting import count
    from hpo.workers.objective import make_objective

    entry = {"label": "range test", "params": {**params, "learning_rate": RANGE_TEST}}
    definition = define_study({"title": "range test", "protocol": protocol, "trial": [entry]}, name="lr-find")
    setup = definition.trial[0].params
    if setup.architecture not in catalog.architectures():
        raise UnknownName("architecture", setup.architecture, catalog.architectures())
    name = short_name(params)
    say(f"{name}: {count(definition.protocol.rounds, 'round')}, {len(rates)} rates to {rates[-1]:g}", err=True)
    objective = make_objective(definition, device, folder)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        curve = objective.curve(setup, rates, progress.track)
    if math.isnan(curve.mean):
        raise WorkError(f"every round diverged at its first rates, from {rates[0]:g}; try a lower --low")
    return name, curve


def _find_protocol(study: str | None, storage: str) -> tuple[Any, dict[str, Any], str]:
    """Returns the storage, where it has the study, the protocol to go by, and why nothing can be saved, if so."""
    from hpo.errors import NoStorage
    from hpo.storage.backends import open_storage
    from hpo.storage.queries import study_names
    from hpo.storage.studies import read_definition
    from hpo.study import catalog
    from hpo.text.secrets import show_url

    if study is None:
        return None, {"dataset": "mnist", "rounds": 10}, ""
    try:
        opened = open_storage(storage)
        known = study in study_names(opened)
    except NoStorage:
        known = False
    if known:
        opened = open_storage(storage, write=True)  # to write the figure
        return opened, read_definition(opened, study).protocol.model_dump(mode="json"), ""
    protocol = catalog.load_study(study)[1].protocol.model_dump(mode="json")
    return None, protocol, f"storage {show_url(storage)} has no study {study!r}"


def _parse(settings: Sequence[str]) -> dict[str, Any]:
    from hpo.errors import RequestError, suggestion
    from hpo.study.definition import parse
    from hpo.study.space import ListedConfiguration

    parsed = {}
    known = ListedConfiguration.model_fields.keys() - {"learning_rate", "optimizer"}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise RequestError(f"--set must be KEY=VALUE, but is {setting!r}")
        try:
            parsed[key.strip()] = parse(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            parsed[key.strip()] = value.strip()
        if key.strip() in ("optimizer", "learning_rate"):
            raise RequestError(f"--set {key.strip()} is not for a range test; --optimizer names the optimizer")
        if key.strip() not in known:
            raise RequestError(f"--set: no key named {key.strip()!r}; {suggestion(key.strip(), known)}")
    return parsed


def _write(figure: Any, described: dict[str, Any], stem: Path) -> None:
    from hpo.report.figures import write_html, write_png
    from hpo.text.files import write_whole

    with written_by_request():
        # Not with_suffix: a name may have a point in it.
        write_whole(Path(f"{stem}.json"), json.dumps(described, indent=1) + "\n")
        write_html(figure, Path(f"{stem}.html"))
        missing = write_png(figure, Path(f"{stem}.png"))
    say(f"wrote {stem}.html, .json" + (f"; {missing}" if missing else " and .png"), err=True)
