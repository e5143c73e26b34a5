"""How a study searches: its sampler, which proposes configurations, and its pruner, which ends what leads nowhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpo import limits
from hpo.study.schema import Count, CountOrNone, Factor, Table


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


class NoPruner(Table):
    """Every trial is trained to its last epoch."""

    name: Literal["none"]


class PercentilePruner(Table):
    """Optuna's PercentilePruner.

    Prunes what is worse, so far, than that percentile of the finished trials at the same epoch.
    """

    name: Literal["percentile"]
    percentile: Annotated[float, Field(gt=0, lt=100)]
    n_startup_trials: CountOrNone = 5
    n_min_trials: Count = 1
    n_warmup_steps: CountOrNone = 0
    interval_steps: Count = 1


class PowerLawPruner(Table):
    """Prunes what, drawn on to the last epoch, ends above `margin` times the best finished trial.

    `hpo/workers/pruners.py` has it.
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


Sampler = Annotated[TpeSampler | RandomSampler, Field(discriminator="name")]
Pruner = Annotated[NoPruner | PowerLawPruner | PercentilePruner | SuccessiveHalvingPruner, Field(discriminator="name")]
