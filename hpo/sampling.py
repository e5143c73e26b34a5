"""How a trial gets its configuration: a study's sampler, seeded for the trial's place, proposes it; its pruner ends it.

What is proposed in a slot is seeded by the study's seed, the slot, and how many trials failed by an error there, but
not by interruptions. So two workers never make the same proposal by accident. With one worker a study comes out the
same to the digit, whatever was interrupted in between: TPE looks at finished trials in their order, and never at failed
ones. With several it also looks at what happens to be running, so what it proposes depends on who was faster; random
search does not look, and proposes the same with any number of workers.

The sampler is built afresh for each trial, because Optuna's samplers cannot be given a seed later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from .errors import suggestion
from .pruning import PowerLawPruner
from .seeding import derive_seed
from .space import RANGE_TEST, Choices, Configuration, ListedConfiguration, Range, Setup
from .storage import enqueued_params, experimental
from .study import StudyDefinition


@dataclass(frozen=True)
class Place:
    """A free slot of a study, and how many trials failed in it by an error in training."""

    slot: int
    failures: int


def make_sampler(definition: StudyDefinition, place: Place) -> BaseSampler:
    """Returns the sampler of one trial: the study's, seeded for the slot; or the listed configuration itself."""
    if definition.trial:
        return _Listed(definition.trial[place.slot].params)
    seed = derive_seed(definition.protocol.seed, "sampler", place.slot, place.failures)
    arguments = definition.sampler.model_dump(exclude={"name"})
    if definition.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with experimental():  # group=True
        return optuna.samplers.TPESampler(seed=seed, **arguments)


def make_pruner(definition: StudyDefinition) -> BasePruner:
    """Returns the study's pruner."""
    if definition.pruner.name == "power_law":
        return PowerLawPruner(last_step=definition.protocol.epochs, margin=definition.pruner.margin)
    pruners: Mapping[str, type[BasePruner]] = {
        "none": optuna.pruners.NopPruner,
        "percentile": optuna.pruners.PercentilePruner,
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    }
    return pruners[definition.pruner.name](**definition.pruner.model_dump(exclude={"name"}))


def enqueued_fault(trial: optuna.Trial, definition: StudyDefinition) -> str | None:
    """Says why a trial cannot be measured with the parameters that somebody has enqueued it with, if it cannot.

    Optuna would take any value, and only warn. A list measures its own entries and nothing else.
    """
    params = enqueued_params(trial)
    if definition.trial and params:
        return "this study is a list, which measures its own entries alone"
    for name, value in params.items():
        if name not in definition.space:
            return f"there is no parameter named {name!r}; {suggestion(name, definition.space)}"
        parameter = definition.space[name]
        if not parameter.holds(value):
            return f"{name} must be {parameter}, but is {value!r}"
        for key, wanted in parameter.when.items():
            if key in params and params[key] != wanted:
                return f"{name} is there only where {key} is {wanted!r}, but that is {params[key]!r}"
    return None


FindRate = Callable[[Setup], float]


def suggest(trial: optuna.Trial, definition: StudyDefinition, find_rate: FindRate | None = None) -> Configuration:
    """Lets the trial's sampler propose a configuration from the study's space.

    Args:
        find_rate: makes a range test and returns its optimum, for listed trials that leave their rate to it.
    """
    if isinstance(trial.study.sampler, _Listed):
        return _suggest_listed(trial, definition, trial.study.sampler.listed, find_rate)
    proposed: dict[str, Any] = {}
    # Unconditional parameters first: the others ask for their values.
    for name, parameter in sorted(definition.search_space.items(), key=lambda item: bool(item[1].when)):
        if any(proposed[key] != value for key, value in parameter.when.items()):
            continue
        if isinstance(parameter, Choices):
            proposed[name] = trial.suggest_categorical(name, parameter.choices)
        else:
            proposed[name] = trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    return Configuration(**proposed)


def _suggest_listed(
    trial: optuna.Trial, definition: StudyDefinition, listed: ListedConfiguration, find_rate: FindRate | None
) -> Configuration:
    space = definition.search_space
    params = listed.model_dump(exclude_none=True)
    if listed.learning_rate == RANGE_TEST:
        if find_rate is None:
            raise ValueError("this objective makes no range tests")
        params["learning_rate"] = find_rate(Setup(**{key: params[key] for key in Setup.model_fields if key in params}))
        space["learning_rate"] = Range(low=params["learning_rate"], high=params["learning_rate"])
    for name, parameter in space.items():
        if name not in params or any(params[key] != value for key, value in parameter.when.items()):
            continue
        if isinstance(parameter, Choices):
            trial.suggest_categorical(name, parameter.choices)
        else:
            trial.suggest_float(name, parameter.low, parameter.high)
    return Configuration(**params)


class _Listed(BaseSampler):
    """Proposes one given configuration."""

    def __init__(self, listed: ListedConfiguration) -> None:
        self.listed = listed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return getattr(self.listed, param_name)
