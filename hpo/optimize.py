"""Brings a study to its trials: creates or joins it, and looks after its workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
from optuna.storages import RDBStorage

from . import catalog, limits, records
from . import storage as stored
from .budget import most_trials
from .crew import Crew
from .datasets import DATASETS, prepare
from .errors import NoStorage, RequestError, StudyError, UnknownName, WorkError, suggestion
from .formatting import count
from .names import check_name
from .provenance import versions
from .results import (
    Status,
    own_attributes,
    own_studies,
    read_definition,
    read_status,
    read_statuses,
)
from .study import StudyDefinition
from .worker import Assignment, was_deleted

REFRESH_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """What `hpo optimize` is to do: bring the study `name` to `target` finished trials.

    Attributes:
        most: at how many finished trials every configuration is measured; None where they are countless.
        lower: whether `target` is to be the study's, though more were asked for earlier.
        notes: what to say beforehand.
    """

    name: str
    definition: StudyDefinition
    target: int
    most: int | None = None
    lower: bool = False
    notes: tuple[str, ...] = ()


def make_plan(
    url: str,
    study: str,
    *,
    trials: int | None = None,
    lower: bool = False,
    dataset: str | None = None,
    rounds: int | None = None,
    name: str | None = None,
) -> Plan:
    """Finds out what is asked for; reads the storage, if there is one, and changes nothing.

    A study's definition comes from its file; where there is none by that name, from the study in the storage, so that
    joining needs no file.

    Args:
        study: a name or a file.
        dataset, rounds: others than the file's make it a study of its own.
        trials: the number asked for; None asks for the list's length, or for what was asked of the study before.
        lower: whether that number is to be the study's target, though more were asked for earlier.
        name: the study's name in the storage; None takes the file's.

    Raises:
        RequestError: where there is no such study, its file or a new name breaks a rule or differs from the study that
            is being joined, or no number of trials can be found.
    """
    try:
        storage = stored.open_storage(url)
    except NoStorage:
        storage = None
    known = records.study_names(storage) if storage else []
    if storage and dataset is None and rounds is None and study in known and not catalog.has_study(study):
        found, definition = study, read_definition(storage, study)
    else:
        found, definition = catalog.load_study(study, dataset=dataset, rounds=rounds)
    found = found if name is None else name
    if found not in known:
        check_name(catalog.name_of(study) if name is None else name)
    attributes = (own_attributes(storage, found) if storage and found in known else None) or {}
    if storage and attributes:  # else it is new, its creator died half-way, or it is another program's
        check_same(storage, found, definition)
    before = stored.stored_target(attributes)
    asked = _find_target(found, definition, trials, before)
    most = most_trials(storage, found, definition) if storage and attributes else definition.configurations
    target, before = (number if most is None else min(number, most) for number in (asked, before))
    return Plan(found, definition, target, most, lower, _notes(found, asked, target, 0 if lower else before))


def _notes(name: str, asked: int, target: int, asked_before: int) -> tuple[str, ...]:
    if target < asked:
        return (f"study {name!r} comes to {count(target, 'trial')}: then every configuration of its space is measured",)
    if target < asked_before:
        return (
            f"study {name!r} is to come to {count(asked_before, 'trial')}, asked for earlier; "
            f"--lower-target makes it {asked}",
        )
    return ()


def check_same(storage: RDBStorage, name: str, definition: StudyDefinition) -> None:
    """Makes sure that a study in the storage has this definition, and was made on the datasets of today.

    Raises:
        StudyError: that says what differs, and how to start a new study.
    """
    where = f"study {name!r} in {stored.show_url(storage.url)}"
    differences = definition.differences(read_definition(storage, name))
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise StudyError(
            f"{where} was created with another definition: {differences[0]}{more}; --name NEW starts a new study"
        )
    if records.study_attributes(storage, name)["dataset_sha256"] != DATASETS[definition.protocol.dataset].sha256:
        raise StudyError(f"{where} was created on another release of its dataset; --name NEW starts a new study")


def begin(url: str, plan: Plan, data_folder: Path) -> RDBStorage:
    """Makes sure of the dataset, creates the study where it is new, and returns the storage, open for work.

    Raises:
        RequestError: where the dataset cannot be had, or another has created the study differently meanwhile.
    """
    prepare(plan.definition.protocol.dataset, data_folder)
    storage = stored.open_storage(url, create=True)
    attributes = first_attributes(plan.definition)
    stored.create_study(storage, plan.name, attributes, plan.target, most=plan.most, lower=plan.lower)
    check_same(storage, plan.name, plan.definition)
    records.set_study_attribute(storage, plan.name, "definition", attributes["definition"])  # its title may be new
    return storage


def first_attributes(definition: StudyDefinition) -> dict[str, Any]:
    """Returns what a study is created with."""
    return {
        "definition": definition.model_dump(mode="json"),
        "definition_sha256": definition.sha256,
        "dataset_sha256": DATASETS[definition.protocol.dataset].sha256,
        "versions": versions(),
    }


def run_study(
    storage: RDBStorage,
    plan: Plan,
    *,
    devices: Sequence[str],
    data_folder: Path,
    show: Callable[[Status], None],
    make_objective: str = Assignment.make_objective,
) -> None:
    """Works on a study until it has its trials; `show` is given its status meanwhile.

    Where the study's target is lowered meanwhile, it ends at that.

    Args:
        devices: that of each worker process.

    Raises:
        HpoError: where the work failed, or a worker found that it cannot be done.
    """
    identity = records.study_attributes(storage, plan.name)["identity"]
    status = began = _status_of_ours(storage, plan.name, identity)
    show(status)
    if status.finished >= plan.target:
        return
    assignment = Assignment(
        url=storage.url,
        studies=(plan.name,),
        target=plan.target,
        identity=identity,
        began_at={plan.name: status.trials},
        device="",
        data_folder=data_folder,
        make_objective=make_objective,
    )
    with Crew(storage, assignment, devices[: plan.target - status.finished]) as crew:
        from .note import note_study  # imports the dashboard, a second that the workers need to start anyway

        note_study(storage, plan.name)
        while crew.is_working():
            crew.wait(REFRESH_SECONDS)
            status = _status_of_ours(storage, plan.name, identity)
            show(_with_epochs(status, crew))
            if _is_lowered(began, status) and status.finished >= (status.total or 0):
                break
    status = _status_of_ours(storage, plan.name, identity)  # again: trials may have finished since
    show(status)
    if _is_lowered(began, status):
        print(f"study {plan.name!r}: its target was lowered to {count(status.total or 0, 'trial')}", file=sys.stderr)
    elif status.finished < plan.target:
        raise WorkError(f"every worker was stopped; {status.finished} of {plan.target} trials are finished")


def _is_lowered(before: Status, now: Status) -> bool:
    return before.total is not None and now.total is not None and now.total < before.total


def _status_of_ours(storage: RDBStorage, name: str, identity: str) -> Status:
    try:
        status = read_status(storage, name)
        if records.study_attributes(storage, name).get("identity") != identity:
            raise was_deleted(name)
    except UnknownName as error:
        raise was_deleted(name) from error
    return status


def _with_epochs(status: Status, crew: Crew) -> Status:
    """Returns a status that says of this command's own workers which epoch they have trained."""
    known = crew.epochs()
    workers = [{**one, "epoch": known.get((status.study, one["trial"]))} for one in status.workers]
    return replace(status, workers=workers)


def _find_target(name: str, definition: StudyDefinition, trials: int | None, asked_before: int) -> int:
    if definition.trial:
        if trials not in (None, len(definition.trial)):
            raise RequestError(
                f"study {name!r} lists {count(len(definition.trial), 'trial')}, so --trials cannot be {trials}; "
                "leave it out"
            )
        return len(definition.trial)
    if not trials and not asked_before:
        raise RequestError(f"study {name!r} searches a space, so it needs a number of trials, as in --trials 200")
    return trials or asked_before


def serve(
    storage: RDBStorage,
    studies: tuple[str, ...] | None,
    *,
    devices: Sequence[str],
    data_folder: Path,
    exit_when_done: bool,
    show: Callable[[list[Status]], None],
    make_objective: str = Assignment.make_objective,
) -> None:
    """Works on every unfinished study of a storage, and on those to come; `show` is given the statuses meanwhile.

    A study that is not there yet is waited for; whoever mistyped its name finds out from what is printed.

    Args:
        studies: only these, or None for all.
        devices: that of each worker process.
        exit_when_done: whether to end when every study has its trials; those that are waited for have none yet.

    Raises:
        StorageError: where one of them is another program's.
        WorkError: where a study had to be given up.
    """
    known, there = records.study_names(storage), own_studies(storage)
    for name in studies or ():
        if name in known and name not in there:
            raise stored.not_ours(storage, name)
        if name not in there:
            print(f"waiting for a study named {name!r}; {suggestion(name, there)}", file=sys.stderr)
    before = {name: read_status(storage, name).trials for name in studies or there if name in there}
    assignment = Assignment(
        url=storage.url,
        studies=studies,
        began_at=before,
        exit_when_done=exit_when_done,
        device="",
        data_folder=data_folder,
        make_objective=make_objective,
    )

    def look() -> None:
        show(read_statuses(storage, studies or own_studies(storage)))

    with Crew(storage, assignment, devices) as crew:
        from .note import note_study  # as in run_study

        for name in before if studies else ():
            note_study(storage, name)
        while crew.is_working():
            crew.wait(REFRESH_SECONDS)
            look()
    look()  # again: trials may have finished since
    if crew.given_up:
        raise WorkError(f"given up: {', '.join(sorted({str(said.study) for said in crew.given_up}))}")


def assign_devices(workers: str, device: str) -> list[str]:
    """Returns the device of each worker process that `--workers` stands for.

    `auto` is one process for each physical core on a CPU, and one for each GPU. Processes take the GPUs in turn.

    Args:
        device: `auto`, `cpu`, `cuda` for any GPU, or `cuda:0`, `cuda:1` … for that one.

    Raises:
        RequestError: where the number is neither positive nor `auto`, or too large, or this machine has no such device.
    """
    known = re.fullmatch(r"auto|[1-9][0-9]{0,3}", workers)
    if not known or (workers != "auto" and int(workers) > limits.WORKERS):
        raise RequestError(f"--workers must be a number from 1 to {limits.WORKERS} or 'auto', but is {workers[:40]!r}")
    devices = find_devices(device)
    if workers != "auto":
        processes = int(workers)
    elif devices == ["cpu"]:
        processes = min(int(joblib.cpu_count(only_physical_cores=True)), limits.WORKERS)
    else:
        processes = len(devices)
    return [devices[i % len(devices)] for i in range(processes)]


def find_devices(device: str) -> list[str]:
    """Returns the devices to train on: `cpu`, or one or several of `cuda:0`, `cuda:1` …

    Raises:
        RequestError: where `device` is none of these, or this machine has no such GPU.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise RequestError(f"--device must be auto, cpu, cuda or cuda:0, cuda:1 …, but is {device!r}")
    gpus = [f"cuda:{i}" for i in range(_count_gpus())] if device != "cpu" else []
    if device == "cpu" or (device == "auto" and not gpus):
        return ["cpu"]
    chosen = [gpu for gpu in gpus if device in ("auto", "cuda", gpu)]
    if not chosen:
        raise RequestError(
            f"--device {device} is not here: this machine shows {len(gpus)} NVIDIA GPUs; --device cpu works"
        )
    return chosen


def _count_gpus() -> int:
    # By NVIDIA's own tool: importing torch to ask would take seconds, and this process is to stay small.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # torch counts these; the tool does not ask
    if visible is not None:
        return sum(name.strip() not in ("", "-1") for name in visible.split(","))
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
