"""`hpo export`: a study's best trained again, and saved as a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.arguments import File
from hpo.cli.columns import FittedTable
from hpo.cli.options import (
    ROUNDS,
    TRIAL,
    Given,
    device_option,
    json_option,
    print_json,
    print_parts,
    share_option,
    sources_options,
    storage_option,
    stored_name,
    study_option,
    written_by_request,
)
from hpo.cli.run import begin_work
from hpo.signals import checked
from hpo.study.card import MetricCard
from hpo.text.capture import stdout_to_stderr
from hpo.text.formatting import count, figure, join_words, spread, with_unit
from hpo.text.short_names import short_name

if TYPE_CHECKING:
    from hpo.storage.queries import StoredTrial
    from hpo.study.definition import StudyDefinition
    from hpo.study.references import Sources

ENDINGS = (".safetensors", ".json", ".html")  # of the files that hpo export writes, the last by --page


@click.command()
@study_option()
@click.option(
    "-o", "file", required=True, type=File(), metavar="FILE",
    help="Write FILE.safetensors, and FILE.json beside it.",
)  # fmt: skip
@click.option(
    "--rounds", default=1, show_default=True, type=ROUNDS, metavar="N",
    help="How many rounds to train; each makes one network.",
)  # fmt: skip
@click.option("--trial", type=TRIAL, metavar="N", help="Train this trial instead of the best.")
@click.option("--page", is_flag=True, help="Also write FILE.html, to try the first round's network in a browser.")
@storage_option
@device_option
@sources_options
@share_option
@json_option
def export(
    study: str,
    file: Path,
    rounds: int,
    trial: int | None,
    page: bool,
    storage: str,
    device: str,
    given: Given,
    share: bool,
    as_json: bool,
) -> None:
    """Train a study's best again, and save it as a file.

    It is saved with its configuration and its error. The files are also added to the study, where hpo dashboard shows
    them. hpo.load_network(FILE) loads a network again.
    """
    from hpo.storage.artifacts import attach
    from hpo.storage.backends import open_storage
    from hpo.storage.studies import read_card
    from hpo.workers.devices import find_devices

    begin_work()
    from hpo.training.export import train_again, write  # torch needs a working folder that is there
    from hpo.training.pages import check_page, make_page

    files = _files(file, page)
    place, sources, study = find_devices(device)[0], given.sources(study), stored_name(study)
    definition, chosen = _find_trial(storage, study, trial, sources)
    opened = open_storage(storage, write=True)  # what cannot be written shall fail before the training
    if page:
        check_page(definition, chosen.params, sources)
    _check_writable(files)
    train = stdout_to_stderr()(train_again)  # what a network's code prints is no JSON
    how: dict[str, Any] = {"rounds": rounds, "device": place, "sources": sources, "watch": _show_epochs}
    trained, weights = train(definition, chosen.params, **how)
    metric = read_card(opened, study).metric
    described = {
        **_describe(opened, study, chosen, trained, share=share),
        **{"unit": metric.unit, "page": files[2].name if page else None},
    }
    shows = make_page(definition, described, weights, sources) if page else None
    with written_by_request():
        write(files[0], described, weights, shows)
    for written in files:
        attach(opened, study, written)
    if as_json:
        print_json(described)
    else:
        print_parts(*export_view(described, files, metric))


def _find_trial(storage: str, study: str, number: int | None, sources: Sources) -> tuple[StudyDefinition, StoredTrial]:
    """Returns a study, held against this machine's code and data, and the trial that is to be trained again."""
    from hpo.analysis.results import read_trial
    from hpo.storage.backends import open_storage
    from hpo.workers.checking import check_params, open_stored

    read = open_storage(storage)
    definition, chosen = open_stored(read, study, sources), read_trial(read, study, number)
    check_params(definition, chosen.params, trial=f"study {study!r}, trial {chosen.number}")
    return definition, chosen


def _describe(
    storage: Any, study: str, trial: StoredTrial, trained: Mapping[str, Any], *, share: bool
) -> dict[str, Any]:
    """Returns what is known of a trial that was trained again, without hosts where it is to be shared."""
    from hpo.analysis.confirmation import read_confirmed
    from hpo.report.sharing import cleaner, known_hosts

    return {
        "study": cleaner(known_hosts(storage, study))(study) if share else study,  # nothing else in it names a machine
        "trial": trial.number,
        **trained,
        "search": {"mean": trial.value, "std": trial.attributes.get("std"), "errors": trial.attributes["errors"]},
        "confirmed": read_confirmed(storage, study, trial.number),
    }


def _files(given: Path, page: bool) -> list[Path]:
    """Returns the files that are to be written: of weights, of their description, and of a page if asked for."""
    from hpo.errors import RequestError

    endings = ENDINGS if page else ENDINGS[:2]
    if given.name in ("", *endings) or (given.exists() and not given.is_file()):
        raise RequestError(f"-o must name a file, but is {str(given)!r}")
    stem = given.with_suffix("") if given.suffix in endings else given
    return [stem.with_name(f"{stem.name}{ending}") for ending in endings]


def _check_writable(files: Sequence[Path]) -> None:
    from hpo.text.files import check_writable

    with written_by_request():
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            check_writable(file)


def _show_epochs(epochs: Iterable[Any], total: int) -> Iterable[Any]:
    """Goes through epochs, of so many in all, and shows on a terminal how far that is."""
    from rich.progress import track

    from hpo.cli.console import Console

    console = Console(stderr=True)
    return track(
        checked(epochs), "training", total=total, console=console, transient=True, disable=not console.is_terminal
    )


def export_view(described: Mapping[str, Any], files: Sequence[Path], metric: MetricCard) -> list[Any]:
    """Returns what was exported: the configuration, and each network's error beside the study's."""
    searched, rounds = described["search"], len(described["rounds"])
    table = FittedTable()
    unit, std = metric.unit, described["error"]["std"]
    on = ", on validation examples" if described["protocol"]["select_on"] == "validation" else ""
    search = with_unit(f"in the study{on}", unit)
    for rank, heading in ((0, "round"), (0, with_unit(metric.noun, unit)), (1, search)):
        table.add_column(heading, justify="right", rank=rank)
    first = described["protocol"]["first_round"]
    for one in described["rounds"]:
        place = one["round"] - first
        before = figure(searched["errors"][place], unit, std) if place < len(searched["errors"]) else "fresh"
        table.add_row(str(one["round"]), figure(one["error"], unit, std), before)
    headline = (
        f"study {described['study']}, trial {described['trial']} ({short_name(described['params'])}): "
        f"{spread(described['error']['mean'], described['error']['std'], unit)} over {count(rounds, 'round')}; "
        f"{spread(searched['mean'], searched['std'], unit)} in the study{on}"
    )
    written = join_words([str(files[0]), *(file.name for file in files[1:])])
    return [headline, table, f"written: {written}; {'both' if len(files) == 2 else 'all'} are in the study too"]
