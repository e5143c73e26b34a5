"""How a trial gets its configuration: a study's sampler, seeded for the trial's place, proposes it; its pruner ends it.

What is proposed in a slot is seeded by the study's seed, the slot, and how many trials failed by an error there, but
not by interruptions. So two workers never make the same proposal by accident. With one worker a study comes out the
same to the digit, whatever was interrupted in between: TPE looks at finished trials in their order, and never at failed
ones. With several it also looks at what happens to be running, so what it proposes depends on who was faster; random
search does not look, and proposes the same with any number of workers.

The sampler is built afresh for each trial, because Optuna's samplers cannot be given a seed later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from .pruning import PowerLawPruner
from .seeding import derive_seed
from .space import Choices, Configuration
from .storage import experimental
from .study import StudyDefinition


@dataclass(frozen=True)
class Place:
    """A free slot of a study, and how many trials failed in it by an error in training."""

    slot: int
    failures: int


def make_sampler(definition: StudyDefinition, place: Place) -> BaseSampler:
    """Returns the sampler of one trial: the study's, seeded for the slot; or the listed configuration itself."""
    if definition.trial:
        return _Listed(definition.trial[place.slot].params.model_dump())
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


def suggest(trial: optuna.Trial, definition: StudyDefinition) -> Configuration:
    """Lets the trial's sampler propose a configuration from the study's space."""
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


class _Listed(BaseSampler):
    """Proposes one given configuration."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._params[param_name]
