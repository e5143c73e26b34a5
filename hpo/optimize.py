"""Brings a study to its trials: creates or joins it, and looks after its workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import joblib
from optuna.storages import RDBStorage

from . import catalog
from . import storage as stored
from .datasets import DATASETS, prepare
from .errors import RequestError, StudyError, UnknownName
from .provenance import versions
from .results import Status, read_definition, read_status
from .study import StudyDefinition
from .worker import Assignment, Crew

REFRESH_SECONDS = 0.5


def find_definition(
    storage: RDBStorage, study: str, name: str | None, dataset: str | None
) -> tuple[str, StudyDefinition]:
    """Returns the name and definition of the study that was asked for.

    It comes from its file; where there is none by that name, from the study in the storage, so that joining needs no
    file.

    Raises:
        RequestError: where there is no such study, its file breaks a rule, or it differs from the study that is being
            joined.
    """
    try:
        found, definition = catalog.load_study(study, dataset=dataset)
    except UnknownName:
        if dataset is not None or study not in stored.study_names(storage):
            raise
        return study, read_definition(storage, study)
    found = name or found
    if found in stored.study_names(storage):
        check_same(storage, found, definition)
    return found, definition


def check_same(storage: RDBStorage, name: str, definition: StudyDefinition) -> None:
    """Makes sure that a study in the storage has this definition.

    Raises:
        StudyError: that says what differs, and how to start a new study.
    """
    differences = definition.differences(read_definition(storage, name))
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise StudyError(
            f"study {name!r} in {stored.show_url(storage.url)} was created with another definition: "
            f"{differences[0]}{more}; --name NEW starts a new study"
        )


def prepare_study(
    storage: RDBStorage, name: str, definition: StudyDefinition, trials: int | None, data_folder: Path
) -> int:
    """Creates or joins a study and returns its target, the number of finished trials to bring it to.

    Args:
        trials: the number asked for; None asks for the list's length, or for what was asked of the study before.

    Raises:
        RequestError: where no number can be found, or the dataset is not what the study was created on.
    """
    known = stored.study_attributes(storage, name) if name in stored.study_names(storage) else {}
    asked_before = int(known.get("target", 0))
    if definition.trial:
        if trials not in (None, len(definition.trial)):
            raise RequestError(
                f"study {name!r} lists {len(definition.trial)} trials, so --trials cannot be {trials}; leave it out"
            )
        trials = len(definition.trial)
    target = trials or asked_before
    if not target:
        raise RequestError(f"study {name!r} searches a space, so it needs a number of trials, as in --trials 200")
    dataset = definition.protocol.dataset
    checksum = DATASETS[dataset].sha256
    if known.get("dataset_sha256", checksum) != checksum:
        raise RequestError(
            f"study {name!r} was created on another release of dataset {dataset!r}; --name NEW starts a new study"
        )
    prepare(dataset, data_folder)
    stored.create_study(
        storage,
        name,
        {
            "definition": definition.model_dump(mode="json"),
            "definition_sha256": definition.sha256,
            "dataset_sha256": checksum,
            "versions": versions(),
        },
    )
    stored.set_study_attribute(
        storage, name, "definition", definition.model_dump(mode="json")
    )  # its title or labels may be new
    stored.set_study_attribute(storage, name, "target", max(target, asked_before))
    return target


def run_study(
    storage: RDBStorage,
    name: str,
    *,
    target: int,
    workers: int,
    device: str,
    data_folder: Path,
    show: Callable[[Status], None],
    make_objective: str = Assignment.make_objective,
) -> None:
    """Works on a study, with so many worker processes, until it has `target` finished trials; `show` is given its
    status.

    Raises:
        HpoError: where the work failed, or a worker found that it cannot be done.
    """
    status = read_status(storage, name)
    show(status)
    if status.finished >= target:
        return
    assignment = Assignment(
        url=storage.url,
        study=name,
        target=target,
        run_began_at=status.finished + status.failed + status.running,
        device=device,
        data_folder=data_folder,
        make_objective=make_objective,
    )
    with Crew(assignment, workers=min(workers, target - status.finished)) as crew:
        while crew.is_working():
            crew.wait(REFRESH_SECONDS)
            show(read_status(storage, name))


def count_workers(workers: str, device: str) -> int:
    """Returns the number of worker processes that `--workers` stands for: with `auto` one for each physical core, or
    one on a GPU.

    Raises:
        RequestError: where it is neither a positive number nor `auto`.
    """
    if workers == "auto":
        return 1 if device.startswith("cuda") else int(joblib.cpu_count(only_physical_cores=True))
    if not workers.isascii() or not workers.isdigit() or int(workers) < 1:
        raise RequestError(f"--workers must be a number from 1 or 'auto', but is {workers!r}")
    return int(workers)


def check_device(device: str) -> str:
    """Returns the device as it was given.

    Raises:
        RequestError: where it is none of auto, cpu, cuda and cuda:0, cuda:1 …
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise RequestError(f"--device must be auto, cpu, cuda or cuda:0, cuda:1 …, but is {device!r}")
    return device
