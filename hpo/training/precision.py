"""The precision in which a network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hpo.training.batch import map_output


def in_precision(precision: str, forward: Callable[[], Any], device: torch.device) -> Any:
    """Returns the output of a forward pass, computed in a precision, its floats in float32."""
    if precision == "float32":
        return forward()
    if precision == "tf32":
        with _tf32():
            return forward()
    with torch.autocast(device.type, getattr(torch, precision)):
        output = forward()
    return map_output(output, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


@contextmanager
def _tf32() -> Iterator[None]:
    """Context manager in which PyTorch's own products on a GPU may round to TF32."""
    libraries: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [library.allow_tf32 for library in libraries]
    try:
        for library in libraries:
            library.allow_tf32 = True
        yield
    finally:
        for library, allowed in zip(libraries, before, strict=True):
            library.allow_tf32 = allowed
