"""2x2 windows of maps, as parts of kernels: where they lie, what is in them, and which number is the largest."""

from __future__ import annotations

from typing import Any

import triton.language as tl
from triton.language import constexpr, tensor

from hpo.kernels.gpu.language import kernel


@kernel
def window(index: tensor, images: constexpr, height: constexpr, width: constexpr) -> Any:
    """Returns where a 2x2 window's first number and its result lie, and whether it has a right and a lower half.

    Windows are those that cover the maps: where a size is odd, the last have no result.
    """
    down: constexpr = (height + 1) // 2
    across: constexpr = (width + 1) // 2
    n, position = index // (down * across), index % (down * across)
    i, j = position // across, position % across
    inside = index < images * down * across
    first = n * (height * width) + 2 * i * width + 2 * j
    to = (n * (height // 2) + i) * (width // 2) + j
    return first, to, inside & (2 * j + 1 < width), inside & (2 * i + 1 < height)


@kernel
def four(maps: tensor, inside: tensor, right: tensor, below: tensor, width: constexpr) -> Any:
    """Returns the numbers of 2x2 windows, row by row; 0 for what lies outside."""
    return (
        tl.load(maps, mask=inside, other=0.0),
        tl.load(maps + 1, mask=right, other=0.0),
        tl.load(maps + width, mask=below, other=0.0),
        tl.load(maps + width + 1, mask=right & below, other=0.0),
    )


@kernel
def _larger(z: tensor, which: tensor, other: tensor, number: constexpr) -> Any:
    """Returns the larger of z and another number, and which of all it is."""
    takes = (other > z) | (other != other)
    return tl.where(takes, other, z), tl.where(takes, number, which)


@kernel
def largest(z0: tensor, z1: tensor, z2: tensor, z3: tensor) -> Any:
    """Returns the largest of four, and which it is: the first of equal ones, the last NaN."""
    z, which = _larger(z0, tl.zeros_like(z0).to(tl.int32), z1, 1)
    z, which = _larger(z, which, z2, 2)
    return _larger(z, which, z3, 3)
