"""How a study's workers behave, as its file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpo import limits
from hpo.study.schema import Count, Seconds, Table


class Run(Table):
    """How a study's workers behave; nothing here changes a result, so it is outside the hash.

    Attributes:
        max_failed_trials: after so many trials failed by an error in training, the run ends.
        trial_timeout_seconds: a trial that takes longer is ended, and counts as failed; no limit unless given.
        heartbeat_seconds: how often a worker says that its trial lives.
        grace_seconds: a trial that was not heard of for so long is given up for dead. An outage of the database that
            lasts longer costs the trials that were running.
        trials_per_gpu: how many trials a worker runs at once on a GPU, with `--workers auto`; `auto` finds out.
        repeat_configurations: whether a configuration is measured again that is measured already.
        keep: what else a trial keeps: each round's loss after every epoch, every layer's gradient norm, and what became
            of each test example. Listed trials keep these in any case, for an interval that holds on new ones.
    """

    max_failed_trials: Count = 20
    trial_timeout_seconds: Seconds | None = None
    heartbeat_seconds: Seconds = 30.0
    grace_seconds: Seconds = 300.0
    trials_per_gpu: Literal["auto"] | Annotated[int, Field(ge=1, le=limits.TRIALS_PER_GPU)] = "auto"
    repeat_configurations: bool = False
    keep: Annotated[tuple[Literal["losses", "gradient_norms", "examples"], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Run:
        if self.grace_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"grace_seconds must be at least twice heartbeat_seconds, but is {self.grace_seconds:g} "
                f"with {self.heartbeat_seconds:g}"
            )
        return self
