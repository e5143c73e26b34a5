"""A 3x3 convolution of 6x6 maps by Winograd's algorithm: 36 products of matrices in place of nine times sixteen.

The sixteen results of such a map and a 3x3 filter are a bilinear form in 36 numbers made of the map and 36 made of the
filter, all by fixed matrices: F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
(2015), whose names the matrices bear. It takes a quarter of the multiply-adds, both ways, and gives the same in exact
arithmetic; in float32 it rounds a few times more coarsely than a direct convolution, 4e-6 of the largest value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpo.kernels.conv_pool import bias_of
from hpo.kernels.jit import Array, compiled
from hpo.kernels.stand_in import StandIn

SIZE = 6  # of the maps that it takes
RESULT = 4  # of the maps that it makes
MAP = np.array(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
FILTER = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
RESULTS = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]])  # A


def convolve(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Maps (B, C, 6, 6), weight (D, C, 3, 3) and bias (D,) to (B, D, 4, 4), on a CPU; channels last is fastest."""
    results: Tensor = _Convolve.apply(maps, weight, bias)
    return results


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        filters, channels = weight.shape[:2]
        of_maps, of_filter, of_results = _matrices(maps.dtype)
        points = _transformed(maps, of_maps)  # (36, B, C)
        weights = (of_filter @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, filters)  # (36, C, D)
        context.save_for_backward(points, weights)
        return _transformed_back(points @ weights, of_results) + bias.view(-1, 1, 1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, weights = context.saved_tensors
        of_maps, of_filter, of_results = _matrices(gradient.dtype)
        back = _transformed(gradient, of_results)  # (36, B, D)
        grad_weights = (points.transpose(1, 2) @ back).flatten(1)  # (36, C * D)
        grad_weight = (of_filter.t() @ grad_weights).view(3, 3, *weights.shape[1:]).permute(3, 2, 0, 1)
        grad_maps = _transformed_back(back @ weights.transpose(1, 2), of_maps)
        return grad_maps, grad_weight, gradient.sum((0, 2, 3))


@lru_cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the matrices of maps (6, 6) and results (6, 4), for rows and columns; of filters (36, 9), for both."""
    of_maps, of_filter, of_results = (torch.tensor(m, dtype=dtype) for m in (MAP, np.kron(FILTER, FILTER), RESULTS))
    return of_maps, of_filter, of_results


def _transformed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Returns matrix @ map @ matrix^T of maps (B, C, P, P), point by point: (36, B, C)."""
    last = maps.permute(0, 2, 3, 1).contiguous()
    transformed = last.new_empty(SIZE, SIZE, len(last), last.shape[3])
    transform(last.numpy(), matrix.numpy(), transformed.numpy())
    return transformed.flatten(0, 1)


def _transformed_back(points: Tensor, matrix: Tensor) -> Tensor:
    """Returns matrix^T @ points @ matrix of (36, B, C) as maps (B, C, P, P), channels last."""
    _, count, channels = points.shape
    size = matrix.shape[1]
    maps = points.new_empty(count, size, size, channels)
    transform_back(points.view(SIZE, SIZE, count, channels).numpy(), matrix.numpy(), maps.numpy())
    return maps.permute(0, 3, 1, 2)


@compiled
def transform(maps: Array, matrix: Array, transformed: Array) -> None:
    """Writes matrix @ map @ matrix^T, for the map of every example and channel.

    Args:
        maps: (B, P, P, C).
        matrix: (Q, P); its zeros cost nothing.
        transformed: written: (Q, Q, B, C).
    """
    points, size = matrix.shape
    channels = maps.shape[3]
    half = np.empty((points, size, channels), maps.dtype)
    for n in range(maps.shape[0]):
        half[:] = 0
        for q in range(points):
            for i in range(size):
                factor = matrix[q, i]
                if factor != 0:
                    for j in range(size):
                        for k in range(channels):
                            half[q, j, k] += factor * maps[n, i, j, k]
        for q in range(points):
            for r in range(points):
                for k in range(channels):
                    transformed[q, r, n, k] = 0
                for j in range(size):
                    factor = matrix[r, j]
                    if factor != 0:
                        for k in range(channels):
                            transformed[q, r, n, k] += factor * half[q, j, k]


@compiled
def transform_back(transformed: Array, matrix: Array, maps: Array) -> None:
    """Writes matrix^T @ transformed @ matrix, for every example and channel; shapes are those of `transform`."""
    points, size = matrix.shape
    channels = maps.shape[3]
    half = np.empty((size, points, channels), maps.dtype)
    for n in range(maps.shape[0]):
        half[:] = 0
        for q in range(points):
            for i in range(size):
                factor = matrix[q, i]
                if factor != 0:
                    for r in range(points):
                        for k in range(channels):
                            half[i, r, k] += factor * transformed[q, r, n, k]
        for i in range(size):
            for j in range(size):
                for k in range(channels):
                    maps[n, i, j, k] = 0
                for r in range(points):
                    factor = matrix[r, j]
                    if factor != 0:
                        for k in range(channels):
                            maps[n, i, j, k] += factor * half[i, r, k]


class Convolution(StandIn):
    """A 3x3 convolution of maps that may be 6x6: (B, C, 6, 6) -> (B, D, 4, 4)."""

    layer: nn.Conv2d

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        if maps.shape[2:] != (SIZE, SIZE):
            return self.layer(maps)  # type: ignore[no-any-return]
        return convolve(maps, self.layer.weight, bias_of(self.layer))
