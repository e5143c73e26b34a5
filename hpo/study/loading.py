"""Finds a study's task by its name, and asks it what there is to know of it.

This is the one place that knows of every kind of task: those that hpo brings, which are imported when they are asked
for, and code that a study names (code.py).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from hpo.errors import DatasetError, StudyError, UnknownName
from hpo.study.code import explain_code, load
from hpo.study.definition import StudyDefinition
from hpo.study.references import NOWHERE, Reference, Sources, parse_reference
from hpo.study.schema import explain
from hpo.study.task import Measurement, Metric, Params, Round, Task, metrics_of
from hpo.study.training import CONDITIONS, MAY_BE_TRAINED_BY, TRAINED_BY

SHIPPED = {
    "digit_pairs": "hpo.tasks.digit_pairs.task:DigitPairs",
    "classification": "hpo.tasks.classification:Classification",
    "regression": "hpo.tasks.regression:Regression",
}
NETWORK_TASK = ("network", "loss", "data", "errors")  # the functions of one
TAKERS = (
    ("network", 0),
    ("loss", 2),
    ("vary", 2),
)  # of its functions, those that take parameters; after so many others


class LoadedTask:
    """A study's task, and what it says of itself; what it leaves out has a default here.

    Attributes:
        task: what the name stands for: a `NetworkTask`, or a `Task`.
        settings: the keywords that it was made with, defaults filled in as far as they are known.
        references: the code that it is made of, besides what hpo brings.
        metrics: what it measures, the objective first.
        rules: parameter -> the type of its values, as pydantic checks it; those of a function's keywords come from
            their annotations.
        conditions: parameter -> the values that others must have for it to be there; elsewhere it has no effect.
        dataset, data_sha256: see `Card`.
    """

    def __init__(
        self, task: Any, settings: Mapping[str, Any], references: Sequence[Reference], select_on: str = "test"
    ) -> None:
        self.task, self.settings, self.references = task, dict(settings), tuple(references)
        self.metrics: Sequence[Metric] = metrics_of(task, select_on)
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names) or "by_step" in names:  # errors_by_step is an attribute of trials
            raise ValueError(f"metrics must have different names, and none 'by_step', but are {', '.join(names)}")
        self.rules: Mapping[str, Any] = getattr(task, "rules", {})
        self.conditions: Mapping[str, Mapping[str, Any]] = {
            **(CONDITIONS if self.trains else {}),
            **getattr(task, "conditions", {}),
        }

    @property
    def trains(self) -> bool:
        """Whether it trains networks, as `[training]` says."""
        return all(hasattr(self.task, name) for name in NETWORK_TASK)

    @property
    def dataset(self) -> str:
        """What it measures on, in a word or two."""
        return str(getattr(self.task, "dataset", ""))

    @property
    def data_sha256(self) -> str:
        """The hash of that, once `prepare` was called."""
        return str(getattr(self.task, "data_sha256", ""))

    @property
    def example(self) -> Params:
        """A configuration to begin with, but for its training: what it says itself, else the values of its space."""
        return dict(getattr(self.task, "example", {}))

    def keywords(self) -> dict[str, tuple[str, inspect.Parameter]]:
        """Returns what its networks and losses are made of: keyword -> who takes it, and how; nothing of a function's.

        Raises:
            ValueError: where their signatures cannot be read.
        """
        found: dict[str, tuple[str, inspect.Parameter]] = {}
        for taker, skip in TAKERS if self.trains else ():
            function = getattr(self.task, taker, None)
            for name, keyword in _signature(function, taker, skip).items() if function else ():
                if name in found or name in TRAINED_BY or name in MAY_BE_TRAINED_BY:
                    raise ValueError(
                        f"{name} is a keyword of its {taker}, and of its {found.get(name, ('training',))[0]}"
                    )
                found[name] = taker, keyword
        return found

    def prepare(self, data_folder: Any) -> None:
        """Lets it make sure of its data, as by downloading it."""
        if hasattr(self.task, "prepare"):
            self.task.prepare(data_folder)

    def check(self, training: Any) -> None:
        """Lets it check how its networks are to be trained.

        Raises:
            ValueError: where that cannot be.
        """
        if hasattr(self.task, "check"):
            self.task.check(training)

    def untrained(self, params: Params) -> Sequence[str]:
        """Returns the metrics that nothing trains in a configuration, so that they are at chance level."""
        return self.task.untrained(params) if hasattr(self.task, "untrained") else ()


def _signature(function: Callable[..., Any], taker: str, skip: int) -> dict[str, inspect.Parameter]:
    """Returns the keywords of a function, without its first `skip` arguments.

    Raises:
        ValueError: where they cannot be read.
    """
    try:
        keywords = list(inspect.signature(function, eval_str=True).parameters.values())[skip:]
    except NameError:  # of an annotation
        keywords = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError) as error:
        raise ValueError(f"what its {taker} takes cannot be read: {error}") from error
    only_by_place = [keyword.name for keyword in keywords if keyword.kind is keyword.POSITIONAL_ONLY]
    if only_by_place:
        raise ValueError(f"its {taker} takes {only_by_place[0]!r} by place alone, so no parameter can be it")
    return {one.name: one for one in keywords if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}


def task_reference(definition: StudyDefinition, *, study: str) -> Reference | None:
    """Returns the code that a study's task is, None where it is shipped.

    Raises:
        StudyError: where the name is neither.
    """
    name = definition.task.name
    try:
        reference = parse_reference(name)
    except ValueError as error:
        raise StudyError(f"study {study!r}: task.name: {error}") from error
    if reference is None and name not in SHIPPED:
        hint = f"a function of it is named as in '{name}:objective'; " if name.endswith(".py") else ""
        raise UnknownName("task", name, SHIPPED, where=f"study {study!r}: ", hint=hint)
    return reference


def is_light(definition: StudyDefinition, *, study: str) -> bool:
    """Says whether a study can be understood without anybody's code, and without its data.

    So any process may do so: one that supervises, or reads. Others are understood in a process of their own.
    """
    return task_reference(definition, study=study) is None and not hasattr(_shipped(definition), "configure")


class _Opened:
    """A task that trains no networks, with what it may leave out."""

    def __init__(self, loaded: LoadedTask, device: str) -> None:
        self.metrics, self._task = loaded.metrics, loaded.task
        self.device = str(getattr(loaded.task, "device", "") or device)

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Measures a configuration, as the task does."""
        yield from self._task.measure(params, rounds)


def load_task(definition: StudyDefinition, *, study: str, sources: Sources = NOWHERE) -> LoadedTask:
    """Returns a study's task, with the settings that the study has for it; `study` stands in the error.

    Raises:
        RequestError: where there is no such task, it may not be opened, or a setting breaks a rule.
    """
    reference = task_reference(definition, study=study)
    try:
        loaded = _load_code(reference, definition, sources) if reference else _load_shipped(definition, sources)
        return LoadedTask(*loaded, select_on=definition.protocol.select_on)
    except ValidationError as error:
        raise StudyError(f"study {study!r}: {explain(error, within='task')}") from error
    except (DatasetError, StudyError, ValueError) as error:
        kind = DatasetError if isinstance(error, DatasetError) else StudyError
        raise kind(f"study {study!r}: task: {error}") from error


def _shipped(definition: StudyDefinition) -> Any:
    module, _, name = SHIPPED[definition.task.name].partition(":")
    return getattr(importlib.import_module(module), name)


def _load_shipped(definition: StudyDefinition, sources: Sources) -> tuple[Any, Any, Any]:
    kind, settings = _shipped(definition), definition.task.settings
    if not hasattr(kind, "configure"):
        made = kind.model_validate(settings)
        return made, made.model_dump(mode="json", exclude_none=True), ()
    return tuple(kind.configure(settings, sources))


def _load_code(reference: Reference, definition: StudyDefinition, sources: Sources) -> tuple[Any, Any, Any]:
    """Returns the task that code is: a function, a class with the functions of a task, or an object with them."""
    named, settings = load(reference, sources), definition.task.settings
    if inspect.isclass(named):
        _check_shape(named, reference)
        named = _make(named, settings, reference)
    elif not callable(named) or hasattr(named, "measure"):
        _check_shape(named, reference)
        if settings:
            raise StudyError(f"{reference} is no class, so it takes no settings, but is given {', '.join(settings)}")
    else:
        function: Any = importlib.import_module("hpo.tasks.function").Function
        named, settings = function.of(named, settings, str(reference))
    return named, settings, (reference,)


def load_builder(definition: StudyDefinition, given: Mapping[str, Any], sources: Sources) -> Callable[..., Any] | None:
    """Returns what builds a study's networks, without the study's data: `given` is what it knew of them.

    None for a task whose networks are not made for its data.

    Raises:
        RequestError: where that is code which may not be opened.
    """
    kind: Any = _shipped(definition) if definition.task.name in SHIPPED else None
    return kind.rebuild(definition.task.settings, given, sources) if hasattr(kind, "rebuild") else None


def _check_shape(named: Any, reference: Reference) -> None:
    """Makes sure, before any of it is called, that a class or an object is a task."""
    if hasattr(named, "measure") or all(hasattr(named, name) for name in NETWORK_TASK):
        return
    there = [name for name in NETWORK_TASK if hasattr(named, name)]
    missing = [name for name in NETWORK_TASK if name not in there]
    raise StudyError(
        f"{reference} is no task: it is no function (params, seed), has no measure, and "
        + (f"lacks {', '.join(missing)}" if there else f"none of {', '.join(NETWORK_TASK)}")
    )


def _make(kind: type[Any], settings: Mapping[str, Any], reference: Reference) -> Any:
    try:
        inspect.signature(kind).bind(**settings)
    except TypeError as error:
        raise StudyError(f"{reference}: {error}") from error
    except ValueError:
        pass  # its signature cannot be read; calling it will tell
    try:
        return kind(**settings)
    except Exception as error:
        raise StudyError(f"{reference} cannot be made: {explain_code(error)}") from error


def open_task(definition: StudyDefinition, loaded: LoadedTask, device: str, **how: Any) -> Task:
    """Opens a study's task, its data prepared, on a device; imports torch where it trains networks.

    Args:
        how: see `open_trainer`.

    Raises:
        RequestError: where the device or the data cannot be used.
    """
    if not loaded.trains:
        if hasattr(loaded.task, "open"):
            loaded.task.open(device)
        return _Opened(loaded, device)
    assert definition.training is not None  # it was resolved
    open_trainer: Callable[..., Task] = importlib.import_module("hpo.training.trainer").open_trainer
    keep = {*definition.run.keep, *(["examples"] if definition.trial else [])}  # listed trials are compared
    how |= {"keep": keep, "select_on": definition.protocol.select_on}
    return open_trainer(loaded.task, definition.training, device, definition.rounds, **how)
