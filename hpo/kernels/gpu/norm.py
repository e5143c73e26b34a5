"""Batch norm with what follows it: a 2x2 max-pool, or the sum with a residual block's input, and an activation.

One kernel each way, one program for a channel of a round (in evaluation several): it reads its maps from the cache
again rather than keep what is between. Of equal numbers in a window the first is the largest, and NaN is larger than
all, as in PyTorch; the gradient's kernel finds the largest again, by the same formula.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.language import constexpr, tensor

from hpo.kernels.gpu.activation import Activation, activate, read_alpha
from hpo.kernels.gpu.language import apply, blocks, kernel
from hpo.kernels.gpu.norm_gradient import norm_gradient
from hpo.kernels.gpu.tiles import TILES, Tile, choose
from hpo.kernels.gpu.windows import four, largest, window

TILES_OF_A_CHANNEL = [Tile(block, warps=warps) for block, warps in ((2048, 8), (1024, 4), (4096, 16), (8192, 32))]


class Statistics(NamedTuple):
    """What R rounds' batch norm keeps.

    Attributes:
        mean, variance: running ones, (R, C); changed in place by training.
        tracked: batches that training saw, (R,) int64; changed in place.
    """

    mean: Tensor
    variance: Tensor
    tracked: Tensor


class Settings(NamedTuple):
    """What a batch norm and its followers do.

    Attributes:
        training: whether to norm by the batch's statistics and to keep them, or by those that were kept.
        pool: whether a 2x2 max-pool of stride 2 follows.
        epsilon: added to the variance.
        momentum: weight of a batch in the running statistics.
    """

    training: bool
    pool: bool
    activation: Activation
    epsilon: float
    momentum: float


def norm(
    maps: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, settings: Settings, added: Tensor | None = None
) -> Tensor:
    """Returns activation(pool(weight * normed maps + bias)) of R rounds, or activation(weight * ... + bias + added).

    Args:
        maps: (R, C, N, H, W).
        weight, bias: (R, C).
        statistics: contiguous; in training moved towards the batch's, the variance towards the unbiased one.
        settings: see there.
        added: maps of the same shape, where there is no pool.

    Returns:
        (R, C, N, H, W), or (R, C, N, H // 2, W // 2).
    """
    return apply(_Norm, maps, weight, bias, added, statistics, settings)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        added: Tensor | None,
        statistics: Statistics,
        settings: Settings,
    ) -> Tensor:
        maps, weight, bias = maps.contiguous(), weight.contiguous(), bias.contiguous()
        added = None if added is None else added.contiguous()
        rounds, channels, images, height, width = maps.shape
        halved = (height // 2, width // 2) if settings.pool else (height, width)
        out = maps.new_empty(rounds, channels, images, *halved)
        means, scales = torch.empty_like(weight), torch.empty_like(weight)
        sizes = (images, height, width)
        activation = settings.activation
        constants = (channels, *sizes, settings.training, settings.pool, added is not None)

        def launch(tile: Tile, kept: Statistics) -> None:
            parts = 1 if settings.training else blocks(out[0, 0].numel(), tile.rows)
            _norm[(rounds * channels, parts)](
                maps, weight, bias, maps if added is None else added, *kept, out, means, scales,
                settings.epsilon, settings.momentum, activation.alpha_or(out), *constants, activation.kind,
                tile.rows, **tile.options,
            )  # fmt: skip

        tried = Statistics(*(kept.clone() for kept in statistics)) if TILES.is_tuning else statistics
        key = ("norm", rounds, *constants)
        launch(choose(key, maps.device, TILES_OF_A_CHANNEL, lambda tile: launch(tile, tried)), statistics)
        context.save_for_backward(maps, weight, bias, out, means, scales)
        context.constants, context.activation = constants, activation
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, out, means, scales = context.saved_tensors
        gradient = gradient.contiguous()
        of_maps, of_weight, of_bias = torch.empty_like(maps), torch.empty_like(weight), torch.empty_like(bias)
        of_added = torch.empty_like(maps) if context.needs_input_grad[3] else None
        _, *sizes, training, pool, _ = context.constants
        constants = (*sizes, training, pool, of_added is not None)
        activation = context.activation

        def launch(tile: Tile) -> None:
            norm_gradient[(weight.numel(),)](
                maps, weight, bias, out, means, scales, gradient, of_maps, of_weight, of_bias,
                of_maps if of_added is None else of_added, activation.alpha_or(out), *constants, activation.kind,
                tile.rows, **tile.options,
            )  # fmt: skip

        launch(choose(("gradient of norm", *weight.shape, *constants), maps.device, TILES_OF_A_CHANNEL, launch))
        return of_maps, of_weight, of_bias, of_added, None, None


@kernel
def _norm(
    maps: tensor, weight: tensor, bias: tensor, added: tensor,
    running_mean: tensor, running_variance: tensor, tracked: tensor,
    out: tensor, means: tensor, scales: tensor, epsilon: tensor, momentum: tensor, alpha: tensor,
    channels: constexpr, images: constexpr, height: constexpr, width: constexpr,
    training: constexpr, pool: constexpr, adds: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    channel = tl.program_id(0).to(tl.int64)  # of all rounds
    count: constexpr = images * height * width
    alpha = read_alpha(alpha, activation)
    maps += channel * count
    if training:
        mean, variance = _statistics(maps, count, block)
        kept_mean, kept_variance = tl.load(running_mean + channel), tl.load(running_variance + channel)
        unbiased = variance * (count / (count - 1))
        tl.store(running_mean + channel, (1 - momentum) * kept_mean + momentum * mean)
        tl.store(running_variance + channel, (1 - momentum) * kept_variance + momentum * unbiased)
        if channel % channels == 0:
            tl.store(tracked + channel // channels, tl.load(tracked + channel // channels) + 1)
    else:
        mean, variance = tl.load(running_mean + channel), tl.load(running_variance + channel)
    scale = 1 / tl.sqrt_rn(variance + epsilon)
    if tl.program_id(1) == 0:
        tl.store(means + channel, mean)
        tl.store(scales + channel, scale)
    slope, shift = tl.load(weight + channel) * scale, tl.load(bias + channel)
    to_size: constexpr = images * (height // 2) * (width // 2) if pool else count
    windows: constexpr = images * ((height + 1) // 2) * ((width + 1) // 2) if pool else count
    out += channel * to_size
    for start in range(tl.program_id(1) * block, windows, tl.num_programs(1) * block):
        index = start + tl.arange(0, block)
        if pool:
            first, to, right, below = window(index, images, height, width)
            whole = right & below
            x0, x1, x2, x3 = four(maps + first, index < windows, right, below, width)
            z, _ = largest(
                (x0 - mean) * slope + shift, (x1 - mean) * slope + shift,
                (x2 - mean) * slope + shift, (x3 - mean) * slope + shift,
            )  # fmt: skip
            tl.store(out + to, activate(z, alpha, activation), mask=whole)
        else:
            inside = index < count
            z = (tl.load(maps + index, mask=inside, other=0.0) - mean) * slope + shift
            if adds:
                z += tl.load(added + channel * count + index, mask=inside, other=0.0)
            tl.store(out + index, activate(z, alpha, activation), mask=inside)


@kernel
def _statistics(maps: tensor, count: constexpr, block: constexpr) -> Any:
    """Returns mean and biased variance of a channel: two passes, for the difference of squares would cancel."""
    total = tl.zeros((block,), tl.float32)
    for start in range(0, count, block):
        index = start + tl.arange(0, block)
        total += tl.load(maps + index, mask=index < count, other=0.0)
    mean = tl.sum(total) / count
    total = tl.zeros((block,), tl.float32)
    for start in range(0, count, block):
        index = start + tl.arange(0, block)
        away = tl.where(index < count, tl.load(maps + index, mask=index < count, other=0.0) - mean, 0.0)
        total += away * away
    return mean, tl.sum(total) / count
