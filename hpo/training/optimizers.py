"""How networks are trained: the loss, the optimizer, the precision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hpo.kernels.cross_entropy import cross_entropy
from hpo.tasks.digit_pairs.pairs import Pairs

CPU = torch.device("cpu")
OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How networks are trained.

    Attributes:
        auxiliary_loss: if true the loss is `main_weight * L1 + auxiliary_weight * (L2 + L3)`, else L1. L1 is the
            comparison's cross-entropy, L2 and L3 those of the two digits (report A, section III.A; report B, equation
            1).
        precision: `float32`, or `bfloat16` for the matrix products and convolutions, as PyTorch's autocast chooses
            them; weights, losses and batch norm's statistics stay in float32.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    auxiliary_loss: bool
    main_weight: float = 1.0
    auxiliary_weight: float = 1.0
    precision: str = "float32"

    def loss(self, comparison: Tensor, digits: Tensor, pairs: Pairs) -> Tensor:
        """Returns the mean loss over B pairs: (..., B, 2) and (..., B, 2, 10) -> (...)."""
        main = _cross_entropy(comparison, pairs.targets).mean(-1)
        if not self.auxiliary_loss:
            return main
        auxiliary = _cross_entropy(digits, pairs.classes).sum(-1).mean(-1)  # (..., B, 2) -> (..., B) -> (...)
        return self.main_weight * main + self.auxiliary_weight * auxiliary


def make_optimizer(
    config: TrainingConfig, parameters: Collection[Tensor], *, capturable: bool = False
) -> torch.optim.Optimizer:
    """Returns the config's optimizer over parameters, PyTorch's defaults but for the learning rate.

    Args:
        capturable: whether a CUDA graph is to hold its steps, so that it must count them on the GPU.
    """
    settings: dict[str, Any] = {}
    if capturable and config.optimizer != "sgd":  # which counts nothing, and has no such setting
        settings = {"capturable": True}
    elif config.optimizer == "adam" and all(parameter.is_cpu for parameter in parameters):
        settings = {"fused": True}  # in one loop, a third of the time
    return OPTIMIZERS[config.optimizer](parameters, lr=config.learning_rate, **settings)  # type: ignore[call-arg]


def in_precision(
    precision: str, forward: Callable[[], tuple[Tensor, Tensor]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns a forward pass's logits, computed in a precision."""
    if precision == "float32":
        return forward()
    with torch.autocast(device.type, getattr(torch, precision)):
        comparison, digits = forward()
    return comparison.float(), digits.float()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Maps (..., K) logits and (...) labels to (...) losses."""
    logits, flat = logits.flatten(0, -2), labels.flatten()
    losses = cross_entropy(logits, flat) if logits.is_cpu else functional.cross_entropy(logits, flat, reduction="none")
    return losses.view(labels.shape)
