"""The best configuration to expect: what all trials together say of the space, each believed as far as it may be.

A search's winner owes some of its place to luck. A Gaussian process over all trials weighs each mean by its standard
error, which is known from its rounds, and draws strength from like configurations: the best to expect may be a trial
that was not the luckiest, or where no trial was. It is the one whose interval ends lowest, so that nothing is chosen
for being unknown. Trials that were pruned count by where their curves were heading, with a wide error. What it says is
a guess by a model: fresh rounds are the judge.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.fresh_rounds import EXPECTED
from hpo.analysis.results import read_best, read_trial
from hpo.analysis.statistics import Interval
from hpo.errors import RequestError, StorageError
from hpo.search.pruners import extrapolate
from hpo.seeding import derive_seed
from hpo.storage.queries import StoredTrial, read_trials
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.definition import StudyDefinition
from hpo.study.repetition import identity_of
from hpo.study.space import Choices, FloatRange, IntRange, Space
from hpo.study.task import Params, Value
from hpo.text.formatting import count, spread

Array = npt.NDArray[np.float64]

FEWEST_ROUNDS = 2  # of a trial: of one there is no deviation, and a model would believe it exactly
FEWEST_TRIALS = 10  # measured to the end: of fewer a model learns next to nothing
MOST_TRIALS = 600  # a Gaussian process takes the cube of their number: those to the end, and then the last pruned
BEST = 10  # trials whose numbers are varied: further from what was measured a model is sure of what it cannot know
NEAR = 100  # variations of each
SPREAD = 0.05  # of a variation, as a share of a parameter's range
CURVE_ERROR = 0.3  # of a pruned trial's last error, drawn on, as a share of it
QUANTILE = 1.96  # of a normal distribution: 95 %


@dataclass(frozen=True)
class Expected:
    """The configuration of which most can be expected.

    Attributes:
        trial: the trial that measured it; None for a configuration that no trial has.
        error: the expected mean error over rounds like the study's, with its interval.
        best: the number of the study's best trial, and what is expected of that.
        seconds_a_round: what a round of it takes, by the trials that were most like it.
        trials: how many were learnt from, and of these measured to the end.
    """

    study: str
    params: dict[str, Any]
    trial: int | None
    error: Interval
    best: int
    of_best: Interval
    seconds_a_round: float
    trials: int
    whole: int
    metric: MetricCard

    def __str__(self) -> str:
        which = "a configuration that no trial has" if self.trial is None else f"trial {self.trial}"
        return (
            f"study {self.study}: most can be expected of {which}, {self.metric.title} "
            f"{spread(self.error.estimate, None, self.metric.unit)} (95 %: {self.error.text(self.metric.unit)})"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as a notebook shows it
        printer.text(str(self))


def read_expected(storage: RDBStorage, study: str) -> Expected:
    """Returns the configuration of a search of which most can be expected.

    Raises:
        RequestError: where the study lists its trials: there is no space to learn of; or has one round a trial.
        StorageError: where too few trials were measured to the end.
    """
    definition, metric = read_definition(storage, study), read_card(storage, study).metric
    if definition.trial:
        raise RequestError(f"study {study!r} lists its trials; an expectation is of a search over a space")
    if definition.protocol.rounds < FEWEST_ROUNDS:
        raise RequestError(
            f"study {study!r} has one round a trial, which does not say how far its error may be off; it takes "
            f"{FEWEST_ROUNDS} to expect anything of others"
        )
    trials = _learnt_from(read_trials(storage, study, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    whole = [trial for trial in trials if trial.value is not None]
    if len(whole) < FEWEST_TRIALS:
        raise StorageError(
            f"study {study!r} has {count(len(whole), 'trial')} that {'was' if len(whole) == 1 else 'were'} measured to "
            f"the end, but it takes {FEWEST_TRIALS} to expect anything of others"
        )
    scale = _Scale(metric, trials)
    points = [point for trial in trials if (point := scale.point(trial, definition)) is not None]
    model = Surrogate(definition.search_space, [trial.params for trial, *_ in points])
    model.fit(np.array([value for _, value, _ in points]), np.array([noise for *_, noise in points]))
    best = read_best(storage, study)
    candidates = _candidates(definition, whole, metric)
    means, deviations = model.predict(candidates)
    chosen = int(np.argmin(means + QUANTILE * deviations))
    known = {identity_of(trial.params): trial.number for trial in reversed(whole)}
    (of_best,), (deviation,) = model.predict([best.params])
    return Expected(
        study=study,
        params=candidates[chosen],
        trial=known.get(identity_of(candidates[chosen])),
        error=scale.interval(means[chosen], deviations[chosen]),
        best=best.trial,
        of_best=scale.interval(of_best, deviation),
        seconds_a_round=_seconds(model, candidates[chosen], whole) / definition.protocol.rounds,
        trials=len(points),
        whole=len(whole),
        metric=metric,
    )


def as_trial(storage: RDBStorage, found: Expected) -> StoredTrial:
    """Returns the configuration as a trial to be confirmed: its own, where it has one."""
    if found.trial is not None:
        return read_trial(storage, found.study, found.trial)
    return StoredTrial(EXPECTED, TrialState.COMPLETE, found.error.estimate, None, None, found.params, {})


class _Scale:
    """How errors are looked at: their logarithm, where they have one, so that a point of 2 % counts as ten of 20 %.

    Args:
        trials: all that are learnt from.
    """

    def __init__(self, metric: MetricCard, trials: Sequence[StoredTrial]) -> None:
        values = [trial.value for trial in trials if trial.value is not None]
        self._metric, self._smallest = metric, metric.smallest or 0.0
        self._is_logarithmic = not metric.maximize and metric.low == 0 and min(values) + self._smallest > 0

    def point(self, trial: StoredTrial, definition: StudyDefinition) -> tuple[StoredTrial, float, float] | None:
        """Returns a trial with where its error lies and the standard error of that; None where it says nothing."""
        rounds = definition.protocol.rounds
        if trial.value is not None:
            error = (trial.attributes.get("std") or 0.0) / rounds**0.5
            return trial, *self._at(trial.value, max(error, self._smallest / rounds))
        curve = {int(step): fmean(errors) for step, errors in (trial.attributes.get("errors_by_step") or {}).items()}
        if not curve:
            return None
        heading = curve[max(curve)]
        if self._is_logarithmic and len(curve) > 1 and definition.steps and min(curve.values()) > 0:
            heading = extrapolate(curve, definition.steps)
        return trial, *self._at(heading, CURVE_ERROR * abs(heading))

    def _at(self, value: float, error: float) -> tuple[float, float]:
        if not self._is_logarithmic:
            return self._metric.sign * value, error
        shifted = max(value, 0.0) + self._smallest
        return math.log(shifted), error / shifted

    def interval(self, mean: float, deviation: float) -> Interval:
        """Returns an expectation with its 95 % interval, in the metric's unit."""
        reach = QUANTILE * float(deviation)
        three = [float(mean), float(mean) - reach, float(mean) + reach]
        if self._is_logarithmic:
            estimate, low, high = (math.exp(one) - self._smallest for one in three)
        else:
            estimate, low, high = (three[0], *sorted(self._metric.sign * one for one in three[1:]))
            estimate *= self._metric.sign
        return Interval(estimate, low, high).within(self._metric.low, self._metric.high)


class Surrogate:
    """A Gaussian process over a space, whose observations have errors of their own.

    Args:
        configurations: that were measured.
    """

    def __init__(self, space: Space, configurations: Sequence[Params]) -> None:
        self._space = dict(space)
        self._known = self._coordinates(configurations)

    def fit(self, values: Array, errors: Array) -> None:
        """Learns from the measured configurations' values and their standard errors, (N,) each."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self._center, self._unit = float(np.median(values)), float(np.std(values)) or 1.0
        # What a kernel that is smooth cannot follow is noise to it, besides that of the rounds.
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(
            np.ones(self._known.shape[1]), (0.05, 50.0), nu=2.5
        ) + WhiteKernel(0.01, (1e-6, 1.0))
        noise = np.square(errors / self._unit) + 1e-8
        self._model = GaussianProcessRegressor(kernel, alpha=noise, n_restarts_optimizer=2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of a length at its bound: the parameter does nothing
            self._model.fit(self._known, (values - self._center) / self._unit)

    def predict(self, configurations: Sequence[Params]) -> tuple[Array, Array]:
        """Returns the expectation of configurations and its deviation, (N,) each."""
        means, deviations = self._model.predict(self._coordinates(configurations), return_std=True)
        return self._center + self._unit * means, self._unit * deviations

    def nearest(self, params: Params, amount: int) -> npt.NDArray[np.intp]:
        """Returns the places of the measured configurations that are most like one."""
        lengths = np.atleast_1d(self._model.kernel_.k1.k2.length_scale)
        distances = np.square((self._known - self._coordinates([params])) / lengths).sum(axis=1)
        return np.argsort(distances, kind="stable")[:amount]

    def _coordinates(self, configurations: Sequence[Params]) -> Array:
        """Returns points (N, D): a number from 0 to 1 for a range, one of several for choices; 0 where it is absent."""
        columns = []
        for name, parameter in self._space.items():
            values = [params.get(name) for params in configurations]
            if isinstance(parameter, Choices):
                if parameter.size > 1:
                    columns += [
                        [float(value is not None and _same(value, one)) for value in values]
                        for one in parameter.choices
                    ]
            elif parameter.size != 1:
                columns.append([_place(value, parameter) for value in values])
        return np.array(columns, dtype=float).T.reshape(len(configurations), -1)


def _same(value: Value, choice: Value) -> bool:
    return isinstance(value, bool) == isinstance(choice, bool) and value == choice


def _place(value: Any, parameter: FloatRange | IntRange) -> float:
    """Returns where a number lies in its range, from 0 to 1; the middle for one that is not there."""
    if value is None:
        return 0.5
    low, high, at = (math.log(one) if parameter.log else float(one) for one in (parameter.low, parameter.high, value))
    return (at - low) / (high - low)


def _learnt_from(trials: Sequence[StoredTrial]) -> list[StoredTrial]:
    """Returns the trials to learn from: those measured to the end, and as many others as a model can take."""
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE][-MOST_TRIALS:]
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    return [*whole, *pruned[max(0, len(pruned) - (MOST_TRIALS - len(whole))) :]]


def _candidates(definition: StudyDefinition, whole: Sequence[StoredTrial], metric: MetricCard) -> list[dict[str, Any]]:
    """Returns configurations to ask of: those measured, and the best of them with other numbers."""
    random = np.random.default_rng(derive_seed(definition.protocol.seed, "expected"))
    ranked = sorted(whole, key=lambda trial: metric.sign * (trial.value or 0.0))
    space = definition.search_space
    near = [_varied(space, random, trial.params) for trial in ranked[:BEST] for _ in range(NEAR)]
    return [*({**trial.params} for trial in ranked), *near]


def _varied(space: Space, random: np.random.Generator, params: Params) -> dict[str, Any]:
    """Returns a configuration whose numbers lie a little elsewhere in their ranges."""
    varied = dict(params)
    for name, parameter in space.items():
        if name in params and not isinstance(parameter, Choices) and parameter.size != 1:
            varied[name] = _at(float(np.clip(random.normal(_place(params[name], parameter), SPREAD), 0, 1)), parameter)
    return varied


def _at(place: float, parameter: FloatRange | IntRange) -> Value:
    """Returns the number at a place from 0 to 1."""
    low, high = (math.log(one) if parameter.log else float(one) for one in (parameter.low, parameter.high))
    value = low + place * (high - low)
    value = math.exp(value) if parameter.log else value
    if isinstance(parameter, FloatRange):
        return min(parameter.high, max(parameter.low, value))
    steps = round((value - parameter.low) / parameter.step)
    return min(parameter.high, parameter.low + steps * parameter.step)


def _seconds(model: Surrogate, params: Params, whole: Sequence[StoredTrial]) -> float:
    """Returns how long a trial of a configuration takes, by the five whole ones that are most like it."""
    likest = [whole[place] for place in model.nearest(params, len(whole) + MOST_TRIALS) if place < len(whole)][:5]
    return fmean(trial.attributes.get("seconds", 0.0) for trial in likest)
