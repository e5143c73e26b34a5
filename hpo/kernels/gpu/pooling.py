"""Pools without padding, with an activation: the largest number of each window, or the mean.

A gradient is gathered: for each number of the maps the windows are read that it lies in, so that windows may overlap
and no two programs add to one number. Of equal numbers the first is the largest and NaN is larger than all, as in
PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.language import constexpr, tensor

from hpo.kernels.gpu.activation import Activation, activate, activation_gradient, read_alpha
from hpo.kernels.gpu.language import apply, blocks, indices, kernel, wide

BLOCK = 1024  # numbers a program of max-pool takes
BLOCK_OF_MEANS = 16  # windows a program of average pool takes, whole


def max_pool(maps: Tensor, size: int, stride: int, activation: Activation) -> Tensor:
    """Returns the activation of the largest number in each window: (..., H, W) -> (..., H', W')."""
    return apply(_MaxPool, maps, size, stride, activation)


def average_pool(maps: Tensor, size: int, activation: Activation) -> Tensor:
    """Returns the activation of the mean of each window, side by side: (..., H, W) -> (..., H // size, W // size)."""
    return apply(_AveragePool, maps, size, activation)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, maps: Tensor, size: int, stride: int, activation: Activation) -> Tensor:
        maps = maps.contiguous()
        *outer, height, width = maps.shape
        down, across = (height - size) // stride + 1, (width - size) // stride + 1
        out = maps.new_empty(*outer, down, across)
        few = size * size <= 128
        which = torch.empty_like(out, dtype=torch.int8 if few else torch.int32)  # of a window's numbers is the largest
        constants = (out.numel(), height, width, down, across, size, stride, activation.kind)
        alpha = activation.alpha_or(out)
        _take_largest[(blocks(out.numel(), BLOCK),)](maps, out, which, alpha, *constants, BLOCK)
        context.save_for_backward(out, which)
        context.shape, context.constants, context.activation = maps.shape, constants, activation
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        out, which = context.saved_tensors
        of_maps = gradient.new_empty(context.shape)
        count, alpha = of_maps.numel(), context.activation.alpha_or(out)
        _give_to_largest[(blocks(count, BLOCK),)](
            gradient.contiguous(), out, which, of_maps, alpha, count, *context.constants[1:], BLOCK
        )
        return of_maps, None, None, None


@kernel
def _take_largest(
    maps: tensor, out: tensor, which: tensor, alpha: tensor,
    count: constexpr, height: constexpr, width: constexpr, down: constexpr, across: constexpr,
    size: constexpr, stride: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    alpha = read_alpha(alpha, activation)
    to = wide(indices(block, count), count // (down * across) * height * width)
    inside = to < count
    n, position = to // (down * across), to % (down * across)
    first = maps + n * (height * width) + position // across * (stride * width) + position % across * stride
    largest = tl.load(first, mask=inside, other=0.0)
    number = tl.zeros((block,), tl.int32)
    for u in tl.static_range(size):
        for v in tl.static_range(size):
            if u + v > 0:
                other = tl.load(first + u * width + v, mask=inside, other=0.0)
                takes = (other > largest) | (other != other)
                largest, number = tl.where(takes, other, largest), tl.where(takes, u * size + v, number)
    tl.store(out + to, activate(largest, alpha, activation), mask=inside)
    tl.store(which + to, number, mask=inside)


@kernel
def _give_to_largest(
    gradient: tensor, out: tensor, which: tensor, of_maps: tensor, alpha: tensor,
    count: constexpr, height: constexpr, width: constexpr, down: constexpr, across: constexpr,
    size: constexpr, stride: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    alpha = read_alpha(alpha, activation)
    at = indices(block, count)
    n, position = at // (height * width), at % (height * width)
    row, column = position // width, position % width
    total = tl.zeros((block,), tl.float32)
    around: constexpr = (size + stride - 1) // stride  # windows that a number may lie in, each way
    for u in tl.static_range(around):
        for v in tl.static_range(around):
            i, j = row // stride - u, column // stride - v
            in_row, in_column = row - i * stride, column - j * stride
            inside = (at < count) & (i >= 0) & (i < down) & (j >= 0) & (j < across)
            inside = inside & (in_row < size) & (in_column < size)
            to = (n * down + i) * across + j
            chosen = tl.load(which + to, mask=inside, other=-1) == in_row * size + in_column
            g = tl.load(gradient + to, mask=inside & chosen, other=0.0)
            total += activation_gradient(g, tl.load(out + to, mask=inside & chosen, other=0.0), alpha, activation)
    tl.store(of_maps + at, total, mask=at < count)


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, maps: Tensor, size: int, activation: Activation) -> Tensor:
        maps = maps.contiguous()
        *outer, height, width = maps.shape
        out = maps.new_empty(*outer, height // size, width // size)
        padded = 1 << (size * size - 1).bit_length()
        _take_mean[(blocks(out.numel(), BLOCK_OF_MEANS),)](
            maps,
            out,
            activation.alpha_or(out),
            out.numel(),
            height,
            width,
            size,
            padded,
            activation.kind,
            BLOCK_OF_MEANS,
        )
        context.save_for_backward(out)
        context.shape, context.size, context.activation = maps.shape, size, activation
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (out,) = context.saved_tensors
        kind, alpha = context.activation.kind, context.activation.alpha_or(out)
        of_maps = gradient.new_empty(context.shape)
        height, width = context.shape[-2:]
        _spread_mean[(blocks(of_maps.numel(), BLOCK),)](
            gradient.contiguous(), out, of_maps, alpha, of_maps.numel(), height, width, context.size, kind, BLOCK
        )
        return of_maps, None, None


@kernel
def _take_mean(
    maps: tensor, out: tensor, alpha: tensor,
    count: constexpr, height: constexpr, width: constexpr,
    size: constexpr, padded: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    down: constexpr = height // size
    across: constexpr = width // size
    alpha = read_alpha(alpha, activation)
    to = indices(block, count)
    n, position = to.to(tl.int64) // (down * across), to % (down * across)
    first = n * (height * width) + position // across * (size * width) + position % across * size
    tap = tl.arange(0, padded)
    at = first[:, None] + (tap // size * width + tap % size)[None, :]
    inside = (to < count)[:, None] & (tap < size * size)[None, :]
    mean = tl.sum(tl.load(maps + at, mask=inside, other=0.0), 1) / (size * size)
    tl.store(out + to, activate(mean, alpha, activation), mask=to < count)


@kernel
def _spread_mean(
    gradient: tensor, out: tensor, of_maps: tensor, alpha: tensor,
    count: constexpr, height: constexpr, width: constexpr,
    size: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    down: constexpr = height // size
    across: constexpr = width // size
    alpha = read_alpha(alpha, activation)
    at = indices(block, count)
    n, position = at // (height * width), at % (height * width)
    i, j = position // width // size, position % width // size
    inside = (at < count) & (i < down) & (j < across)
    to = (n * down + i) * across + j
    g = tl.load(gradient + to, mask=inside, other=0.0)
    g = activation_gradient(g, tl.load(out + to, mask=inside, other=0.0), alpha, activation)
    tl.store(of_maps + at, g / (size * size), mask=at < count)
