"""Prunes a trial whose learning curve, drawn on to the last epoch, ends above the best finished trial.

Test errors of small networks fall roughly as a power of the epoch (T. Viering and M. Loog, "The Shape of Learning
Curves: a Review", 2022), error = a * epoch**-b, a straight line between logarithms. What counts is where a curve will
end, not where it is: a small learning rate is far behind at epoch 4 and may win, a network at chance level never moves.
docs/results.md has this pruner beside Optuna's on recorded curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.trial import FrozenTrial, TrialState

from hpo.search.proposals import numbered

STEEPEST = 3.0  # a power of the epoch; steeper than any curve that was recorded, and it tames an error of zero
SPAN = 2  # reports back from the last: over one alone the slope is mostly noise


class PowerLawPruner(BasePruner):
    """Prunes where the extrapolated last value is above `margin` times the best value of the finished trials."""

    def __init__(self, *, last_step: int, margin: float) -> None:
        self._last_step = last_step
        self._margin = margin

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Says whether to prune; never before a second report, nor before a first trial has finished."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = [t.value for t in finished if t.value is not None]
        return bool(values) and self.ends_above(trial.intermediate_values, min(values))

    def ends_above(self, curve: Mapping[int, float], best: float) -> bool:
        """Says whether a learning curve will end above `margin` times the best; never before its second point."""
        return len(curve) > 1 and extrapolate(curve, self._last_step) > self._margin * best


class Hyperband(HyperbandPruner):
    """Optuna's, whose brackets go by slots and not by numbers: a trial that is begun again is of the same bracket."""

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return super()._get_bracket_id(study, numbered(trial, trial.user_attrs.get("slot", trial.number)))


def extrapolate(curve: Mapping[int, float], step: int) -> float:
    """Returns the value at `step` of the power law through the last point of a curve and the one `SPAN` before.

    A curve that rises is taken as level.

    Args:
        curve: step -> value, at least two, none negative.
    """
    points = sorted(curve.items())
    (early, before), (late, now) = points[max(0, len(points) - 1 - SPAN)], points[-1]
    if now <= 0 or before <= 0:
        return now
    exponent = math.log(now / before) / math.log(late / early)
    return now * math.pow(step / late, min(0.0, max(exponent, -STEEPEST)))
