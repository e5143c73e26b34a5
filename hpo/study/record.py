"""What is kept of a trial's measurements: its value, and its user attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from hpo.study.examples import KEPT_AS_FILE, ExampleOutcomes
from hpo.study.examples import joined as all_of
from hpo.study.task import Measurement, Metric

DECIMALS = 6  # of a mean over examples; 2.74 need not be kept as 2.7399999999999998
DIGITS = 12  # of any other error


class Record:
    """Collects the measurements of a trial.

    Args:
        metrics: all that is measured.
        objective: the name of the one that counts.
        by_rounds: whether a step is a round, so that of each step the last error is new.
    """

    def __init__(self, metrics: Sequence[Metric], objective: str, *, by_rounds: bool = False) -> None:
        self._metrics, self._objective = {metric.name: metric for metric in metrics}, objective
        self._by_rounds, self._new = by_rounds, slice(-1, None) if by_rounds else slice(None)
        self._last: Mapping[str, list[float]] = {}
        self._diverged: list[int] = []
        self._by_step: dict[int, list[float]] = {}
        self._details: dict[str, Any] = {}
        self._matrices: list[Any] = []
        self._examples: list[ExampleOutcomes] = []
        self._parameters: int | None = None

    def add(self, measured: Measurement) -> None:
        """Takes what is known after another step."""
        if "losses" in measured.details:
            self._details.setdefault("losses_by_step", []).append(_shortened(measured.details["losses"]))
        for layer, norms in measured.details.get("gradient_norms", {}).items():
            self._details.setdefault("gradient_norms", {}).setdefault(layer, []).append(_shortened(norms))
        self._parameters = measured.details.get("parameters", self._parameters)
        if "confusion_matrices" in measured.details:
            self._matrices = [*self._earlier(self._matrices), *measured.details["confusion_matrices"]]
        if (examples := measured.details.get(KEPT_AS_FILE, {}).get(self._objective)) is not None:
            self._examples = [*self._earlier(self._examples), examples]
        if measured.errors:
            self._last = {name: list(errors) for name, errors in measured.errors.items()}
            self._diverged = list(measured.diverged)
            self._by_step[measured.step] = self._rounded(self._objective)[self._new]

    def _earlier(self, kept: list[Any]) -> list[Any]:
        """Returns what is kept of earlier steps: nothing, but where each is a round of its own."""
        return kept if self._by_rounds else []

    @property
    def value(self) -> float:
        """The mean error of the rounds when they were last measured."""
        return _rounded(fmean(self._last[self._objective]), self._metrics[self._objective])

    @property
    def errors(self) -> list[float]:
        """The error of each round when they were last measured."""
        return self._rounded(self._objective)

    @property
    def curve(self) -> dict[int, float]:
        """The mean error after each step at which it was measured."""
        return {step: fmean(errors) for step, errors in self._by_step.items()}

    @property
    def reported(self) -> float:
        """The mean error of what the last step has measured."""
        metric = self._metrics[self._objective]
        return _rounded(fmean(self._last[self._objective][self._new]), metric)

    @property
    def examples(self) -> ExampleOutcomes | None:
        """What became of each test example in all rounds, by the objective; None where that is not known."""
        return all_of(self._examples) if self._examples else None

    def kept(self, *, whole: bool) -> dict[str, Any]:
        """Returns the attributes of a trial that was measured to the end, or was pruned."""
        kept = {"errors_by_step": self._by_step, **self._details}
        if self._matrices:
            kept["confusion_matrices"] = self._matrices
        if not whole:
            return kept
        errors = self._last[self._objective]
        return {
            **kept,
            "errors": self.errors,
            **{f"errors_{name}": self._rounded(name) for name in self._last},
            **({} if self._parameters is None else {"parameters": self._parameters}),
            "std": stdev(errors) if len(errors) > 1 else None,
            "diverged_rounds": self._diverged,
        }

    def after(self, earlier: Record | None) -> Record:
        """Returns a record of an earlier group's rounds and then these; of steps that these have not, as they are."""
        if earlier is None:
            return self
        joined = Record(list(self._metrics.values()), self._objective)
        joined._last = {name: [*earlier._last[name], *errors] for name, errors in self._last.items()}
        joined._parameters = self._parameters
        joined._diverged = [*earlier._diverged, *(len(earlier._last[self._objective]) + r for r in self._diverged)]
        joined._by_step = {step: [*errors, *self._by_step.get(step, [])] for step, errors in earlier._by_step.items()}
        joined._matrices = [*earlier._matrices, *self._matrices]
        joined._examples = [*earlier._examples, *self._examples]
        joined._details = {name: _beside(kept, self._details.get(name)) for name, kept in earlier._details.items()}
        return joined

    def _rounded(self, name: str) -> list[float]:
        return [_rounded(error, self._metrics[name]) for error in self._last[name]]


def _beside(earlier: Any, later: Any) -> Any:
    """Returns details of an earlier group's rounds and a later's: lists of rounds, by step or by layer and step."""
    if isinstance(earlier, dict):
        return {key: _beside(kept, (later or {}).get(key)) for key, kept in earlier.items()}
    joined = [list(rounds) for rounds in earlier]
    for step, rounds in enumerate(later or []):
        joined[step] += rounds  # no trial comes to a step that its earlier rounds have not
    return joined


def _shortened(values: list[float]) -> list[float | None]:
    """Returns numbers to six digits; None for one that is not finite, which JSON has no word for."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _rounded(error: float, metric: Metric) -> float:
    return float(f"{error:.{DIGITS}g}") if metric.resolution is None else round(error, DECIMALS)
