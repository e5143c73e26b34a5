"""Batch norm over maps whose channels are last.

It reads its maps as rows of H * W * C numbers, wide enough for vector instructions however few the channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpo.kernels.jit import Array, as_array, compiled
from hpo.kernels.stand_in import StandIn


class Norm(StandIn):
    """Batch norm over maps (B, C, H, W) that lie in memory with the channels last."""

    layer: nn.BatchNorm2d

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        norm = self.layer
        if not self.training:
            return norm(maps)  # type: ignore[no-any-return]
        normalised: Tensor
        normalised, mean, variance = _Normalise.apply(maps, norm.weight, norm.bias, norm.eps)
        keep_statistics(norm, mean, variance, maps.numel() // len(mean))
        return normalised


class _Normalise(torch.autograd.Function):
    """(B, C, H, W), (C,), (C,) -> the maps normalised, and each channel's mean and biased variance, (C,)."""

    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        last = maps.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
        normalised, mean, variance = torch.empty_like(last), torch.empty_like(weight), torch.empty_like(weight)
        normalise(
            _rows(last),
            as_array(weight),
            as_array(bias),
            epsilon,
            _rows(normalised),
            as_array(mean),
            as_array(variance),
        )
        context.save_for_backward(last, weight, mean, variance)
        context.epsilon = epsilon
        context.mark_non_differentiable(mean, variance)
        return normalised.permute(0, 3, 1, 2), mean, variance

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, variance = context.saved_tensors
        grad_maps, grad_weight, grad_bias = (torch.empty_like(t) for t in (maps, weight, weight))
        normalise_gradient(
            _rows(maps), as_array(weight), context.epsilon, as_array(mean), as_array(variance),
            _rows(gradient.permute(0, 2, 3, 1).contiguous()),
            _rows(grad_maps), as_array(grad_weight), as_array(grad_bias),
        )  # fmt: skip
        return grad_maps.permute(0, 3, 1, 2), grad_weight, grad_bias, None


def keep_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Moves the running statistics of a batch norm towards a batch's, as PyTorch does: by the unbiased variance."""
    assert norm.momentum is not None  # _is_norm has looked
    with torch.no_grad():
        norm.get_buffer("num_batches_tracked").add_(1)
        norm.get_buffer("running_mean").lerp_(mean, norm.momentum)
        norm.get_buffer("running_var").lerp_(variance * (count / (count - 1)), norm.momentum)


def _rows(maps: Tensor) -> Array:
    """Returns maps (B, H, W, C) as rows (B, H * W * C)."""
    return maps.detach().view(len(maps), -1).numpy()


@compiled
def normalise(
    maps: Array, weight: Array, bias: Array, epsilon: float, normalised: Array, means: Array, variances: Array
) -> None:
    """Normalises each channel over all examples and positions, then scales and shifts it: batch norm in training.

    Args:
        maps: (B, L), rows of positions times channels, channels last.
        weight, bias: (C,).
        epsilon: added to the variance.
        normalised: written: (B, L).
        means, variances: written: (C,); the variances are the biased ones.
    """
    channels, positions = len(weight), maps.shape[1] // len(weight)
    count = maps.shape[0] * positions
    sums = np.zeros(maps.shape[1], maps.dtype)
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            sums[s] += maps[n, s]
    means[:] = sums.reshape(positions, channels).sum(0) / count
    row, sums[:] = _tiled(means, positions), 0
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            away = maps[n, s] - row[s]
            sums[s] += away * away
    variances[:] = sums.reshape(positions, channels).sum(0) / count
    scale = weight / np.sqrt(variances + weight.dtype.type(epsilon))
    scales, shifts = _tiled(scale, positions), _tiled(bias - means * scale, positions)
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            normalised[n, s] = maps[n, s] * scales[s] + shifts[s]


@compiled
def normalise_gradient(
    maps: Array,
    weight: Array,
    epsilon: float,
    means: Array,
    variances: Array,
    gradient: Array,
    grad_maps: Array,
    grad_weight: Array,
    grad_bias: Array,
) -> None:
    """Writes the gradients of `normalise` towards the maps (B, L), weight and bias (C,), given that of its result."""
    channels, positions = len(weight), maps.shape[1] // len(weight)
    count = maps.shape[0] * positions
    row, sums, products = (
        _tiled(means, positions),
        np.zeros(maps.shape[1], maps.dtype),
        np.zeros(maps.shape[1], maps.dtype),
    )
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            sums[s] += gradient[n, s]
            products[s] += gradient[n, s] * (maps[n, s] - row[s])
    inverse = 1 / np.sqrt(variances + weight.dtype.type(epsilon))
    # Numba orders the arrays of an expression by their names, so to rename one may change how its result is rounded.
    totals, weighted = sums.reshape(positions, channels).sum(0), products.reshape(positions, channels).sum(0) * inverse
    grad_bias[:], grad_weight[:] = totals, weighted
    # weight * inverse * (gradient - its mean - normalised maps * mean of their product), a line in gradient and maps
    slope = weight * inverse
    bend = -slope * inverse * weighted / count
    slopes, bends = _tiled(slope, positions), _tiled(bend, positions)
    shifts = _tiled(-slope * totals / count - bend * means, positions)
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            grad_maps[n, s] = gradient[n, s] * slopes[s] + maps[n, s] * bends[s] + shifts[s]


@compiled
def _tiled(channels: Array, positions: int) -> Array:
    """Returns a row (positions * C,) of one number a channel (C,)."""
    row = np.empty((positions, len(channels)), channels.dtype)
    for s in range(positions):
        row[s] = channels
    return row.reshape(-1)
