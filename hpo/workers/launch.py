"""Brings a study to its trials: creates or joins it, and looks after its workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from optuna.storages import RDBStorage

from hpo.errors import StudyError, UnknownName, WorkError, suggestion
from hpo.provenance import versions
from hpo.storage.backends import open_storage
from hpo.storage.queries import set_study_attribute, study_attributes, study_names
from hpo.storage.studies import create_study, not_ours, own_studies
from hpo.study.card import Card, make_card
from hpo.study.code import check_files
from hpo.study.definition import StudyDefinition
from hpo.study.loading import is_light, load_task
from hpo.study.references import Sources, check_allowed
from hpo.text.formatting import count
from hpo.workers.messages import Assignment
from hpo.workers.plan import Plan, check_same
from hpo.workers.status import Status, read_status, read_statuses
from hpo.workers.supervisor import Supervisor
from hpo.workers.worker import was_deleted

REFRESH_SECONDS = 0.5


def begin(url: str, plan: Plan, sources: Sources) -> RDBStorage:
    """Makes sure of the data, creates the study where it is new, and returns the storage, open for work.

    Raises:
        RequestError: where the data cannot be had, or another has created the study differently meanwhile.
    """
    card = plan.card
    if is_light(plan.definition, study=plan.name):
        loaded = load_task(plan.definition, study=plan.name)
        loaded.prepare(sources.data)
        card = card or make_card(plan.definition, loaded)
    if card is None:
        raise WorkError(f"study {plan.name!r} was not checked")
    for reference in plan.definition.references:
        check_allowed(reference, sources, study=plan.name)
    try:
        check_files(card.code, sources)
    except StudyError as error:
        raise StudyError(f"study {plan.name!r}: {error}") from error
    storage = open_storage(url, create=True)
    attributes = first_attributes(plan.definition, card)
    create_study(storage, plan.name, attributes, plan.target, most=plan.most, lower=plan.lower)
    check_same(storage, plan.name, plan.definition, card)
    for key in ("definition", "card"):  # its title and labels may be new
        set_study_attribute(storage, plan.name, key, attributes[key])
    return storage


def first_attributes(definition: StudyDefinition, card: Card) -> dict[str, Any]:
    """Returns what a study is created with."""
    return {
        "definition": definition.model_dump(mode="json"),
        "definition_sha256": definition.sha256,
        "card": card.model_dump(mode="json"),
        "versions": versions(),
    }


def run_study(
    storage: RDBStorage,
    plan: Plan,
    *,
    devices: Sequence[str],
    at_once: int | None = 1,
    sources: Sources,
    show: Callable[[Status], None],
    meanwhile: Callable[[], None] = lambda: None,
    make_objective: str = Assignment.make_objective,
    supervisor: Supervisor | None = None,
) -> None:
    """Works on a study until it has its trials; `show` is given its status meanwhile.

    Where the study's target is lowered meanwhile, it ends at that.

    Args:
        devices: that of each worker process.
        at_once: see `Assignment`.
        meanwhile: is called once, while the workers start, which takes them seconds.
        supervisor: the one whose workers wait for orders already; None makes one.

    Raises:
        HpoError: where the work failed, or a worker found that it cannot be done.
    """
    identity = study_attributes(storage, plan.name)["identity"]
    status = began = _status_of_ours(storage, plan.name, identity)
    show(status)
    if status.finished >= plan.target:
        return
    terms: dict[str, Any] = {"target": plan.target, "identity": identity, "began_at": {plan.name: status.trials}}
    terms |= {"sha256": plan.definition.sha256, "at_once": at_once, "make_objective": make_objective}
    assignment = Assignment(url=storage.url, studies=(plan.name,), device="", sources=sources, **terms)
    fresh = Supervisor(devices[: plan.target - status.finished])
    with fresh if supervisor is None else nullcontext(supervisor) as working:
        working.assign(storage, assignment)
        meanwhile()
        while working.is_working():
            working.wait(REFRESH_SECONDS)
            status = _status_of_ours(storage, plan.name, identity)
            show(_with_steps(status, working))
            if _is_lowered(began, status) and status.finished >= (status.total or 0):
                break
    status = _status_of_ours(storage, plan.name, identity)  # again: trials may have finished since
    show(status)
    _check_finished(plan, began, status)


def _check_finished(plan: Plan, began: Status, status: Status) -> None:
    """Makes sure that a study has come to its trials, or to a target that was lowered meanwhile, which is said."""
    if _is_lowered(began, status):
        print(f"study {plan.name!r}: its target was lowered to {count(status.total or 0, 'trial')}", file=sys.stderr)
    elif status.finished < plan.target:
        raise WorkError(f"every worker was stopped; {status.finished} of {plan.target} trials are finished")


def _is_lowered(before: Status, now: Status) -> bool:
    return before.total is not None and now.total is not None and now.total < before.total


def _status_of_ours(storage: RDBStorage, name: str, identity: str) -> Status:
    try:
        status = read_status(storage, name)
        if study_attributes(storage, name).get("identity") != identity:
            raise was_deleted(name)
    except UnknownName as error:
        raise was_deleted(name) from error
    return status


def _with_steps(status: Status, supervisor: Supervisor) -> Status:
    """Returns a status that says of this command's own workers which step of their trials they have done."""
    known = supervisor.steps()
    workers = [{**one, "step": known.get((status.study, one["trial"]))} for one in status.workers]
    return replace(status, workers=workers)


def serve(
    storage: RDBStorage,
    studies: tuple[str, ...] | None,
    *,
    devices: Sequence[str],
    at_once: int | None = 1,
    sources: Sources,
    exit_when_done: bool,
    show: Callable[[list[Status]], None],
    meanwhile: Callable[[str], None] = lambda study: None,
    make_objective: str = Assignment.make_objective,
) -> None:
    """Works on every unfinished study of a storage, and on those to come; `show` is given the statuses meanwhile.

    A study that is not there yet is waited for; whoever mistyped its name finds out from what is printed.

    Args:
        studies: only these, or None for all.
        devices: that of each worker process.
        at_once: see `Assignment`.
        exit_when_done: whether to end when every study has its trials; those that are waited for have none yet.
        meanwhile: is called with each of `studies` that is there, while the workers start.

    Raises:
        StorageError: where one of them is another program's.
        WorkError: where a study had to be given up.
    """
    there = _find_studies(storage, studies)
    before = {name: read_status(storage, name).trials for name in studies or there if name in there}
    terms: dict[str, Any] = {"at_once": at_once, "exit_when_done": exit_when_done, "make_objective": make_objective}
    assignment = Assignment(url=storage.url, studies=studies, began_at=before, device="", sources=sources, **terms)

    def look() -> None:
        show(read_statuses(storage, studies or own_studies(storage)))

    with Supervisor(devices) as supervisor:
        supervisor.assign(storage, assignment)
        for name in before if studies else ():
            meanwhile(name)
        while supervisor.is_working():
            supervisor.wait(REFRESH_SECONDS)
            look()
    look()  # again: trials may have finished since
    if supervisor.given_up:
        raise WorkError(f"given up: {', '.join(sorted({str(said.study) for said in supervisor.given_up}))}")


def _find_studies(storage: RDBStorage, wanted: tuple[str, ...] | None) -> Collection[str]:
    """Returns this program's studies, and says which of those that are wanted are not there yet.

    Raises:
        StorageError: where one of these is another program's.
    """
    known, there = study_names(storage), own_studies(storage)
    for name in wanted or ():
        if name in known and name not in there:
            raise not_ours(storage, name)
        if name not in there:
            print(f"waiting for a study named {name!r}; {suggestion(name, there)}", file=sys.stderr)
    return there
