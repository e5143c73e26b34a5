"""The gradient of batch norm and what follows it (norm.py): one program for a channel of a round."""

from __future__ import annotations

from typing import Any

import triton.language as tl
from triton.language import constexpr, tensor

from hpo.kernels.gpu.activation import activation_gradient, read_alpha
from hpo.kernels.gpu.language import kernel
from hpo.kernels.gpu.windows import four, largest, window


@kernel
def norm_gradient(
    maps: tensor, weight: tensor, bias: tensor, out: tensor, means: tensor, scales: tensor, gradient: tensor,
    of_maps: tensor, of_weight: tensor, of_bias: tensor, of_added: tensor, alpha: tensor,
    images: constexpr, height: constexpr, width: constexpr, training: constexpr,
    pool: constexpr, adds: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    """Writes the gradients of a norm's maps, weight, bias and, if it adds any, of the maps added.

    With g, the gradient of a channel's result before activation and pool, and h, its normed maps, they are
    weight * scale * (g - mean of g - h * mean of g h), sum of g h, sum of g, and g.
    """
    channel = tl.program_id(0).to(tl.int64)  # of all rounds
    count: constexpr = images * height * width
    to_size: constexpr = images * (height // 2) * (width // 2) if pool else count
    alpha = read_alpha(alpha, activation)
    maps, of_maps, of_added = maps + channel * count, of_maps + channel * count, of_added + channel * count
    out, gradient = out + channel * to_size, gradient + channel * to_size
    mean, scale = tl.load(means + channel), tl.load(scales + channel)
    slope, shift = tl.load(weight + channel) * scale, tl.load(bias + channel)
    total, weighted = _sums(
        maps, out, gradient, of_added, mean, scale, slope, shift, alpha,
        images, height, width, pool, adds, activation, block,
    )  # fmt: skip
    tl.store(of_bias + channel, total)
    tl.store(of_weight + channel, weighted)
    level, bend = 0.0, 0.0
    if training:
        level, bend = total / count, scale * (weighted / count)
    _write_gradient(
        maps, out, gradient, of_maps, mean, level, bend, slope, shift, alpha,
        images, height, width, pool, activation, block,
    )  # fmt: skip


@kernel
def _sums(
    maps: tensor, out: tensor, gradient: tensor, of_added: tensor,
    mean: tensor, scale: tensor, slope: tensor, shift: tensor, alpha: tensor,
    images: constexpr, height: constexpr, width: constexpr,
    pool: constexpr, adds: constexpr, activation: constexpr, block: constexpr,
) -> Any:  # fmt: skip
    """Returns a channel's sums of g and of g h; writes g as the gradient of what was added."""
    count: constexpr = images * height * width
    sums, products = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    if pool:
        for start in range(0, images * ((height + 1) // 2) * ((width + 1) // 2), block):
            index = start + tl.arange(0, block)
            _, _, _, g, which, x0, x1, x2, x3 = _windows(
                maps, out, gradient, index, mean, slope, shift, alpha, images, height, width, activation
            )
            x = tl.where(which == 0, x0, tl.where(which == 1, x1, tl.where(which == 2, x2, x3)))
            sums += g
            products += g * ((x - mean) * scale)
    else:
        for start in range(0, count, block):
            index = start + tl.arange(0, block)
            g = _before(gradient + index, out + index, index < count, alpha, activation)
            if adds:
                tl.store(of_added + index, g, mask=index < count)
            sums += g
            products += g * ((tl.load(maps + index, mask=index < count, other=0.0) - mean) * scale)
    return tl.sum(sums), tl.sum(products)


@kernel
def _write_gradient(
    maps: tensor, out: tensor, gradient: tensor, of_maps: tensor,
    mean: tensor, level: tensor, bend: tensor, slope: tensor, shift: tensor, alpha: tensor,
    images: constexpr, height: constexpr, width: constexpr,
    pool: constexpr, activation: constexpr, block: constexpr,
) -> None:  # fmt: skip
    """Writes a channel's slope * (g - level - bend * (maps - mean))."""
    count: constexpr = images * height * width
    if pool:
        windows: constexpr = images * ((height + 1) // 2) * ((width + 1) // 2)
        for start in range(0, windows, block):
            index = start + tl.arange(0, block)
            first, right, below, g, which, x0, x1, x2, x3 = _windows(
                maps, out, gradient, index, mean, slope, shift, alpha, images, height, width, activation
            )
            of_first = of_maps + first
            rest0, rest1 = level + bend * (x0 - mean), level + bend * (x1 - mean)
            rest2, rest3 = level + bend * (x2 - mean), level + bend * (x3 - mean)
            tl.store(of_first, slope * (tl.where(which == 0, g, 0.0) - rest0), mask=index < windows)
            tl.store(of_first + 1, slope * (tl.where(which == 1, g, 0.0) - rest1), mask=right)
            tl.store(of_first + width, slope * (tl.where(which == 2, g, 0.0) - rest2), mask=below)
            tl.store(of_first + width + 1, slope * (tl.where(which == 3, g, 0.0) - rest3), mask=right & below)
    else:
        for start in range(0, count, block):
            index = start + tl.arange(0, block)
            g = _before(gradient + index, out + index, index < count, alpha, activation)
            x = tl.load(maps + index, mask=index < count, other=0.0)
            tl.store(of_maps + index, slope * (g - level - bend * (x - mean)), mask=index < count)


@kernel
def _windows(
    maps: tensor, out: tensor, gradient: tensor, index: tensor,
    mean: tensor, slope: tensor, shift: tensor, alpha: tensor,
    images: constexpr, height: constexpr, width: constexpr, activation: constexpr,
) -> Any:  # fmt: skip
    """Returns of 2x2 windows where they lie, what is inside, g, which number is the largest, and the four numbers."""
    first, to, right, below = window(index, images, height, width)
    inside = index < images * ((height + 1) // 2) * ((width + 1) // 2)
    x0, x1, x2, x3 = four(maps + first, inside, right, below, width)
    _, which = largest(
        (x0 - mean) * slope + shift, (x1 - mean) * slope + shift,
        (x2 - mean) * slope + shift, (x3 - mean) * slope + shift,
    )  # fmt: skip
    g = _before(gradient + to, out + to, right & below, alpha, activation)  # 0 where the window has no result
    return first, right, below, g, which, x0, x1, x2, x3


@kernel
def _before(gradient: tensor, out: tensor, inside: tensor, alpha: tensor, activation: constexpr) -> Any:
    """Returns the gradient before the activation, 0 outside."""
    g = tl.load(gradient, mask=inside, other=0.0)
    return activation_gradient(g, tl.load(out, mask=inside, other=0.0), alpha, activation)
