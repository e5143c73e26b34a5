"""Lets a function of R stacked networks stand in a network that runs under vmap, or alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import debug_unwrap


def of_all_rounds(function: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """Returns what a function makes of tensors, each of one network.

    Args:
        function: takes the tensors of all R networks, (R, ...) each, and returns (R, ...).
        tensors: inside vmap those of the network that vmap shows, else of the only one: R is 1.
    """
    if any(tensor is not None and debug_unwrap(tensor, recurse=False) is not tensor for tensor in tensors):
        result: Tensor = _OfAllRounds.apply(function, *tensors)
        return result
    return function(*(None if tensor is None else tensor.unsqueeze(0) for tensor in tensors)).squeeze(0)


class _OfAllRounds(torch.autograd.Function):
    """Has a rule for vmap alone, which differentiates by itself."""

    @staticmethod
    def forward(*_: Any) -> Tensor:
        raise NotImplementedError("kernels of stacked networks are for one vmap, not for vmap in vmap, or grad in vmap")

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Callable[..., Tensor], *tensors: Tensor | None) -> tuple[Tensor, int]:
        stacked = [
            None if one is None else one.expand(info.batch_size, *one.shape) if dim is None else one.movedim(dim, 0)
            for one, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return function(*stacked), 0
