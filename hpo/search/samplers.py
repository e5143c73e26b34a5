"""How a trial gets its configuration: a study's sampler, seeded for the trial's slot, proposes it; its pruner ends it.

What is proposed in a slot is seeded by the study's seed, the slot, and how many trials failed by an error there, but
not by interruptions. So two workers never make the same proposal by accident. With one worker a study comes out the
same to the digit, whatever was interrupted in between: TPE looks at finished trials in their order, and never at failed
ones. With several it also looks at what happens to be running, so what it proposes depends on who was faster; random
search does not look, and proposes the same with any number of workers.

Rounds are the same in every trial, so a configuration that comes again would give the same numbers. Where a space has
no range that every configuration draws from, another is proposed instead.

The sampler is built afresh for each trial, because Optuna's samplers cannot be given a seed later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import StudyError, suggestion
from hpo.search.proposals import Given, Unmeasured, distribution_of, make_search
from hpo.search.pruners import Hyperband, PowerLawPruner
from hpo.seeding import derive_seed
from hpo.storage.backends import experimental
from hpo.storage.trial_attributes import is_ours
from hpo.storage.trials import enqueued_params
from hpo.study.definition import StudyDefinition
from hpo.study.space import (
    LEARNING_RATE,
    Choices,
    FloatRange,
    IntRange,
    Parameter,
    in_order,
    is_there,
    meets,
    one_of,
)
from hpo.study.task import Params, Value
from hpo.study.training import leaves_rate

PRUNERS = {  # names of optuna.pruners
    "none": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
}


@dataclass(frozen=True)
class Slot:
    """A free slot of a study, and how many trials failed in it by an error in training."""

    slot: int
    failures: int


def make_sampler(definition: StudyDefinition, slot: Slot) -> BaseSampler:
    """Returns the sampler of one trial: the study's, seeded for the slot; or the listed configuration itself."""
    if definition.trial:
        return Given(definition.trial[slot.slot].params)
    search = make_search(
        definition, slot.slot, derive_seed(definition.protocol.seed, "sampler", slot.slot, slot.failures)
    )
    if not definition.avoids_repetition:
        return search
    random = Random(derive_seed(definition.protocol.seed, "neighbours", slot.slot, slot.failures))
    return Unmeasured(search, definition.space, random)


def make_pruner(definition: StudyDefinition) -> BasePruner:
    """Returns the study's pruner."""
    if definition.pruner.name == "power_law":
        if definition.steps is None:  # nobody resolved it
            raise StudyError("pruner 'power_law' needs to know how many steps a trial has")
        return PowerLawPruner(last_step=definition.steps, margin=definition.pruner.margin)
    settings = definition.pruner.model_dump(exclude={"name"})
    if definition.pruner.name == "hyperband" and definition.pruner.max_resource is None:
        settings["max_resource"] = definition.steps or "auto"
    with experimental():
        if definition.pruner.name == "hyperband":
            return Hyperband(**settings)
        made: BasePruner = getattr(optuna.pruners, PRUNERS[definition.pruner.name])(**settings)
    return made


def concerns(trial: FrozenTrial, definition: StudyDefinition) -> bool:
    """Says whether a trial is one that a sampler or pruner is to know of: ours, out of this space; or enqueued.

    Not one that failed or was given back: it is begun again, and what it had reported would count twice.
    One with another distribution, whoever gave it to it, would make TPE fail at every trial to come.
    """
    if trial.state is TrialState.WAITING:
        return True
    if trial.state is TrialState.FAIL:
        return False
    return is_ours(trial) and (bool(definition.trial) or not _misfits(trial.distributions, definition))


def _misfits(distributions: Mapping[str, BaseDistribution], definition: StudyDefinition) -> list[str]:
    """Returns the names of parameters whose distribution is not the study's."""
    space = definition.space
    return [name for name, one in distributions.items() if name not in space or one != distribution_of(space[name])]


def enqueued_fault(trial: optuna.Trial, definition: StudyDefinition) -> str | None:
    """Says why a trial cannot be measured with the parameters that somebody has enqueued it with, if it cannot.

    Optuna would take any value, and only warn. A list measures its own entries and nothing else.
    """
    params = enqueued_params(trial)
    if params is None:
        return "its parameters cannot be read"
    if definition.trial and params:
        return "this study is a list, which measures its own entries alone"
    for name, value in params.items():
        if name not in definition.space:
            return f"there is no parameter named {name!r}; {suggestion(name, definition.space)}"
        parameter = definition.space[name]
        if not parameter.holds(value):
            return f"{name} must be {parameter}, but is {value!r}"
        for key, wanted in parameter.when.items():
            if key in params and not meets(wanted, params[key]):
                return f"{name} is there only where {key} is {one_of(wanted)}, but that is {params[key]!r}"
    for name in _misfits(trial.distributions, definition):
        return f"{name} was added with another distribution than {definition.space[name]}"
    return None


FindRate = Callable[[Params], float]


def suggest(trial: optuna.Trial, definition: StudyDefinition, find_rate: FindRate | None = None) -> Params:
    """Lets the trial's sampler propose a configuration from the study's space.

    Args:
        find_rate: makes a range test and returns its optimum, for listed trials that leave their rate to it.
    """
    space, sampler = definition.search_space, trial.study.sampler
    if isinstance(sampler, Given) and definition.trial:
        listed = dict(sampler.params)
        if leaves_rate(definition.training, listed):
            if find_rate is None:
                raise ValueError("this objective makes no range tests")
            rate = listed[LEARNING_RATE] = find_rate(listed)
            space[LEARNING_RATE] = FloatRange(low=rate, high=rate)
        sampler.params = listed
        space = {name: space[name] for name in listed}
    proposed: dict[str, Value] = {}
    for name, parameter in in_order(space):
        if is_there(parameter, proposed):
            proposed[name] = _suggest(trial, name, parameter)
    return proposed


def _suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Value:
    if isinstance(parameter, Choices):
        chosen: Any = trial.suggest_categorical(name, parameter.choices)
        return chosen  # type: ignore[no-any-return]
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
