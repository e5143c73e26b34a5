"""A network's layers: what each is, what comes out of it, and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: its path in the network, as in `towers.0.3`.
        kind: PyTorch's description of it, as in `Linear(in_features=20, out_features=2, bias=True)`.
        weight: its weight's shape; empty where it has none.
        shape: of its output for a single pair, images counted apart.
        parameters: trainable ones.
    """

    name: str
    kind: str
    weight: tuple[int, ...]
    shape: tuple[int, ...]
    parameters: int


def list_layers(network: nn.Module) -> list[Layer]:
    """Returns a network's layers in the order in which a pair (1, 2, 14, 14) passes them.

    A shared layer stands once.
    """
    layers: dict[str, Layer] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            layers[name] = Layer(
                name, str(module), _weight_shape(module), tuple(output.shape), count_parameters(module)
            )

        return hook

    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(record(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 2, 14, 14))
    finally:
        for handle in hooks:
            handle.remove()
    return list(layers.values())


def describe(build: Callable[..., nn.Module], activation: Callable[[], nn.Module]) -> dict[str, Any]:
    """Returns an architecture's layers, as they are with weight sharing, and its parameters with and without."""
    shared, apart = (build(activation, weight_sharing=sharing) for sharing in (True, False))
    return {
        "layers": [asdict(layer) for layer in list_layers(shared)],
        "parameters": {"weight_sharing": count_parameters(shared), "no_weight_sharing": count_parameters(apart)},
    }


def count_parameters(network: nn.Module) -> int:
    """Returns the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()
