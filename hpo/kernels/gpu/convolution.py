"""Convolutions of stride 1 as products of matrices whose patches are gathered on the way and never written.

A result's map is a row of M = N * H' * W' numbers, a patch a column of K = C * KH * KW: results are weights (O, K)
times patches (K, M). The gradient of the maps is again a convolution, by the weights turned round, and that of the
weights is the gradient of the results times patches, summed over M by several programs whose parts are added in order.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.language import constexpr, tensor

from hpo.kernels.gpu.language import apply, blocks, kernel, power_of_two, product, way_of, wide
from hpo.kernels.gpu.tiles import Tile, choose

PROGRAMS = 264  # that share the sums of a weight gradient: two for each multiprocessor of an H100
MOST_SPLITS = 32


class _Sizes(NamedTuple):
    """The constants of a convolution: maps (C, N, H, W) to (O, N, H', W')."""

    channels: int
    images: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    pad_height: int
    pad_width: int

    @property
    def turned(self) -> _Sizes:
        """Those of the convolution that makes the gradient of the maps of that of the results."""
        return _Sizes(
            self.out_channels, self.images, self.out_height, self.out_width,
            self.channels, self.height, self.width, self.kernel_height, self.kernel_width,
            self.kernel_height - 1 - self.pad_height, self.kernel_width - 1 - self.pad_width,
        )  # fmt: skip

    @property
    def positions(self) -> int:
        """M."""
        return self.images * self.out_height * self.out_width

    @property
    def patch(self) -> int:
        """K."""
        return self.channels * self.kernel_height * self.kernel_width


def convolution(maps: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], precision: str) -> Tensor:
    """Returns the convolutions of R rounds, of stride 1 with zeros around the maps.

    Args:
        maps: (R, C, N, H, W).
        weight: (R, O, C, KH, KW).
        bias: (R, O), or none.
        padding: rows above and below, columns left and right.
        precision: of the products, one of `language.PRECISIONS`.

    Returns:
        (R, O, N, H', W').
    """
    return apply(_Convolution, maps, weight, bias, padding, way_of(precision))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], way: str
    ) -> Tensor:
        maps, weight = maps.contiguous(), weight.contiguous()
        _, channels, images, height, width = maps.shape
        out_channels, (kernel_height, kernel_width) = weight.shape[1], weight.shape[3:]
        out = (height + 2 * padding[0] - kernel_height + 1, width + 2 * padding[1] - kernel_width + 1)
        sizes = _Sizes(channels, images, height, width, out_channels, *out, kernel_height, kernel_width, *padding)
        context.save_for_backward(maps, weight)
        context.sizes, context.way, context.biased = sizes, way, bias is not None
        return _convolved(maps, weight, bias, sizes, way)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        maps, weight = context.saved_tensors
        sizes, way = context.sizes, context.way
        gradient = gradient.contiguous()
        of_maps = of_weight = of_bias = None
        if context.needs_input_grad[0]:
            of_maps = _convolved(gradient, weight, None, sizes.turned, way, turned=True)
        if any(context.needs_input_grad[1:3]):
            of_weight, of_bias = _weight_gradient(maps, gradient, sizes, way, weight, biased=context.biased)
        return of_maps, of_weight, of_bias, None, None


def _convolved(
    maps: Tensor, weight: Tensor, bias: Tensor | None, sizes: _Sizes, way: str, *, turned: bool = False
) -> Tensor:
    """Returns maps (R, C, N, H, W) convolved; by weights (R, C, O, KH, KW) turned round, for a gradient."""
    rounds = len(maps)
    out = maps.new_empty(rounds, sizes.out_channels, sizes.images, sizes.out_height, sizes.out_width)
    if bias is not None:
        bias = bias.contiguous()

    def launch(tile: Tile) -> None:
        grid = (blocks(sizes.positions, tile.rows), blocks(sizes.out_channels, tile.columns), rounds)
        _convolve[grid](
            maps, weight, out if bias is None else bias, out, *sizes, turned, bias is not None, way,
            tile.rows, tile.columns, tile.depth, **tile.options,
        )  # fmt: skip

    columns = power_of_two(sizes.out_channels, 16, 64)
    tiles = [Tile(rows, columns, depth, warps=4, stages=3) for rows, depth in ((128, 16), (64, 32), (128, 32))]
    tiles.append(Tile(256, columns, 16, warps=8, stages=3))
    tile = choose(("convolution", rounds, *sizes, turned, bias is not None, way), maps.device, tiles, launch)
    launch(tile)
    return out


@kernel
def _convolve(
    maps: tensor, weight: tensor, bias: tensor, out: tensor,
    channels: constexpr, images: constexpr, height: constexpr, width: constexpr,
    out_channels: constexpr, out_height: constexpr, out_width: constexpr,
    kernel_height: constexpr, kernel_width: constexpr, pad_height: constexpr, pad_width: constexpr,
    turned: constexpr, biased: constexpr, way: constexpr,
    block_m: constexpr, block_o: constexpr, block_k: constexpr,
) -> None:  # fmt: skip
    """out[r,o,n,i,j] = bias[r,o] + sum over c,u,v of weight[r,o,c,u,v] * maps[r,c,n,i+u-pad,j+v-pad]."""
    r = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * block_m + tl.arange(0, block_m)
    o = tl.program_id(1) * block_o + tl.arange(0, block_o)
    area: constexpr = kernel_height * kernel_width
    patch: constexpr = channels * area
    positions: constexpr = images * out_height * out_width
    maps += r * (channels * images * height * width)
    weight += r * (out_channels * patch)
    total = tl.zeros((block_o, block_m), tl.float32)
    for start in range(0, patch, block_k):
        k = start + tl.arange(0, block_k)
        numbers = _patches(
            maps, k[:, None], m[None, :], channels, images, height, width,
            out_height, out_width, kernel_height, kernel_width, pad_height, pad_width,
        )  # fmt: skip
        c, tap = k // area, k % area
        if turned:
            taps = (c * (out_channels * area) + (area - 1 - tap))[None, :] + (o * area)[:, None]
        else:
            taps = k[None, :] + (o * patch)[:, None]
        filters = tl.load(weight + taps, mask=(k < patch)[None, :] & (o < out_channels)[:, None], other=0.0)
        total = product(filters, numbers, total, way)
    if biased:
        total += tl.load(bias + r * out_channels + o, mask=o < out_channels, other=0.0)[:, None]
    out += r * (out_channels * positions)
    at = wide(o, out_channels * positions)[:, None] * positions + m[None, :]
    tl.store(out + at, total, mask=(m < positions)[None, :] & (o < out_channels)[:, None])


@kernel
def _patches(
    maps: tensor, k: tensor, m: tensor,
    channels: constexpr, images: constexpr, height: constexpr, width: constexpr,
    out_height: constexpr, out_width: constexpr, kernel_height: constexpr, kernel_width: constexpr,
    pad_height: constexpr, pad_width: constexpr,
) -> Any:  # fmt: skip
    """Returns number k of the patch at position m of a round's maps; k and m are a row and a column, or turned."""
    area: constexpr = kernel_height * kernel_width
    c, tap = k // area, k % area
    n, position = m // (out_height * out_width), m % (out_height * out_width)
    # What depends on one of them alone is computed for few numbers.
    row = tap // kernel_width + (position // out_width - pad_height)
    column = tap % kernel_width + (position % out_width - pad_width)
    inside = (k < channels * area) & (m < images * out_height * out_width)
    if pad_height > 0:
        inside = inside & (row >= 0) & (row < height)
    if pad_width > 0:
        inside = inside & (column >= 0) & (column < width)
    c = wide(c, channels * images * height * width)
    at = c * (images * height * width) + n * (height * width) + row * width + column
    return tl.load(maps + at, mask=inside, other=0.0)


def _weight_gradient(
    maps: Tensor, gradient: Tensor, sizes: _Sizes, way: str, weight: Tensor, *, biased: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns the gradients of weight (R, O, C, KH, KW) and bias (R, O), given that of the results."""
    rounds, length = len(maps), sizes.out_channels * sizes.patch
    of_weight = torch.empty_like(weight)
    of_bias = weight.new_empty(rounds, sizes.out_channels) if biased else None
    both = length + (sizes.out_channels if biased else 0)

    def launch(tile: Tile) -> None:
        parts = weight.new_empty(rounds, tile.splits, both)
        chunk = blocks(blocks(sizes.positions, tile.splits), tile.depth) * tile.depth
        grid = (
            blocks(sizes.patch, tile.columns) * blocks(sizes.out_channels, tile.rows), tile.splits, rounds,
        )  # fmt: skip
        _multiply_patches[grid](
            maps, gradient, parts, *sizes, chunk, biased, way, tile.rows, tile.columns, tile.depth, **tile.options
        )
        _add_parts[(blocks(both, 256), rounds)](
            parts, of_weight, of_weight if of_bias is None else of_bias, length, both, tile.splits, 256
        )

    key = ("weights of convolution", rounds, *sizes, biased, way)
    launch(choose(key, maps.device, _weight_tiles(rounds, sizes), launch))
    return of_weight, of_bias


def _weight_tiles(rounds: int, sizes: _Sizes) -> list[Tile]:
    rows, columns = power_of_two(sizes.out_channels, 16, 64), partial(power_of_two, sizes.patch, 16)
    tiles = []
    for most, depth, warps, waves in ((64, 32, 4, 1), (64, 64, 4, 1), (128, 32, 8, 1), (64, 32, 4, 2)):
        tile = Tile(rows, columns(most), depth, warps=warps)
        alone = rounds * blocks(sizes.patch, tile.columns) * blocks(sizes.out_channels, rows)
        splits = min(MOST_SPLITS, waves * PROGRAMS // alone, blocks(sizes.positions, 4 * depth))
        tiles.append(tile._replace(splits=max(1, splits)))
    return list(dict.fromkeys(tiles))


@kernel
def _multiply_patches(
    maps: tensor, gradient: tensor, parts: tensor,
    channels: constexpr, images: constexpr, height: constexpr, width: constexpr,
    out_channels: constexpr, out_height: constexpr, out_width: constexpr,
    kernel_height: constexpr, kernel_width: constexpr, pad_height: constexpr, pad_width: constexpr,
    chunk: constexpr, biased: constexpr, way: constexpr,
    block_o: constexpr, block_k: constexpr, block_m: constexpr,
) -> None:  # fmt: skip
    """Writes the s-th chunk's sums over m of gradient[r,o,m] * patch[r,k,m], (O, K), and of gradient[r,o,m], (O,)."""
    r = tl.program_id(2).to(tl.int64)
    s = tl.program_id(1)
    patch: constexpr = channels * kernel_height * kernel_width
    positions: constexpr = images * out_height * out_width
    across: constexpr = (patch + block_k - 1) // block_k
    k = (tl.program_id(0) % across) * block_k + tl.arange(0, block_k)
    o = (tl.program_id(0) // across) * block_o + tl.arange(0, block_o)
    maps += r * (channels * images * height * width)
    gradient += r * (out_channels * positions)
    total = tl.zeros((block_o, block_k), tl.float32)
    sums = tl.zeros((block_o,), tl.float32)
    for start in range(0, chunk, block_m):
        m = s * chunk + start + tl.arange(0, block_m)
        numbers = _patches(
            maps, k[None, :], m[:, None], channels, images, height, width,
            out_height, out_width, kernel_height, kernel_width, pad_height, pad_width,
        )  # fmt: skip
        at = wide(o, out_channels * positions)[:, None] * positions + m[None, :]
        g = tl.load(gradient + at, mask=(o < out_channels)[:, None] & (m < positions)[None, :], other=0.0)
        total = product(g, numbers, total, way)
        if biased:
            sums += tl.sum(g, 1)
    parts += (r * tl.num_programs(1) + s) * (out_channels * patch + (out_channels if biased else 0))
    tl.store(parts + o[:, None] * patch + k[None, :], total, mask=(o < out_channels)[:, None] & (k < patch)[None, :])
    if biased:
        tl.store(parts + out_channels * patch + o, sums, mask=(o < out_channels) & (tl.program_id(0) % across == 0))


@kernel
def _add_parts(
    parts: tensor, of_weight: tensor, of_bias: tensor,
    length: constexpr, both: constexpr, splits: constexpr, block: constexpr,
) -> None:  # fmt: skip
    """Adds parts (R, S, both) up over S, the first `length` into one gradient and the others into the other."""
    r = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for s in range(splits):
        total += tl.load(parts + (r * splits + s) * both + at, mask=at < both, other=0.0)
    tl.store(of_weight + r * length + at, total, mask=at < length)
    if both > length:
        tl.store(of_bias + r * (both - length) + (at - length), total, mask=(at >= length) & (at < both))
