"""What is kept of a trial's measurements: its value, and its user attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from hpo.study.task import Measurement

DECIMALS = 6  # of an error; 2.74 need not be kept as 2.7399999999999998


class Record:
    """Collects the measurements of a trial.

    Args:
        metric: the objective.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._last: Mapping[str, list[float]] = {}
        self._diverged: list[int] = []
        self._by_step: dict[int, list[float]] = {}
        self._details: dict[str, Any] = {}

    def add(self, measured: Measurement) -> None:
        """Takes what is known after another step."""
        if "losses" in measured.details:
            self._details.setdefault("losses_by_step", []).append(_shortened(measured.details["losses"]))
        for layer, norms in measured.details.get("gradient_norms", {}).items():
            self._details.setdefault("gradient_norms", {}).setdefault(layer, []).append(_shortened(norms))
        if measured.errors:
            self._last = {metric: list(errors) for metric, errors in measured.errors.items()}
            self._diverged = list(measured.diverged)
            self._by_step[measured.step] = _rounded(self._last[self._metric])

    @property
    def value(self) -> float:
        """The mean error of the rounds when they were last measured."""
        return round(fmean(self._last[self._metric]), DECIMALS)

    def kept(self, *, whole: bool) -> dict[str, Any]:
        """Returns the attributes of a trial that was measured to the end, or was pruned."""
        kept = {"errors_by_step": self._by_step, **self._details}
        if not whole:
            return kept
        errors = self._last[self._metric]
        return {
            **kept,
            "errors": _rounded(errors),
            **{f"errors_{metric}": _rounded(others) for metric, others in self._last.items()},
            "std": stdev(errors) if len(errors) > 1 else None,
            "diverged_rounds": self._diverged,
        }


def _shortened(values: list[float]) -> list[float | None]:
    """Returns numbers to six digits; None for one that is not finite, which JSON has no word for."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _rounded(errors: list[float]) -> list[float]:
    return [round(error, DECIMALS) for error in errors]
