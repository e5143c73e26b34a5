"""What the kernels of this folder share: Triton's compiler, products in a precision, indices that may be large."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr, tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton runs kernels on a CPU, slowly: for tests
PRECISIONS = ("tf32x3", "ieee", "tf32", "bf16")
"""Of products: the first two are exact to float32, of which the first is faster (three passes of the tensor cores).
`tf32` rounds to 10 bits, `bf16` to 7. Sums are in float32 in all of them."""


def kernel(function: Callable[..., Any]) -> Any:
    """Has Triton compile a function, as a kernel to be launched or a part of one."""
    return triton.jit(function)


def kernel_for_any(*numbers: str) -> Callable[[Callable[..., Any]], Any]:
    """Has Triton compile a kernel once for all values of some arguments, also for 1 and for multiples of 16."""
    return lambda function: triton.jit(function, do_not_specialize=numbers)


def runs_on(tensor: Tensor) -> bool:
    """Says whether the kernels take such a tensor: float32 on a GPU, or on a CPU where Triton interprets them."""
    return tensor.dtype == torch.float32 and (tensor.is_cuda or INTERPRETED)


def apply(function: type[torch.autograd.Function], first: Tensor, *others: Any) -> Tensor:
    """Returns the result of a differentiable function, launched where its first tensor is."""
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        result: Tensor = function.apply(first, *others)
    return result


def blocks(size: int, block: int) -> int:
    """Returns how many blocks cover a size."""
    return -(-size // block)


def power_of_two(size: int, least: int, most: int) -> int:
    """Returns the least power of two that covers a size, within bounds that are powers of two."""
    return max(least, min(most, 1 << (size - 1).bit_length()))


def way_of(precision: str) -> str:
    """Returns how `product` is to come to a precision. Triton's interpreter multiplies no bfloat16."""
    return "bf16 in float32" if precision == "bf16" and INTERPRETED else precision


@kernel
def product(left: tensor, right: tensor, total: tensor, way: constexpr) -> Any:
    """Returns total (I, J) + left (I, K) @ right (K, J)."""
    if way == "bf16":
        total = tl.dot(left.to(tl.bfloat16), right.to(tl.bfloat16), total)
    elif way == "bf16 in float32":
        total = tl.dot(left.to(tl.bfloat16).to(tl.float32), right.to(tl.bfloat16).to(tl.float32), total)
    else:
        total = tl.dot(left, right, total, input_precision=way)
    return total


@kernel
def wide(index: tensor, span: constexpr) -> Any:
    """Returns an index in 64 bits where the offsets made of it span 2**31 or more, else as it is."""
    if span >= 2147483648:
        index = index.to(tl.int64)
    return index


@kernel
def indices(block: constexpr, count: constexpr) -> Any:
    """Returns which of `count` numbers are this program's, in 64 bits where there are many."""
    first = tl.program_id(0)
    if count >= 2147483648 - block:
        first = first.to(tl.int64)
    return first * block + tl.arange(0, block)
