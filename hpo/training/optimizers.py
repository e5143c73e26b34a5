"""How networks are trained: epochs and batches, the optimizer, the precision."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpo.training.batch import map_output


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
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the networks of one configuration are trained.

    Attributes:
        precision: `float32`, exact to its 24 bits; or on a GPU `tf32`, whose products take 11 bits of each factor; or
            `bfloat16` for the matrix products and convolutions, as PyTorch's autocast chooses them. Weights, losses and
            batch norm's statistics stay in float32.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    precision: str = "float32"


def make_optimizer(
    config: TrainingConfig, parameters: Collection[Tensor], *, rate: Tensor | None = None
) -> torch.optim.Optimizer:
    """Returns the optimizer over parameters, PyTorch's defaults but for the learning rate.

    Args:
        rate: the learning rate as a tensor (), where steps are recorded, and the rate is to change; then they are
            counted on the device too.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate if rate is None else rate}
    on_cpu = all(parameter.is_cpu for parameter in parameters)
    if config.optimizer == "adam" and (on_cpu or rate is not None):
        settings["fused"] = True  # in one loop, a third of the time
    if config.optimizer == "sgd" and rate is not None:
        settings["fused"] = True  # the other ways would read the rate from the device
    if rate is not None and config.optimizer != "sgd" and not on_cpu:  # which counts nothing
        settings["capturable"] = True
    return OPTIMIZERS[config.optimizer](parameters, **settings)


def in_precision(precision: str, forward: Callable[[], Any], device: torch.device) -> Any:
    """Returns the output of a forward pass, computed in a precision, its floats in float32."""
    if precision == "float32":
        return forward()
    if precision == "tf32":
        with _tf32():
            return forward()
    with torch.autocast(device.type, getattr(torch, precision)):
        output = forward()
    return map_output(output, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


@contextmanager
def _tf32() -> Iterator[None]:
    """Context manager in which PyTorch's own products on a GPU may round to TF32."""
    libraries: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [library.allow_tf32 for library in libraries]
    try:
        for library in libraries:
            library.allow_tf32 = True
        yield
    finally:
        for library, allowed in zip(libraries, before, strict=True):
            library.allow_tf32 = allowed
