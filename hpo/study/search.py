"""How a study searches: its sampler, which proposes configurations, and its pruner, which ends what leads nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from hpo import limits
from hpo.study.repetition import count_configurations
from hpo.study.schema import Count, CountOrNone, Factor, Rounds, Table, shown
from hpo.study.space import Choices, FloatRange, IntRange, Parameter, Space, is_always_there
from hpo.study.task import Params


class TpeSampler(Table):
    """Optuna's TPESampler; every argument that matters is pinned, so an upgrade cannot change a study in silence."""

    name: Literal["tpe"]
    n_startup_trials: CountOrNone = 10
    n_ei_candidates: Annotated[int, Field(ge=1, le=limits.CANDIDATES)] = 24
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True


class RandomSampler(Table):
    """Optuna's RandomSampler."""

    name: Literal["random"]


class GpSampler(Table):
    """Optuna's GPSampler: a Gaussian process. It imports torch, and fits anew for each trial."""

    name: Literal["gp"]
    n_startup_trials: CountOrNone = 10
    deterministic_objective: bool = False


class CmaEsSampler(Table):
    """Optuna's CmaEsSampler, for ranges that every configuration draws from; other parameters are drawn at random.

    Attributes:
        sigma0: the first deviation, as a share of each range; a sixth unless given.
        popsize: trials of a generation; the number that the method recommends unless given.
    """

    name: Literal["cmaes"]
    n_startup_trials: CountOrNone = 1
    sigma0: Annotated[float, Field(gt=0, le=1)] | None = None
    popsize: Annotated[int, Field(ge=2, le=limits.CANDIDATES)] | None = None


class QmcSampler(Table):
    """Points of a low-discrepancy sequence, as of Optuna's QMCSampler; a trial's slot is its place in the sequence.

    Choices and conditional parameters have a coordinate each, too.
    """

    name: Literal["qmc"]
    qmc_type: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True


class GridSampler(Table):
    """Every configuration once, in the order of the file, the last parameter changing first."""

    name: Literal["grid"]


class NoPruner(Table):
    """Every trial is trained to its last epoch."""

    name: Literal["none"]


class MedianPruner(Table):
    """Optuna's MedianPruner: prunes what is worse, so far, than half of the finished trials at the same epoch."""

    name: Literal["median"]
    n_startup_trials: CountOrNone = 5
    n_min_trials: Count = 1
    n_warmup_steps: CountOrNone = 0
    interval_steps: Count = 1


class PercentilePruner(Table):
    """Optuna's PercentilePruner.

    Prunes what is worse, so far, than that percentile of the finished trials at the same epoch.
    """

    name: Literal["percentile"]
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    n_startup_trials: CountOrNone = 5
    n_min_trials: Count = 1
    n_warmup_steps: CountOrNone = 0
    interval_steps: Count = 1


class PowerLawPruner(Table):
    """Prunes what, drawn on to the last epoch, ends above `margin` times the best finished trial.

    `hpo/search/pruners.py` has it.
    """

    name: Literal["power_law"]
    margin: Factor = 1.0


class SuccessiveHalvingPruner(Table):
    """Optuna's SuccessiveHalvingPruner; a resource is an epoch."""

    name: Literal["successive_halving"]
    min_resource: Count = 1
    reduction_factor: Annotated[int, Field(ge=2, le=limits.COUNT)] = 4
    min_early_stopping_rate: Annotated[int, Field(ge=0, le=limits.RUNGS)] = 0
    bootstrap_count: CountOrNone = 0


class HyperbandPruner(Table):
    """Optuna's HyperbandPruner: several runs of successive halving side by side, each with trials of its own.

    Attributes:
        max_resource: the last epoch; the study's own unless given.
    """

    name: Literal["hyperband"]
    min_resource: Count = 1
    max_resource: Count | None = None
    reduction_factor: Annotated[int, Field(ge=2, le=limits.COUNT)] = 3
    bootstrap_count: CountOrNone = 0


class WilcoxonPruner(Table):
    """Optuna's WilcoxonPruner: a trial's rounds are measured one after another, each a step.

    Prunes where they are worse than the same rounds of the best trial, by a signed-rank test.
    """

    name: Literal["wilcoxon"]
    p_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    n_startup_steps: CountOrNone = 2


class Race(Table):
    """A race over rounds: they are measured in groups, and between two a trial that is behind the best ends.

    On a GPU, where many rounds cost little more than a few, all are measured at once, and nothing is raced.

    Attributes:
        group: how many rounds are measured together.
        level: of the one-sided paired t test of a trial's rounds so far against the same of the best finished trial.
    """

    group: Rounds = 5
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05


def check_sampler(sampler: Sampler, space: Space, *, repeats: bool) -> None:
    """Makes sure that a sampler can search a space.

    Args:
        repeats: whether configurations may be measured again.

    Raises:
        ValueError: where it cannot.
    """
    if sampler.name == "grid":
        for name, parameter in space.items():
            if parameter.size is None:
                raise ValueError(
                    f"space.{name} must list its values where the sampler is 'grid', as in [0.01, 0.1, 1.0]"
                )
        if repeats:
            raise ValueError("run.repeat_configurations must be false where the sampler is 'grid'")
        if (many := count_configurations(space) or 0) > limits.TRIALS:
            raise ValueError(f"the grid has {many} configurations, but a study at most {limits.TRIALS} trials")
    if sampler.name == "cmaes" and len(free_ranges(space)) < FEWEST_RANGES:
        raise ValueError(f"sampler 'cmaes' needs {FEWEST_RANGES} ranges or more that every configuration draws from")


def free_ranges(space: Space) -> dict[str, FloatRange | IntRange]:
    """Returns the ranges that every configuration draws a number from."""
    return {
        name: parameter
        for name, parameter in space.items()
        if not isinstance(parameter, Choices) and parameter.size != 1 and is_always_there(parameter, space)
    }


def space_of(configurations: Sequence[Params]) -> dict[str, Parameter]:
    """Returns the smallest space that holds some configurations, without conditions.

    Raises:
        ValueError: that names a parameter which is a truth value in one, and a number in another.
    """
    space: dict[str, Parameter] = {}
    for name in dict.fromkeys(name for params in configurations for name in params):
        given = [params[name] for params in configurations if name in params]
        if len({isinstance(value, bool) for value in given if not isinstance(value, str)}) > 1:
            raise ValueError(f"{name} must not be truth values and numbers, but is {shown(given)}")
        values = set(given)
        whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
        numbers = [*whole, *(value for value in values if isinstance(value, float))]
        if len(whole) == len(values):
            space[name] = IntRange(low=min(whole), high=max(whole))
        elif len(numbers) == len(values):
            space[name] = FloatRange(low=min(numbers), high=max(numbers))
        else:
            choices = sorted(values, key=lambda value: (isinstance(value, str), str(value)))
            space[name] = Choices(choices=tuple(choices))
    return space


FEWEST_RANGES = 2  # of which CMA-ES can learn how they go together

Sampler = Annotated[
    TpeSampler | RandomSampler | GpSampler | CmaEsSampler | QmcSampler | GridSampler, Field(discriminator="name")
]
Pruner = Annotated[
    NoPruner
    | PowerLawPruner
    | MedianPruner
    | PercentilePruner
    | SuccessiveHalvingPruner
    | HyperbandPruner
    | WilcoxonPruner,
    Field(discriminator="name"),
]


def names_of(kind: Any) -> list[str]:
    """Returns the names of `Sampler` or of `Pruner`."""
    union, *_ = get_args(kind)
    return [name for one in get_args(union) for name in get_args(one.model_fields["name"].annotation)]
