"""Makes sure that a study can be measured here: when it is new, before anything is created; and by each worker."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from optuna.storages import RDBStorage

from hpo.errors import StudyError, WorkError
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import make_card
from hpo.study.code import check_files, check_same_code, code_hashes, explain_code
from hpo.study.definition import StudyDefinition
from hpo.study.loading import LoadedTask, load_task, open_task
from hpo.study.references import Sources
from hpo.study.resolving import resolve_by
from hpo.study.space import LEARNING_RATE, RANGE_TEST
from hpo.study.task import Params, Task, Value
from hpo.study.training import leaves_rate
from hpo.text.capture import capture
from hpo.workers.building import check_networks, chosen_params, rehearsed
from hpo.workers.contract import find_faults
from hpo.workers.messages import Check, Checked, Promise


def check_study(order: Check, say: Callable[[str], None]) -> Checked:
    """Tries a study: imports its task, opens one round, and takes a step with the first values of its space.

    Where batches have several sizes, which the task does not check by itself, a step with each.

    Args:
        say: is told what is done now.

    Raises:
        RequestError: where it cannot be measured.
    """
    name, sources = order.study, order.sources
    with capture() as printed:
        say(f"loading {order.definition.task.name}")
        loaded = load_task(order.definition, study=name, sources=sources)
        say("making sure of the data")
        loaded.prepare(sources.data)
        definition = resolve_by(loaded, order.definition, study=name)
        say("taking one step")
        task = open_task(definition, loaded, order.device)
        way, *_ = [_try(task, definition, params, name) for params in rehearsed(loaded, definition)]
        if loaded.trains:
            check_networks(loaded, definition, study=name)
        card = make_card(definition, loaded, sources)
        promises = _promises(loaded, definition, order, say) if order.promises else ()
    return Checked(definition, card.model_dump(mode="json"), way, printed.text, promises)


def _promises(
    loaded: LoadedTask, definition: StudyDefinition, order: Check, say: Callable[[str], None]
) -> tuple[Promise, ...]:
    """Returns what a task promises, and where it breaks that.

    Raises:
        StudyError: where it fails.
    """
    params, other = chosen_params(definition), chosen_params(definition, last=True)
    try:
        return tuple(find_faults(loaded, definition, params, other, order.device, say))
    except (Exception, SystemExit) as error:
        raise StudyError(f"study {order.study!r}: with {_listed(params)}: {explain_code(error)}") from error


def _try(task: Task, definition: StudyDefinition, params: Params, name: str) -> str:
    """Takes one step of a task with a configuration, in one round; returns how it is trained.

    Raises:
        StudyError: where that fails, or comes to something else than errors.
    """
    process = os.getpid()
    try:
        if hasattr(task, "rehearse"):
            return str(task.rehearse(params, definition.rounds))
        steps = task.measure(params, definition.rounds[:1])
        measured = next(steps)
        steps.close()  # type: ignore[attr-defined]
    except StopIteration:
        raise StudyError(f"study {name!r}: its task measures nothing") from None
    except (Exception, SystemExit) as error:
        raise StudyError(f"study {name!r}: with {_listed(params)}: {explain_code(error)}") from error
    finally:
        if os.getpid() != process:
            os._exit(0)  # a copy of this process, which the code has forked and not ended
    _check(measured, task, name)
    return ""


def _check(measured: Any, task: Task, name: str) -> None:
    """Makes sure that a measurement is one: errors of one round, by the task's own metrics."""
    known = {metric.name for metric in task.metrics}
    errors = getattr(measured, "errors", None)
    if errors is None or not hasattr(measured, "step"):
        raise StudyError(f"study {name!r}: its task must yield measurements, but yields {type(measured).__name__}")
    if errors and set(errors) != known:
        raise StudyError(f"study {name!r}: its task measures {', '.join(sorted(errors))}, but its metrics are {known}")


def _listed(params: Params) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in params.items())


def _hold_against(
    definition: StudyDefinition, given: StudyDefinition, sources: Sources, *, study: str, file: str
) -> None:
    """Makes sure that a stored study gives code no more than the file does that was given.

    Whoever names a file allows the code that it names, with the settings and the values that it names.

    Args:
        study: its name; another than the file's for one that measures trials of that study again.
        file: the name of the file.

    Raises:
        StudyError: that says what differs.
    """
    loaded = load_task(given, study=file, sources=sources)
    said = resolve_by(loaded, given, study=file)
    where = f"study {study!r} is not as {file}.toml says"
    if definition.task != said.task:
        raise StudyError(f"{where}: its task or a setting of it is another")
    space = said.search_space
    stored = definition.search_space if study == file else {}
    for name, parameter in stored.items():
        if name not in space or parameter.values != space[name].values:
            raise StudyError(f"{where}: space.{name} is another")
    for entry in definition.trial if study != file else ():
        for name, value in entry.params.items():
            if not _is_found(said, name, value) and (name not in space or not space[name].holds(value)):
                raise StudyError(f"{where}: its {name} cannot be {value!r}")


def check_allowed_configuration(definition: StudyDefinition, params: Params, sources: Sources, *, study: str) -> None:
    """Makes sure that a study's code may be given a configuration of it, as a file says or an operator allows.

    Raises:
        RequestError: where it may not.
    """
    for file, given in sources.files.items():
        if set(definition.references) & set(given.references):
            _hold_against(definition, given, sources, study=study, file=file)
    load_task(definition, study=study, sources=sources)
    check_params(definition, params, trial=f"study {study!r}")


def _is_found(definition: StudyDefinition, name: str, value: Value) -> bool:
    """Says whether a value may be a rate that a range test found, or is to find, in a study that leaves some to one."""
    leaves = name == LEARNING_RATE and any(leaves_rate(definition.training, entry.params) for entry in definition.trial)
    return leaves and (value == RANGE_TEST or (isinstance(value, float) and 0 < value < math.inf))


def check_params(definition: StudyDefinition, params: Params, *, trial: str) -> None:
    """Makes sure that a stored trial has a configuration of its study's space: anybody can have changed it.

    Raises:
        StudyError: that says what is not.
    """
    space = definition.search_space
    for name, value in params.items():
        if not _is_found(definition, name, value) and (name not in space or not space[name].holds(value)):
            raise StudyError(f"{trial}: {name} = {value!r} is not of the study's space")


def open_stored(storage: RDBStorage, name: str, sources: Sources, sha256: str | None = None) -> StudyDefinition:
    """Returns a stored study's definition, once it is sure that this machine has the same task, code and data.

    Anybody can have changed what is stored, so it is checked as a file is; and held against the file that was given.

    Args:
        sha256: of the definition that it was to have.

    Raises:
        RequestError: where something is missing, differs, or may not be opened.
    """
    definition, card = read_definition(storage, name), read_card(storage, name)
    if sha256 not in (None, definition.sha256):
        raise WorkError(f"study {name!r} was given another definition while it was worked on")
    try:
        check_files(card.code, sources)
        with capture() if definition.references else nullcontext():
            for file, given in sources.files.items():
                if set(definition.references) & set(given.references):
                    _hold_against(definition, given, sources, study=name, file=file)
            loaded = load_task(definition, study=name, sources=sources)
        check_same_code(card.code, code_hashes(loaded.references, sources))
    except StudyError as error:
        said = str(error)
        raise StudyError(said if said.startswith("study ") else f"study {name!r}: {said}") from error
    except (OSError, RecursionError) as error:
        raise StudyError(f"study {name!r}: {error}") from error
    loaded.prepare(sources.data)
    if card.data_sha256 != loaded.data_sha256:
        raise WorkError(f"study {name!r} was created on other data than is here under its name")
    return resolve_by(loaded, definition, study=name)
