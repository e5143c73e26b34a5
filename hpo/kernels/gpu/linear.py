"""Small linear layers with their activation: a product of matrices, forward and for each gradient, in one kernel.

cuBLAS takes several launches and small tiles for these. The activation's slope, told from its result, is put in where a
gradient is read, and the bias' gradient is summed where the weight's is. Sizes are arguments, not constants, so that
layers share what is compiled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.language import constexpr, tensor

from hpo.kernels.gpu.activation import NONE, Activation, activate, activation_gradient, read_alpha
from hpo.kernels.gpu.language import apply, blocks, kernel_for_any, power_of_two, product, way_of
from hpo.kernels.gpu.tiles import Tile, choose


class _Matrices(NamedTuple):
    """The sizes and strides of a product (I, K) @ (K, J) of each of R rounds, its factors anywhere in memory."""

    rows: int
    columns: int
    depth: int
    left_round: int
    left_row: int
    left_depth: int
    right_round: int
    right_depth: int
    right_column: int

    @property
    def are_far(self) -> bool:
        """Whether an index within a round may need 64 bits."""
        left = self.rows * self.left_row + self.depth * self.left_depth
        right = self.depth * self.right_depth + self.columns * self.right_column
        return max(left, right, self.rows * self.columns) >= 2**31


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, precision: str) -> Tensor:
    """Returns the activation of inputs @ weight^T + bias, of R rounds.

    Args:
        inputs: (R, N, I).
        weight: (R, O, I).
        bias: (R, O), or none.
        activation: applied to the result.
        precision: of the products, one of `language.PRECISIONS`.

    Returns:
        (R, N, O).
    """
    return apply(_Linear, inputs, weight, bias, activation, way_of(precision))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, way: str
    ) -> Tensor:
        result = inputs.new_empty(*inputs.shape[:2], weight.shape[1])
        _multiplied(inputs, weight.transpose(1, 2), result, way, bias=bias, after=activation)
        context.save_for_backward(inputs, weight, result if activation.kind != NONE.kind else None)
        context.activation, context.way, context.biased = activation, way, bias is not None
        return result

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        inputs, weight, result = context.saved_tensors
        activation, way = context.activation, context.way
        gradient = gradient.contiguous()
        of_inputs = of_weight = of_bias = None
        if context.needs_input_grad[0]:
            of_inputs = gradient.new_empty(inputs.shape)
            _multiplied(gradient, weight, of_inputs, way, result=result, before=activation)
        if any(context.needs_input_grad[1:3]):
            of_weight = gradient.new_empty(weight.shape)
            of_bias = gradient.new_empty(weight.shape[:2]) if context.biased else None
            turned = None if result is None else result.transpose(1, 2)
            _multiplied(
                gradient.transpose(1, 2), inputs, of_weight, way, result=turned, before=activation, sums=of_bias
            )
        return of_inputs, of_weight, of_bias, None, None


def _multiplied(
    left: Tensor,
    right: Tensor,
    out: Tensor,
    way: str,
    *,
    bias: Tensor | None = None,
    after: Activation = NONE,
    result: Tensor | None = None,
    before: Activation = NONE,
    sums: Tensor | None = None,
) -> None:
    """Writes out (R, I, J) = after(left (R, I, K) @ right (R, K, J) + bias (R, J)).

    Args:
        after: an activation of the product.
        result: where left is a gradient: of the activation `before`, whose result lies in memory as left does.
        sums: written, if given: the sums of left's rows, (R, I).
    """
    rounds, rows, depth = left.shape
    sizes = _Matrices(rows, right.shape[2], depth, *left.stride(), *right.stride())
    activations = (after.kind, before.kind)
    flags = (bias is not None, sums is not None)
    bias = None if bias is None else bias.contiguous()
    alpha = after.alpha_or(before.alpha_or(out))

    def launch(tile: Tile) -> None:
        grid = (blocks(rows, tile.rows), blocks(sizes.columns, tile.columns), rounds)
        _multiply[grid](
            left, left if result is None else result, right, out if bias is None else bias, out,
            out if sums is None else sums, alpha, *sizes, sizes.are_far, *flags, *activations, way,
            tile.rows, tile.columns, tile.depth, **tile.options,
        )  # fmt: skip

    launch(choose(("linear", rounds, *sizes, *flags, way), out.device, _tiles(sizes), launch))


def _tiles(sizes: _Matrices) -> list[Tile]:
    shapes = ((32, 32, 32, 2), (64, 32, 32, 4), (16, 64, 64, 4), (64, 64, 32, 4))
    fit = [
        Tile(
            power_of_two(sizes.rows, 16, rows), power_of_two(sizes.columns, 16, columns),
            power_of_two(sizes.depth, 16, depth), warps=warps,
        )
        for rows, columns, depth, warps in shapes
    ]  # fmt: skip
    return list(dict.fromkeys(fit))


@kernel_for_any("rows", "columns", "depth", "left_round", "right_round")
def _multiply(
    left: tensor, result: tensor, right: tensor, bias: tensor, out: tensor, sums: tensor, alpha: tensor,
    rows: tensor, columns: tensor, depth: tensor, left_round: tensor, left_row: tensor, left_depth: tensor,
    right_round: tensor, right_depth: tensor, right_column: tensor, far: constexpr,
    biased: constexpr, summed: constexpr, after: constexpr, before: constexpr, way: constexpr,
    block_i: constexpr, block_j: constexpr, block_k: constexpr,
) -> None:  # fmt: skip
    r = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * block_i + tl.arange(0, block_i)
    j = tl.program_id(1) * block_j + tl.arange(0, block_j)
    if far:
        i, j = i.to(tl.int64), j.to(tl.int64)
    alpha = read_alpha(alpha, after if before == "none" else before)
    total = tl.zeros((block_i, block_j), tl.float32)
    row_sums = tl.zeros((block_i,), tl.float32)
    for start in range(0, depth, block_k):
        k = start + tl.arange(0, block_k)
        if far:
            k = k.to(tl.int64)
        at = r * left_round + i[:, None] * left_row + k[None, :] * left_depth
        inside = (i < rows)[:, None] & (k < depth)[None, :]
        a = tl.load(left + at, mask=inside, other=0.0)
        if before != "none":
            a = activation_gradient(a, tl.load(result + at, mask=inside, other=0.0), alpha, before)
        at = r * right_round + k[:, None] * right_depth + j[None, :] * right_column
        b = tl.load(right + at, mask=(k < depth)[:, None] & (j < columns)[None, :], other=0.0)
        total = product(a, b, total, way)
        if summed:
            row_sums += tl.sum(a, 1)
    if biased:
        total += tl.load(bias + r * columns + j, mask=j < columns, other=0.0)[None, :]
    at = r * (rows * columns) + i[:, None] * columns + j[None, :]
    tl.store(out + at, activate(total, alpha, after), mask=(i < rows)[:, None] & (j < columns)[None, :])
    if summed:
        tl.store(sums + r * rows + i, row_sums, mask=(i < rows) & (tl.program_id(1) == 0))
