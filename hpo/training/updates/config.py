"""How the networks of one configuration are trained: what a study and a trial's parameters say."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpo.study.task import Params
from hpo.study.training import MAY_BE_TRAINED_BY, Training


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the networks of one configuration are trained.

    Attributes:
        precision: `float32`, exact to its 24 bits; or on a GPU `tf32`, whose products take 11 bits of each factor; or
            `bfloat16` for the matrix products and convolutions, as PyTorch's autocast chooses them. Weights, losses and
            batch norm's statistics stay in float32.
        steps: how many batches there are in all epochs; a schedule goes by them.
        momentum, nesterov: as PyTorch's SGD and RMSprop have them.
        weight_decay: None leaves it to the optimizer: AdamW's is 0.01, the others' 0.
        schedule: of the learning rate, see schedules.py; `warmup` is the share of the steps in which it rises, None
            what is usual.
        gradient_clipping: the largest norm of a network's gradient; a longer one is scaled down to it.
        ema_decay: of the exponential moving average of the weights, by which a network is measured in their place; it
            is reached by and by, see steps.py.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    precision: str = "float32"
    steps: int = 1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float | None = None
    schedule: str = "constant"
    warmup: float | None = None
    gradient_clipping: float | None = None
    ema_decay: float | None = None


def config_of(training: Training, params: Params, examples: int) -> TrainingConfig:
    """Returns how a trial's networks are trained, each on so many examples."""
    own = {name: params[name] for name in MAY_BE_TRAINED_BY if name in params and name != "ensemble"}
    how = {"epochs": training.epochs, "batch_size": training.batch_size, **own}
    return TrainingConfig(
        optimizer=str(params["optimizer"]),
        learning_rate=float(params["learning_rate"]),
        precision=training.precision,
        steps=int(how["epochs"]) * math.ceil(examples / int(how["batch_size"])),
        **how,  # type: ignore[arg-type]
    )
