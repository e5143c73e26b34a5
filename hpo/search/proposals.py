"""What proposes configurations: Optuna's samplers, and others that Optuna has not or not exactly.

A grid's and a sequence's points go by the slot of a trial, so each is measured once, whoever dies. Nothing of a sampler
is kept in the storage but numbers: Optuna's CmaEsSampler keeps its state there as a pickle, by which whoever can write
to a database could have workers run anything; here its state is found anew, from the trials.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import islice
from random import Random
from typing import Any

import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.seeding import derive_seed
from hpo.storage.backends import experimental
from hpo.storage.trial_attributes import is_ours
from hpo.storage.trials import all_trials, enqueued_params
from hpo.study.definition import StudyDefinition
from hpo.study.repetition import configurations, identity_of, neighbours
from hpo.study.search import CmaEsSampler, QmcSampler, free_ranges
from hpo.study.space import Choices, IntRange, Parameter, Space, in_order, is_there
from hpo.study.task import Params, Value


def make_search(definition: StudyDefinition, slot: int, seed: int) -> BaseSampler:
    """Returns what searches a study's space, for the trial of a slot.

    Args:
        seed: of what is drawn for this trial alone.
    """
    sampler, space = definition.sampler, definition.space
    settings = sampler.model_dump(exclude={"name"})
    if sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if sampler.name == "grid":
        return Given(next(islice(configurations(space), slot, None), {}), space)
    if isinstance(sampler, QmcSampler):
        return Given(_sequence_point(sampler, space, slot, derive_seed(definition.protocol.seed, "sequence")), space)
    with experimental():
        if sampler.name == "gp":
            return optuna.samplers.GPSampler(seed=seed, **settings)
        if isinstance(sampler, CmaEsSampler):
            return _CmaEs(space, slot, seed=seed, **settings)
        return optuna.samplers.TPESampler(seed=seed, **settings)


def _sequence_point(sampler: QmcSampler, space: Space, slot: int, seed: int) -> dict[str, Value]:
    """Returns the configuration at a place of a low-discrepancy sequence."""
    from scipy.stats import qmc

    kind = {"sobol": qmc.Sobol, "halton": qmc.Halton}[sampler.qmc_type]
    sequence = kind(len(space), scramble=sampler.scramble, rng=seed)
    if slot:
        sequence.fast_forward(slot)
    point = sequence.random(1)[0].tolist()
    return {name: _value_at(parameter, share) for (name, parameter), share in zip(space.items(), point, strict=True)}


def _value_at(parameter: Parameter, share: float) -> Value:
    """Returns the value that stands at a share of a parameter, in [0, 1)."""
    if isinstance(parameter, Choices):
        return parameter.choices[int(share * parameter.size)]
    if isinstance(parameter, IntRange) and not parameter.log:
        return parameter.low + parameter.step * int(share * parameter.size)
    low, high = parameter.low, parameter.high
    if isinstance(parameter, IntRange):
        drawn = math.exp(_between(math.log(low - 0.5), math.log(high + 0.5), share))
        return min(high, max(low, round(drawn)))
    number = math.exp(_between(math.log(low), math.log(high), share)) if parameter.log else _between(low, high, share)
    return min(high, max(low, number))  # the logarithm rounds


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


class _CmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's CmaEsSampler, whose state is found anew from the trials that were finished first in each generation.

    What it draws goes by the trial's number; here by its slot, for an interrupted trial is begun again by another one.
    """

    def __init__(self, space: Space, slot: int, **settings: Any) -> None:
        super().__init__(warn_independent_sampling=False, **settings)
        self._slot = slot
        self._ranges = {name: distribution_of(one) for name, one in free_ranges(space).items()}
        self._asked: tuple[optuna.Study, dict[str, BaseDistribution]]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._ranges)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._asked = study, search_space
        return super().sample_relative(study, numbered(trial, self._slot), search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        study, space = self._asked
        transform = _SearchSpaceTransform(space, transform_step=True, transform_0_1=True)
        optimizer = self._init_optimizer(transform, study.direction)
        sign = 1 if study.direction is StudyDirection.MINIMIZE else -1
        finished = sorted(completed_trials, key=lambda one: (one.datetime_complete, one.number))
        while True:
            generation = self._get_solution_trials(finished, optimizer.generation)[: optimizer.population_size]
            if len(generation) < optimizer.population_size:
                return optimizer
            optimizer.tell([(transform.transform(one.params), sign * (one.value or 0.0)) for one in generation])


def numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    """Returns a trial as if it had another number."""
    other = copy.copy(trial)
    other.number = number
    return other


class Given(BaseSampler):
    """Proposes one given configuration.

    Args:
        space: whose first values stand in for what the configuration lacks, as an enqueued trial may ask for.
    """

    def __init__(self, params: Params, space: Space | None = None) -> None:
        self.params = params
        self._first = {name: parameter.values[0] for name, parameter in (space or {}).items()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: D102
        return {}

    def sample_relative(  # noqa: D102
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(  # noqa: D102
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.params.get(param_name, self._first.get(param_name))


class Unmeasured(BaseSampler):
    """Proposes what a sampler does, and where that is measured or running already, the nearest that is not.

    Needs the start lock from before the first parameter is suggested until all of them are stored.
    """

    def __init__(self, sampler: BaseSampler, space: Space, random: Random) -> None:
        self._sampler, self._space, self._random = sampler, space, random
        self._chosen: Mapping[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: D102
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(  # noqa: D102
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        enqueued = enqueued_params(trial) or {}
        space = {name: _only(one, enqueued[name]) if name in enqueued else one for name, one in self._space.items()}
        proposed = self._propose(study, trial, space, self._sampler.sample_relative(study, trial, search_space))
        others = all_trials(study, (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
        taken = {identity_of(other.params) for other in others if is_ours(other) and other.number != trial.number}
        free = (one for one in neighbours(space, proposed, self._random) if identity_of(one) not in taken)
        self._chosen = proposed if identity_of(proposed) not in taken else next(free, proposed)
        return {}

    def _propose(
        self, study: optuna.Study, trial: FrozenTrial, space: Space, drawn: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns what the sampler's own trial would have, parameter by parameter."""
        proposed: dict[str, Any] = {}
        for name, parameter in in_order(space):
            if not is_there(parameter, proposed):
                continue
            if parameter.size == 1:
                proposed[name] = parameter.values[0]
            elif name in drawn:
                proposed[name] = drawn[name]
            else:
                proposed[name] = self._sampler.sample_independent(study, trial, name, distribution_of(parameter))
        return proposed

    def sample_independent(  # noqa: D102
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._chosen:
            return self._chosen[param_name]
        # An enqueued trial has given another value to what this parameter depends on.
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def _only(parameter: Parameter, value: Any) -> Parameter:
    """Returns a parameter that takes one value of what it took."""
    if isinstance(parameter, Choices):
        return parameter.model_copy(update={"choices": (value,)})
    return parameter.model_copy(update={"low": value, "high": value})


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Returns a parameter as Optuna has it."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
