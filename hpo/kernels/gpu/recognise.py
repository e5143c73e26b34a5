"""Finds the layers of a network that kernels can take the place of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import torch
from torch import nn

from hpo.kernels.exact import is_exactly, is_untouched
from hpo.kernels.gpu.activation import NONE, Activation
from hpo.kernels.gpu.layers import AveragePool, Convolution, Fused, Linear, MaxPool, Norm, Residual

RESIDUAL = "activation(maps + residue(maps))"
"""What a class says it computes, in its attribute `computes`, where it may be replaced by a `Residual`."""


class Replacement:
    """Replaces layers, one that stands in a network twice by one that does.

    Args:
        device: where the network is.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self.precision, self.device = precision, device
        self._made: dict[tuple[int, ...], nn.Module] = {}
        self._kept: list[nn.Module] = []  # so that no other module comes to have the id of one of them

    def of(self, module: nn.Module) -> nn.Module:
        """Returns what takes a module's place: another, or the same with other children."""
        known = (id(module),)
        if known not in self._made:
            self._kept.append(module)
            self._made[known] = self._replaced(module)
        return self._made[known]

    def _replaced(self, module: nn.Module) -> nn.Module:
        layer = self._run([module])
        if layer is not None:
            return layer
        if is_exactly(module, nn.Sequential):
            self._replace_runs(module)
        else:
            for name, child in list(module.named_children()):
                module.set_submodule(name, self.of(child))
        return self._residual(module) or module

    def _replace_runs(self, sequence: nn.Sequential) -> None:
        layers = list(sequence)
        first = 0
        while first < len(layers):
            run = self._run(layers[first:])
            if run is None:
                sequence[first] = self.of(layers[first])
                first += 1
                continue
            key = tuple(id(layer) for layer in run.layers)
            sequence[first] = self._made.setdefault(key, run)
            for passed in range(first + 1, first + len(run.layers)):
                sequence[passed] = nn.Identity()  # the others keep their numbers
            first += len(run.layers)

    def _run(self, layers: Sequence[nn.Module]) -> Fused | None:
        """Returns what computes the first layer, and as many behind as it can; None where it is none of ours."""
        first = layers[0]
        behind, activation = _activation_at(layers, 1, self.device)
        if _is_convolution(first):
            return Convolution(first, self.precision)
        if is_exactly(first, nn.Linear):
            return Linear(layers[:behind], activation, self.precision)
        if _is_norm(first):
            return _norm(layers, self.device)
        if _is_max_pool(first):
            return MaxPool(layers[:behind], first, activation)
        if _is_average_pool(first):
            return AveragePool(layers[:behind], first, activation)
        known = activation_of(first, self.device)
        if known and not getattr(first, "inplace", False) and len(layers) > 1 and _is_max_pool(layers[1]):
            return MaxPool(layers[:2], layers[1], known)
        return None

    def _residual(self, module: nn.Module) -> nn.Module | None:
        """Returns what takes the place of a residual block, whose children were replaced; None for what is none."""
        if vars(type(module)).get("computes") != RESIDUAL or not is_untouched(module):
            return None
        children = dict(module.named_children())
        known = activation_of(children["activation"], self.device)
        if known is None or set(children) != {"residue", "activation"}:
            return None
        residue = children["residue"]
        if is_exactly(residue, nn.Sequential) and len(residue) and isinstance(residue[-1], Norm):
            last = residue[-1]
            if last.activation is NONE and not last.pool:
                joined = Norm([*last.layers, children["activation"]], known)
                residue = nn.Sequential(*list(residue)[:-1], joined)
        return Residual(residue, children["activation"], known)


def _norm(layers: Sequence[nn.Module], device: torch.device) -> Norm:
    """Returns a batch norm with a 2x2 max-pool and an activation, if they follow, in either order."""
    pooled = len(layers) > 1 and _is_pool_of_two(layers[1])
    behind, activation = _activation_at(layers, 2 if pooled else 1, device)
    if activation is not NONE and not pooled and len(layers) > behind and _is_pool_of_two(layers[behind]):
        behind += 1
    return Norm(layers[:behind], activation)


def _activation_at(layers: Sequence[nn.Module], index: int, device: torch.device) -> tuple[int, Activation]:
    """Returns where the layers go on behind an activation that stands there, and which it is."""
    known = activation_of(layers[index], device) if index < len(layers) else None
    return (index, NONE) if known is None else (index + 1, known)


def activation_of(layer: nn.Module, device: torch.device) -> Activation | None:
    """Returns which activation a layer is, its alpha on a device; None for any other."""
    if is_exactly(layer, nn.ReLU):
        return Activation("relu")
    if is_exactly(layer, nn.SELU):
        return Activation("selu")
    if is_exactly(layer, nn.LeakyReLU) and layer.negative_slope > 0:
        return Activation("leaky_relu", torch.tensor(layer.negative_slope, dtype=torch.float32, device=device))
    if is_exactly(layer, nn.ELU) and layer.alpha > 0:
        return Activation("elu", torch.tensor(layer.alpha, dtype=torch.float32, device=device))
    return None


def _is_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    plain = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
    return is_exactly(layer, nn.Conv2d) and _has(layer, plain) and isinstance(layer.padding, tuple)


def _is_norm(layer: nn.Module) -> bool:
    return (
        is_exactly(layer, nn.BatchNorm2d) and layer.affine and layer.track_running_stats and layer.momentum is not None
    )


def _is_max_pool(layer: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    plain = {"padding": 0, "dilation": 1, "return_indices": False, "ceil_mode": False}
    return is_exactly(layer, nn.MaxPool2d) and _has(layer, plain) and _is_square(layer.kernel_size, layer.stride)


def _is_pool_of_two(layer: nn.Module) -> bool:
    return _is_max_pool(layer) and _has(layer, {"kernel_size": 2, "stride": 2})


def _is_average_pool(layer: nn.Module) -> TypeGuard[nn.AvgPool2d]:
    plain = {"padding": 0, "ceil_mode": False, "divisor_override": None}
    return (
        is_exactly(layer, nn.AvgPool2d)
        and _has(layer, plain)
        and layer.kernel_size == layer.stride
        and _is_square(layer.kernel_size)
    )


def _has(layer: nn.Module, settings: Mapping[str, object]) -> bool:
    return all(getattr(layer, name) == value for name, value in settings.items())


def _is_square(*sizes: int | tuple[int, ...]) -> bool:
    return all(isinstance(size, int) or len(set(size)) == 1 for size in sizes)
