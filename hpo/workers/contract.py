"""What a task promises, found out by measuring: `hpo check --contract`, and the tests of every task that hpo brings.

Averages over rounds, paired differences and fresh rounds mean what they say only where a round is the same whenever and
with whomever it is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from hpo.study.definition import StudyDefinition
from hpo.study.examples import KEPT_AS_FILE
from hpo.study.loading import LoadedTask, open_task
from hpo.study.task import Measurement, Params, Round, Task
from hpo.workers.messages import Promise

ROUNDS = 3
EPOCHS = 2  # of a network, instead of its study's
SHAPE = "what is measured is numbers, of every round, that JSON can say"
SEEDS = "other seeds give other numbers"
ROUNDING = 1e-6  # of the largest number, in float64

Errors = Mapping[str, Sequence[float]]


def find_faults(
    loaded: LoadedTask,
    definition: StudyDefinition,
    params: Params,
    other: Params,
    device: str,
    say: Callable[[str], None],
) -> list[Promise]:
    """Returns every promise of a task, its data prepared, and where it breaks one.

    Args:
        params: a configuration that it can measure.
        other: another one, which it may fail to measure.
        say: is told which promise is looked at.
    """
    training = definition.training
    if training is not None:
        short = training.model_copy(update={"epochs": min(EPOCHS, training.epochs), "evaluate_at": (1,)})
        definition = definition.model_copy(update={"training": short})
        params, other = (_shortened(one, short.epochs) for one in (params, other))
    first = definition.protocol.first_round
    rounds = [Round(first + number, definition.protocol.seed) for number in range(ROUNDS)]

    def opened(**how: Any) -> Task:
        return open_task(definition, loaded, device, **how)

    promises: dict[str, str] = {}
    for chosen, between in ((params, other), (other, params)):
        is_first = chosen is params
        try:
            for text, faults in _looks(opened, chosen, between, rounds, trains=training is not None):
                say(text)
                fault = next(faults, "")
                before = promises.get(text, "")
                # One of two configurations may come to the same with every seed, as one that learns nothing.
                promises[text] = (before and fault) if text == SEEDS and not is_first else (before or fault)
        except Exception:
            if is_first:
                raise
    return [Promise(text, fault) for text, fault in promises.items()]


def _shortened(params: Params, epochs: int) -> Params:
    """Returns a configuration whose own epochs, where it has such, are at most so many."""
    return {name: min(int(value), epochs) if name == "epochs" else value for name, value in params.items()}


def _looks(
    opened: Callable[..., Task], params: Params, other: Params, rounds: Sequence[Round], *, trains: bool
) -> Iterator[tuple[str, Iterator[str]]]:
    """Yields each promise, with what finds out where a configuration breaks it."""
    task = opened()
    whole = list(task.measure(dict(params), rounds))
    if fault := next(_shape(whole, task), ""):
        yield SHAPE, iter([fault])
        return
    last = _last(whole)

    def again(between: Params | None = None, stop: int | None = None) -> Iterator[str]:
        if between is not None:
            with suppress(Exception):
                _measure_until(task, between, rounds, stop)
        yield from _differences(last, _errors(task, params, rounds))

    looks = {
        SHAPE: iter(()),
        "the same seeds give the same numbers": again(),
        "nothing of another configuration is left": again(other),
        "nothing of an interrupted measurement is left": again(params, stop=1),
        "a configuration is not changed": _unchanged(task, params, rounds),
        "a round is the same alone": _alone(opened(is_exact=True) if trains else task, params, rounds, trains=trains),
        SEEDS: _same_in_every_round(last, task),
    }
    if trains:
        looks["stacked and looped rounds agree"] = _ways(opened, params, rounds)
    yield from looks.items()


def _last(measured: Iterable[Measurement]) -> Errors:
    return [one for one in measured if one.errors][-1].errors


def _errors(task: Task, params: Params, rounds: Sequence[Round]) -> Errors:
    return _last(list(task.measure(dict(params), rounds)))


def _shape(measured: Sequence[Measurement], task: Task) -> Iterator[str]:
    names, step = {metric.name for metric in task.metrics}, 0
    for one in measured:
        if one.step <= step:
            yield f"step {one.step} comes after step {step}"
        step = one.step
        if one.errors and set(one.errors) != names:
            yield f"at step {step} it measures {', '.join(sorted(one.errors))}, but its metrics are {', '.join(names)}"
        for name, errors in one.errors.items():
            if len(errors) != ROUNDS:
                yield f"at step {step} there are {len(errors)} numbers of {name} for {ROUNDS} rounds"
            if not all(isinstance(error, int | float) and math.isfinite(error) for error in errors):
                yield f"at step {step} {name} is {list(errors)}"
        try:
            details = {name: value for name, value in one.details.items() if name != KEPT_AS_FILE}
            json.dumps({"errors": one.errors, "details": details, "diverged": list(one.diverged)})
        except (TypeError, ValueError) as fault:
            yield f"at step {step}: {fault}"
    if not measured or measured[-1].fraction != 1 or not measured[-1].errors:
        yield "its last measurement has no errors, or a fraction that is not 1"
    for metric in task.metrics:
        for error in _last(measured)[metric.name]:
            low, high = (-math.inf if metric.low is None else metric.low), metric.high
            if not low <= error <= (math.inf if high is None else high):
                yield f"{metric.name} is {error}, but is to be between {metric.low} and {metric.high}"


def _same_in_every_round(measured: Errors, task: Task) -> Iterator[str]:
    ends = {metric.name: (metric.low, metric.high) for metric in task.metrics}  # where even chance changes nothing
    if all(len(set(errors)) == 1 and errors[0] not in ends[name] for name, errors in measured.items()):
        yield f"every round comes to {next(iter(measured.values()))[0]!r}: does it use its seed?"


def _differences(expected: Errors, found: Errors, rounding: float = 0.0, what: str = "then") -> Iterator[str]:
    for name, errors in expected.items():
        for number, (one, other) in enumerate(zip(errors, found[name], strict=True)):
            if not abs(one - other) <= rounding * max(abs(one), abs(other), 1.0):  # nor where one is no number
                yield f"in round {number} its {name} is {one!r}, {what} {other!r}"


def _measure_until(task: Task, params: Params, rounds: Sequence[Round], stop: int | None) -> None:
    """Measures until so many steps are done, and leaves it at that; None measures to the end."""
    with closing(task.measure(dict(params), rounds)) as steps:  # type: ignore[type-var]
        for number, _ in enumerate(steps, 1):
            if number == stop:
                return


def _unchanged(task: Task, params: Params, rounds: Sequence[Round]) -> Iterator[str]:
    given = dict(params)
    list(task.measure(given, rounds))
    if given != params:
        yield f"it was {params}, and is {given}"


def _alone(task: Task, params: Params, rounds: Sequence[Round], *, trains: bool) -> Iterator[str]:
    together = _errors(task, params, rounds)
    backwards = _errors(task, params, rounds[::-1])
    rounding = ROUNDING if trains else 0.0
    for number, one in enumerate(rounds):
        alone = _errors(task, params, [one])
        for name, errors in together.items():
            among = {"alone": alone[name][0], "in another order": backwards[name][ROUNDS - 1 - number]}
            for what, error in among.items():
                if not abs(errors[number] - error) <= rounding * max(abs(error), 1.0):
                    yield f"in round {number} its {name} is {errors[number]!r}, {what} {error!r}"


def _ways(opened: Callable[..., Task], params: Params, rounds: Sequence[Round]) -> Iterator[str]:
    """Compares what is chosen with a plain loop, both in float64."""
    chosen, looped = (_errors(opened(is_exact=True, stacked=way), params, rounds) for way in (None, False))
    yield from _differences(looped, chosen, ROUNDING, "in the way that is chosen")
