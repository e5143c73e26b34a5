"""Numba's compiler, as all kernels use it.

What is compiled is kept beside its file (or in NUMBA_CACHE_DIR) for the next process; a process that may write to
neither compiles for itself. What is kept is made again when its own file changes, so a compiled function calls none of
another file. Sums may be taken in any order; numbers that are not finite stay so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
Array = NDArray[Any]  # the numbers of one call are all of float32 or of float64


def compiled(function: Function) -> Function:
    """Has Numba compile a function at its first call, and keep it where there is a folder that it may write to."""
    options: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no such folder, neither beside this file nor in the user's cache
        return njit(**options)(function)  # type: ignore[no-any-return]


def as_array(tensor: Tensor) -> Array:
    """Returns a tensor of the CPU as an array on the same memory."""
    return tensor.detach().numpy()
