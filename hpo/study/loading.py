"""Asks a study's task what the study may say, and opens it for work.

Tasks come after this folder in the order of imports, and training after that, so both are imported by their names, and
only where they are needed: nothing here imports torch before a task is opened.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpo.errors import StudyError, UnknownName, suggestion
from hpo.study.card import Card, MetricCard
from hpo.study.definition import TRAINED_BY, Entry, StudyDefinition, Training, define_study
from hpo.study.schema import explain, shown
from hpo.study.space import LEARNING_RATE, RANGE_TEST, FloatRange, IntRange, Parameter, When
from hpo.study.task import Metric, Task, Value

NEEDED = inspect.Parameter.empty  # in place of a default
SHIPPED = {"digit_pairs": "hpo.tasks.digit_pairs.task:DigitPairs"}


def make_task(definition: StudyDefinition, *, study: str) -> Any:
    """Returns a study's task, with the settings that the study has for it; `study` stands in the error.

    Raises:
        UnknownName: where there is no such task.
        StudyError: where a setting breaks a rule.
    """
    name = definition.task.name
    if name not in SHIPPED:
        raise UnknownName("task", name, SHIPPED, where=f"study {study!r}: ")
    try:
        return _import(SHIPPED[name]).model_validate(definition.task.settings)
    except ValidationError as error:
        raise StudyError(f"study {study!r}: {explain(error, within='task')}") from error


def resolve(definition: StudyDefinition, *, study: str) -> StudyDefinition:
    """Returns a study as its task understands it: every default filled in, every condition said, or what is wrong.

    Raises:
        RequestError: that names the first thing which is wrong.
    """
    task = make_task(definition, study=study)
    parameters = _Parameters(task, study)
    metrics = {metric.name: metric for metric in task.metrics}
    metric = definition.protocol.metric or next(iter(metrics))
    if metric not in metrics:
        _refuse(study, f"protocol.metric must be one of {', '.join(map(repr, metrics))}, but is {metric!r}")
    for entry in definition.trial:
        _check_published(entry, metrics[metric], study)
    training = definition.training or Training()
    try:
        task.check(training)
    except ValueError as error:
        raise StudyError(f"study {study!r}: {error}") from error
    table = {
        **definition.model_dump(mode="json"),
        "task": {"name": definition.task.name, **task.model_dump(mode="json")},
        "training": training.model_dump(mode="json"),
        "protocol": {**definition.protocol.model_dump(mode="json"), "metric": metric},
        "space": parameters.check_space(definition.space) if definition.space else {},
        "trial": [entry.model_dump(mode="json") for entry in map(parameters.check_trial, definition.trial)],
    }
    return define_study(table, name=study)


class _Parameters:
    """What a task's parameters are: who takes them, by what rule, and where they are there at all."""

    def __init__(self, task: Any, study: str) -> None:
        self._study = study
        self.takers = _takers(task)
        self._rules: Mapping[str, TypeAdapter[Any]] = {
            name: TypeAdapter(rule, config=ConfigDict(strict=True, allow_inf_nan=False))
            for name, rule in {**TRAINED_BY, **task.rules}.items()
        }
        self._conditions: Mapping[str, When] = task.conditions
        self._needed = [name for name, (_, default) in self.takers.items() if default is NEEDED]
        self._defaults = {
            name: default for name, (_, default) in self.takers.items() if default is not NEEDED and default is not None
        }

    def check_space(self, space: Mapping[str, Parameter]) -> dict[str, Any]:
        """Returns a space with all conditions, its numbers as its parameters take them."""
        if missing := [name for name in self._needed if name not in space]:
            example = f"a fixed value will do, as in {missing[0]} = …"
            _refuse(self._study, f"space lacks {', '.join(missing)}; {example}")
        return {name: self._check(name, parameter).model_dump(mode="json") for name, parameter in space.items()}

    def check_trial(self, entry: Entry) -> Entry:
        """Returns a listed trial, its values as its parameters take them."""
        where = f"trial {entry.label!r}"
        if missing := [name for name in self._needed if name not in entry.params]:
            _refuse(self._study, f"{where} lacks {', '.join(missing)}")
        params = {
            name: value
            if (name, value) == (LEARNING_RATE, RANGE_TEST)
            else self._value(f"{where}: {name}", name, value)
            for name, value in entry.params.items()
        }
        for name, when in self._conditions.items():
            for key, wanted in when.items() if name in params else ():
                if params.get(key) != wanted:
                    _refuse(self._study, f"{where}: {name} is there only where {key} is {shown(wanted)}")
        defaults = {name: value for name, value in self._defaults.items() if name not in params}
        for name, value in defaults.items():
            if all(params.get(key) == wanted for key, wanted in self._conditions.get(name, {}).items()):
                params[name] = value
        return entry.model_copy(update={"params": params})

    def _check(self, name: str, parameter: Parameter) -> Parameter:
        values = tuple(self._value(f"space.{name}", name, value) for value in parameter.values)
        if parameter.when and name in self._needed:
            _refuse(self._study, f"space.{name} is needed in every trial, so it can have no 'when'")
        when = {**self._conditions.get(name, {}), **parameter.when}
        for key, wanted in self._conditions.get(name, {}).items():
            if when[key] != wanted:
                _refuse(self._study, f"space.{name}.when: it has an effect only where {key} is {shown(wanted)}")
        if isinstance(parameter, IntRange) and not all(isinstance(value, int) for value in values):
            if parameter.step != 1:
                _refuse(self._study, f"space.{name} is no whole number, so it can have no 'step'")
            return FloatRange(low=values[0], high=values[1], log=parameter.log, when=when)
        changed = {"choices": values} if not isinstance(parameter, FloatRange | IntRange) else {}
        return parameter.model_copy(update={"when": when, **changed})

    def _value(self, where: str, name: str, value: Value) -> Any:
        if name not in self.takers:
            _refuse(self._study, f"{where}: no parameter has this name; {suggestion(name, self.takers)}")
        try:
            return self._rules[name].validate_python(value)
        except ValidationError as error:
            hint = f"; {RANGE_TEST!r} finds one" if name == LEARNING_RATE and where.startswith("trial") else ""
            raise StudyError(f"study {self._study!r}: {explain(error, within=where)}{hint}") from error


def parameters_of(task: Any) -> dict[str, str]:
    """Returns the parameters of a task by name: who takes each, `network`, `loss` or `training`."""
    return {name: taker for name, (taker, _) in _takers(task).items()}


def _check_published(entry: Entry, metric: Metric, study: str) -> None:
    """Makes sure that a published figure is one of the metric's."""
    if entry.published is None:
        return
    for key, value, low, high in (
        ("mean", entry.published.mean, metric.low, metric.high),
        ("std", entry.published.std, 0.0, metric.high - metric.low),
    ):
        if not low <= value <= high:
            where = f"trial {entry.label!r}: published.{key}"
            _refuse(study, f"{where} must be between {low:g} and {high:g}, but is {shown(value)}")


def _takers(task: Any) -> dict[str, tuple[str, Any]]:
    """Returns the parameters by name: who takes each, and its default, or NEEDED."""
    found: dict[str, tuple[str, Any]] = {}
    for taker, function, skip in (("network", task.network, 0), ("loss", task.loss, 2)):
        for name, parameter in list(inspect.signature(function).parameters.items())[skip:]:
            found[name] = taker, parameter.default
    return found | {name: ("training", NEEDED) for name in TRAINED_BY}


def make_card(definition: StudyDefinition, *, study: str) -> Card:
    """Returns the card of a study that is resolved."""
    task = make_task(definition, study=study)
    objective = definition.protocol.metric
    return Card(
        metrics=tuple(map(_metric_card, sorted(task.metrics, key=lambda metric: metric.name != objective))),
        parameters=parameters_of(task),
        conditions={name: dict(when) for name, when in task.conditions.items()},
        dataset=task.dataset,
        data_sha256=task.data_sha256,
        at_chance={entry.label: tuple(names) for entry in definition.trial if (names := task.untrained(entry.params))},
    )


def _metric_card(metric: Metric) -> MetricCard:
    shown_of = {**asdict(metric), "title": metric.title or metric.name}
    return MetricCard(**{name: shown_of[name] for name in MetricCard.model_fields})


def prepare_data(definition: StudyDefinition, folder: Path, *, study: str) -> None:
    """Makes sure that a study's data can be read here, downloading what is missing.

    Raises:
        DatasetError: where it cannot be had.
    """
    make_task(definition, study=study).prepare(folder)


def open_task(definition: StudyDefinition, device: str, data_folder: Path) -> Task:
    """Opens a study's task on a device; imports torch.

    Raises:
        RequestError: where the device or the data cannot be used.
    """
    task = make_task(definition, study=definition.title)
    task.prepare(data_folder)
    opened: Task = _import("hpo.training.trainer:open_trainer")(
        task, definition.training, device, definition.rounds, keep=definition.run.keep
    )
    return opened


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _refuse(study: str, complaint: str) -> NoReturn:
    raise StudyError(f"study {study!r}: {complaint}")
