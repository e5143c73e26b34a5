"""PyTorch's optimizers, made for a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from hpo.training.updates.config import TrainingConfig


def _without_compiler(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Returns a PyTorch optimizer that does not tell `torch.compile` of its steps.

    Nothing is compiled here, and to import the compiler, which the first step does, would take every worker a second.
    """
    unwrapped = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    return type(kind.__name__, (kind,), {**unwrapped, "step": torch.no_grad()(inspect.unwrap(kind.step))})


OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": _without_compiler(torch.optim.SGD),
    "rmsprop": _without_compiler(torch.optim.RMSprop),
    "adam": _without_compiler(torch.optim.Adam),
    "adamw": _without_compiler(torch.optim.AdamW),
}


def make_optimizer(
    config: TrainingConfig, parameters: Collection[Tensor], *, rate: Tensor | None = None
) -> torch.optim.Optimizer:
    """Returns the optimizer over parameters, PyTorch's defaults but for what the configuration says.

    Args:
        rate: the learning rate as a tensor (), where steps are recorded, and the rate is to change; then they are
            counted on the device too.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate if rate is None else rate}
    on_cpu = all(parameter.is_cpu for parameter in parameters)
    if config.momentum:
        settings |= {"momentum": config.momentum, **({"nesterov": True} if config.nesterov else {})}
    if config.weight_decay is not None:
        settings["weight_decay"] = config.weight_decay
    if config.optimizer in ("adam", "adamw") and (on_cpu or rate is not None):
        settings["fused"] = True  # in one loop, a third of the time
    if config.optimizer == "sgd" and rate is not None:
        settings["fused"] = True  # the other ways would read the rate from the device
    if rate is not None and config.optimizer != "sgd" and not on_cpu:  # which counts nothing
        settings["capturable"] = True
    return OPTIMIZERS[config.optimizer](parameters, **settings)
