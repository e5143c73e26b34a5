"""A function as a task: `(params, seed) -> error`, called once a round; or a generator that yields after each stage.

    def objective(params, seed):
        forest = RandomForestClassifier(**params, random_state=seed)
        return 100 * (1 - cross_val_score(forest, x, y).mean())

Neither torch nor anything else is imported for it. One that asks for `device` is given the worker's, as `cuda:0`.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits

from hpo import limits
from hpo.errors import StudyError
from hpo.provenance import cpu_name
from hpo.study.schema import Table, Words, shown
from hpo.study.task import Measurement, Metric, Params, Round
from hpo.threads import THREADS

GIVEN = ("params", "seed")


class FunctionSettings(Table):
    """What a study can say of a function.

    Attributes:
        metric: what its result is called.
        unit: of its result, as `%`.
        direction: whether less is better, or more.
        low, high: what it can be; None for no bound.
        worst: what stands in for a result that is not finite; with None such a trial fails.
        steps: how many times a generator yields, where that is known.
    """

    metric: Words = "error"
    unit: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    steps: Annotated[int, Field(ge=1, le=limits.COUNT)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must be below high, but they are {self.low:g} and {self.high:g}")
        return self


class Function:
    """Measures a function; a `Task`.

    Args:
        function: given a dictionary of parameters, and the seed of a round, in [0, 2**32).
        name: what it is called in messages.
    """

    def __init__(self, function: Callable[..., Any], name: str, settings: FunctionSettings) -> None:
        self._function, self._name, self._settings = function, name, settings
        self.has_steps = inspect.isgeneratorfunction(inspect.unwrap(function))
        self._more: dict[str, Any] = {}
        self.device = ""
        self.metrics: Sequence[Metric] = (
            Metric(
                settings.metric,
                unit=settings.unit,
                low=settings.low,
                high=settings.high,
                worst=settings.worst,
                maximize=settings.direction == "maximize",
            ),
        )

    @classmethod
    def of(
        cls, function: Callable[..., Any], settings: Mapping[str, Any], name: str
    ) -> tuple[Function, dict[str, Any]]:
        """Returns a function as a task, and its settings with every default.

        Raises:
            ValidationError: where a setting breaks a rule.
            StudyError: where it cannot be called with parameters and a seed.
        """
        chosen = FunctionSettings.model_validate(dict(settings))
        made = cls(function, name, chosen)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise StudyError(f"{name} is asynchronous, and must be a plain function")
        if chosen.steps is not None and not made.has_steps:
            raise StudyError(f"steps is for a function that yields, and {name} returns once")
        try:
            keywords = inspect.signature(function).parameters
        except (TypeError, ValueError) as error:
            raise StudyError(f"what {name} takes cannot be read: {error}") from error
        if "device" in keywords:
            made._more["device"] = ""
        try:
            inspect.signature(function).bind({}, 0, **made._more)
        except TypeError as error:
            raise StudyError(
                f"{name} must take (params, seed), but takes {inspect.signature(function)}: {error}"
            ) from error
        return made, chosen.model_dump(mode="json")

    def open(self, device: str) -> None:
        """Takes note of the device, and limits the threads of what computes in this process to one, as for networks."""
        name = "cpu" if device == "auto" else device
        self.device = f"{name} ({cpu_name()})" if name == "cpu" else name
        if self._more:
            self._more["device"] = name
        for variable in THREADS:  # of libraries that are yet to be imported
            os.environ[variable] = "1"
        threadpool_limits(1)

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Calls the function once a round; or lets the rounds yield in turn, stage after stage.

        A round that ends before the others keeps its last error. Whether a stage was the last is known when the next
        is asked for, so one round is a stage ahead.
        """
        calls = [self._call(params, one) for one in rounds]
        if not self.has_steps:
            yield self._measurement(1, 1.0, calls)
            return
        stages = _Stages(calls)
        try:
            values, step, steps = [math.nan] * len(calls), 0, self._settings.steps
            while stages.are_left():
                step += 1
                for r, value in stages.take().items():
                    values[r] = value
                is_last = not stages.are_left()
                if steps is not None and step >= steps and not is_last:
                    raise ValueError(f"{self._name} yields more often than task.steps = {steps} says")
                yield self._measurement(step, 1.0 if is_last else steps and step / steps, values)
            if not step:
                raise ValueError(f"{self._name} yields nothing")
        finally:
            stages.close()

    def _call(self, params: Params, one: Round) -> Any:
        return self._function(dict(params), one.seed("function"), **self._more)

    def _measurement(self, step: int, fraction: float | None, results: Sequence[Any]) -> Measurement:
        (metric,) = self.metrics
        errors = [self._number(result) for result in results]
        diverged = [r for r, error in enumerate(errors) if not math.isfinite(error)]
        if diverged and metric.worst is None:
            raise ValueError(
                f"{self._name} came to {errors[diverged[0]]}; task.worst = … says what such a result counts as"
            )
        worst = metric.worst or 0.0
        finite = [error if math.isfinite(error) else worst for error in errors]
        for error in finite:
            if (metric.low is not None and error < metric.low) or (metric.high is not None and error > metric.high):
                raise ValueError(f"{self._name} came to {error:g}, which is not within task.low and task.high")
        return Measurement(step, fraction, {metric.name: finite}, diverged)

    def _number(self, result: Any) -> float:
        """Returns a result as a number, of whatever library it is."""
        if getattr(result, "shape", None) == () and callable(getattr(result, "item", None)):
            result = result.item()  # of NumPy, of torch
        if isinstance(result, bool) or not isinstance(result, Real):
            does = "yield" if self.has_steps else "return"
            kind = "nothing" if result is None else f"{shown(result)} ({type(result).__name__})"
            raise TypeError(f"{self._name} must {does} a number, but came to {kind}")
        return float(result)


class _Stages:
    """Generators, one a round, that are asked in turn."""

    def __init__(self, rounds: Sequence[Iterator[Any]]) -> None:
        self._running = dict(enumerate(rounds))
        self._ahead: dict[int, Any] = {}

    def are_left(self) -> bool:
        """Says whether any round yields once more; asks no further than it must."""
        return any(self._has_next(r) for r in list(self._running))

    def take(self) -> dict[int, Any]:
        """Returns what the rounds that are not at their end yield next."""
        taken = {r: self._ahead.pop(r) for r in list(self._running) if self._has_next(r)}
        return taken

    def _has_next(self, r: int) -> bool:
        if r not in self._ahead:
            try:
                self._ahead[r] = next(self._running[r])
            except StopIteration:
                del self._running[r]
                return False
        return True

    def close(self) -> None:
        """Ends the generators where they are."""
        for running in self._running.values():
            running.close()  # type: ignore[attr-defined]
