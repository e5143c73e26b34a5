"""Resolves a study: every default filled in, every condition said, every value as its parameter takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NoReturn, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpo.errors import StudyError, suggestion
from hpo.study.definition import Entry, StudyDefinition, define_study
from hpo.study.loading import LoadedTask, is_light, load_task
from hpo.study.schema import explain, shown
from hpo.study.search import (
    HyperbandPruner,
    MedianPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from hpo.study.space import LEARNING_RATE, RANGE_TEST, FloatRange, IntRange, Parameter, meets, one_of, possible
from hpo.study.task import Metric, Value
from hpo.study.training import MAY_BE_TRAINED_BY, TRAINED_BY, Training, leaves_rate
from hpo.text.formatting import count

FEWEST_COMPARED = 3  # rounds of two trials, by a signed-rank test
NEEDED = object()  # in place of a default


def resolve(definition: StudyDefinition, *, study: str) -> StudyDefinition:
    """Returns a study whose task is light (see `is_light`) as `resolve_by` does.

    Raises:
        RequestError: that names the first thing which is wrong.
    """
    return resolve_by(load_task(definition, study=study), definition, study=study)


def resolve_derived(table: dict[str, Any], *, study: str) -> StudyDefinition:
    """Returns the study of a table that was made from one which is resolved: its trials measured again.

    Raises:
        StudyError: where it breaks a rule.
    """
    definition = define_study(table, name=study)
    return resolve(definition, study=study) if is_light(definition, study=study) else definition


def resolve_by(loaded: LoadedTask, definition: StudyDefinition, *, study: str) -> StudyDefinition:
    """Returns a study as its task understands it, or says what is wrong; `study` stands in the error.

    Raises:
        StudyError: that names the first thing which is wrong.
    """
    metric = _objective(definition, loaded, study)
    for entry in definition.trial:
        _check_published(entry, metric, study)
    training = _training(definition, loaded, study)
    parameters = _Parameters(loaded, training, study)
    table = {
        **definition.model_dump(mode="json"),
        "task": {"name": definition.task.name, **loaded.settings},
        "training": training and training.model_dump(mode="json"),
        "protocol": {**definition.protocol.model_dump(mode="json"), "metric": metric.name},
        "space": parameters.check_space(definition.space) if definition.space else {},
        "trial": [entry.model_dump(mode="json") for entry in map(parameters.check_trial, definition.trial)],
    }
    resolved = define_study(table, name=study)
    _check_batches(resolved, loaded, study)
    _check_pruner(resolved, loaded, metric, study)
    return resolved


def _objective(definition: StudyDefinition, loaded: LoadedTask, study: str) -> Metric:
    metrics = {metric.name: metric for metric in loaded.metrics}
    wanted = definition.protocol.metric or next(iter(metrics))
    if wanted not in metrics:
        _refuse(study, f"protocol.metric must be one of {', '.join(map(repr, metrics))}, but is {wanted!r}")
    return metrics[wanted]


def _training(definition: StudyDefinition, loaded: LoadedTask, study: str) -> Training | None:
    if not loaded.trains:
        if definition.training is not None:
            _refuse(study, f"task {definition.task.name!r} trains no networks, so there can be no [training]")
        return None
    training = definition.training or Training()
    if not definition.always_has("batch_size"):  # else each of its values is checked, see _check_batches
        try:
            loaded.check(training)
        except ValueError as error:
            raise StudyError(f"study {study!r}: {error}") from error
    return training


def _check_batches(definition: StudyDefinition, loaded: LoadedTask, study: str) -> None:
    """Makes sure that the task can train in batches of any size that is proposed."""
    if definition.training is None:
        return
    parameter = definition.space.get("batch_size")
    values: Iterable[Any] = [entry.params["batch_size"] for entry in definition.trial if "batch_size" in entry.params]
    if isinstance(parameter, IntRange):
        values = range(parameter.low, parameter.high + 1, parameter.step)
    elif parameter:
        values = parameter.values
    for size in values:
        try:
            loaded.check(definition.training.model_copy(update={"batch_size": size}))
        except ValueError as error:
            said = str(error).replace("training.batch_size", "parameter batch_size")
            raise StudyError(f"study {study!r}: {said}") from error


def _check_pruner(definition: StudyDefinition, loaded: LoadedTask, metric: Metric, study: str) -> None:
    """Makes sure that the pruner has something to go by."""
    name = definition.pruner.name
    if name == "none":
        return
    if definition.goes_by_rounds:
        if definition.protocol.rounds < FEWEST_COMPARED:
            _refuse(
                study,
                f"protocol.rounds must be at least {FEWEST_COMPARED} where pruner {name!r} compares rounds, but is "
                f"{definition.protocol.rounds}",
            )
        if definition.run.keep:
            _refuse(study, f"run.keep must be empty where pruner {name!r} has rounds measured one after another")
        _check_beginning(definition, definition.protocol.rounds - 1, study)
        return
    needed = 2 if name == "power_law" else 1
    if definition.training:
        training = definition.training
        asked, most = _asked_at(definition, training)
        if len(asked) < needed:
            of = f", where a trial has at most {count(most, 'epoch')}" if "epochs" in definition.search_space else ""
            _refuse(
                study,
                f"training.evaluate_at must name {count(needed, 'epoch')} before the last, or pruner {name!r} has "
                f"nothing to go by, but is {shown(training.evaluate_at)}{of}",
            )
    elif getattr(loaded.task, "has_steps", True) is False:
        _refuse(study, f"pruner {name!r} has nothing to go by: {definition.task.name} returns once, and yields nothing")
    elif name == "power_law" and (definition.steps or 0) <= needed:
        _refuse(
            study, f"pruner 'power_law' needs task.steps, how many steps a trial has, and more than {needed} of them"
        )
    if name == "power_law" and (metric.maximize or metric.low is None or metric.low < 0):
        _refuse(study, f"pruner 'power_law' is for what is never negative (task.low = 0), as {metric.name!r} may be")
    if definition.training:
        _check_beginning(definition, max(asked), study)
    elif definition.steps:
        _check_beginning(definition, definition.steps - 1, study)


def _asked_at(definition: StudyDefinition, training: Training) -> tuple[list[int], int]:
    """Returns as which epochs those count after which a pruner is asked about a trial of most, and how many it has."""
    own = definition.search_space.get("epochs")
    counts = [*(own.values if own else ()), *(() if definition.always_has("epochs") else (training.epochs,))]
    most = max(one for one in counts if isinstance(one, int))
    return [counted for epoch, counted in training.steps_of(most).items() if epoch < most], most


def _check_beginning(definition: StudyDefinition, last: int, study: str) -> None:
    """Makes sure that a pruner may end a trial at one of the steps at which it is asked.

    Args:
        last: of these steps.
    """
    pruner, key, first = definition.pruner, "", 0
    if isinstance(pruner, MedianPruner | PercentilePruner):
        key, first = "n_warmup_steps", pruner.n_warmup_steps
    elif isinstance(pruner, WilcoxonPruner):
        key, first = "n_startup_steps", pruner.n_startup_steps
    elif isinstance(pruner, HyperbandPruner):
        key, first = "min_resource", pruner.min_resource
        if pruner.max_resource is not None and first > pruner.max_resource:
            _refuse(study, f"pruner.min_resource must be at most max_resource, {pruner.max_resource}, but is {first}")
    elif isinstance(pruner, SuccessiveHalvingPruner):
        key, first = "min_resource", pruner.min_resource
        if pruner.min_early_stopping_rate:
            key += " * reduction_factor ** min_early_stopping_rate"
            first *= pruner.reduction_factor**pruner.min_early_stopping_rate
    if first > last:
        asked = f"the last {definition.step_word} at which pruner {pruner.name!r} is asked"
        _refuse(study, f"pruner.{key} must be at most {last}, {asked}, but is {shown(first)}")


class _Parameters:
    """What a task's parameters are: who takes them, by what rule, and where they are there at all."""

    def __init__(self, loaded: LoadedTask, training: Training | None, study: str) -> None:
        self._training, self._study = training, study
        try:
            keywords = loaded.keywords()
        except ValueError as error:
            raise StudyError(f"study {study!r}: task: {error}") from error
        self._rules: Mapping[str, TypeAdapter[Any]] = {
            name: TypeAdapter(rule, config=ConfigDict(strict=True, allow_inf_nan=False))
            for name, rule in {
                **{name: _rule(keyword.annotation) for name, (_, keyword) in keywords.items()},
                **({**TRAINED_BY, **MAY_BE_TRAINED_BY} if loaded.trains else {}),
                **loaded.rules,
            }.items()
        }
        self._conditions = loaded.conditions
        self._defaults = {
            name: NEEDED if keyword.default is keyword.empty else keyword.default
            for name, (_, keyword) in keywords.items()
        } | (dict.fromkeys(TRAINED_BY, NEEDED) if loaded.trains else {})
        self._needed = [name for name, default in self._defaults.items() if default is NEEDED]
        self._is_closed = loaded.trains or bool(loaded.rules)  # a function is given whatever there is

    def check_space(self, space: Mapping[str, Parameter]) -> dict[str, Any]:
        """Returns a space with all conditions, its numbers as its parameters take them."""
        if missing := [name for name in self._needed if name not in space]:
            example = f"a fixed value will do, as in {missing[0]} = …"
            _refuse(self._study, f"space lacks {', '.join(missing)}; {example}")
        return {name: self._check(name, parameter, space).model_dump(mode="json") for name, parameter in space.items()}

    def check_trial(self, entry: Entry) -> Entry:
        """Returns a listed trial, its values as its parameters take them."""
        where = f"trial {entry.label!r}"
        if missing := [name for name in self._needed if name not in entry.params]:
            _refuse(self._study, f"{where} lacks {', '.join(missing)}")
        is_open = leaves_rate(self._training, entry.params)
        params = {
            name: value if name == LEARNING_RATE and is_open else self._value(f"{where}: {name}", name, value)
            for name, value in entry.params.items()
        }
        for name, when in self._conditions.items():
            for key, wanted in when.items() if name in params else ():
                if key not in params or not meets(wanted, params[key]):
                    _refuse(self._study, f"{where}: {name} is there only where {key} is {one_of(wanted)}")
        for name, value in self._defaults.items():
            if (
                name not in params
                and isinstance(value, bool | int | float | str)
                and all(
                    key in params and meets(wanted, params[key])
                    for key, wanted in self._conditions.get(name, {}).items()
                )
            ):
                params[name] = value
        return entry.model_copy(update={"params": params})

    def _check(self, name: str, parameter: Parameter, space: Mapping[str, Parameter]) -> Parameter:
        values = tuple(self._value(f"space.{name}", name, value) for value in parameter.values)
        if parameter.when and name in self._needed:
            _refuse(self._study, f"space.{name} is needed in every trial, so it can have no 'when'")
        own = {key: possible(wanted, space.get(key)) for key, wanted in self._conditions.get(name, {}).items()}
        when = {**own, **parameter.when}
        for key, wanted in self._conditions.get(name, {}).items():
            if not all(meets(wanted, one) for one in (when[key] if isinstance(when[key], tuple) else (when[key],))):
                _refuse(self._study, f"space.{name}.when: it has an effect only where {key} is {one_of(wanted)}")
        if isinstance(parameter, IntRange) and not all(isinstance(value, int) for value in values):
            if parameter.step != 1:
                _refuse(self._study, f"space.{name} is no whole number, so it can have no 'step'")
            return FloatRange(low=values[0], high=values[1], log=parameter.log, when=when)
        changed = {"choices": values} if not isinstance(parameter, FloatRange | IntRange) else {}
        return parameter.model_copy(update={"when": when, **changed})

    def _value(self, where: str, name: str, value: Value) -> Any:
        if name not in self._rules:
            if not self._is_closed:
                return value
            _refuse(self._study, f"{where}: no parameter has this name; {suggestion(name, self._rules)}")
        try:
            return self._rules[name].validate_python(value)
        except ValidationError as error:
            is_listed_rate = self._training and name == LEARNING_RATE and where.startswith("trial")
            hint = f"; {RANGE_TEST!r} finds one" if is_listed_rate else ""
            raise StudyError(f"study {self._study!r}: {explain(error, within=where)}{hint}") from error


def _rule(annotation: Any) -> Any:
    """Returns the type by which a keyword's values are checked; anything that a study can say where there is none."""
    plain = annotation in (bool, int, float, str) or get_origin(annotation) in (Literal, Annotated)
    return annotation if plain else Value


def _check_published(entry: Entry, metric: Metric, study: str) -> None:
    """Makes sure that a published figure is one of the metric's."""
    if entry.published is None:
        return
    low, high, published = metric.low, metric.high, entry.published
    width = None if low is None or high is None else high - low
    for key, value, least, most in (("mean", published.mean, low, high), ("std", published.std, 0.0, width)):
        if (least is not None and value < least) or (most is not None and value > most):
            if least is None or most is None:
                reach = f"at least {least:g}" if most is None else f"at most {most:g}"
            else:
                reach = f"between {least:g} and {most:g}"
            _refuse(study, f"trial {entry.label!r}: published.{key} must be {reach}, but is {shown(value)}")


def _refuse(study: str, complaint: str) -> NoReturn:
    raise StudyError(f"study {study!r}: {complaint}")
