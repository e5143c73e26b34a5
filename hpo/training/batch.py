"""Batches: tuples of tensors that have their examples along one dimension, and outputs of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]
"""Tensors of the same examples, (N, ...) each, or for R rounds (R, N, ...); the first is a network's input."""
AnyBatch = TypeVar("AnyBatch", bound=Batch)


def each(batch: AnyBatch, function: Callable[[Tensor], Tensor]) -> AnyBatch:
    """Returns a batch of the same kind, made of what a function makes of each tensor."""
    made = map(function, batch)
    kind: Any = type(batch)
    same: AnyBatch = kind(*made) if hasattr(kind, "_fields") else kind(made)
    return same


def stack(rounds: Sequence[AnyBatch]) -> AnyBatch:
    """Returns the batches of R rounds as one: (N, ...) each -> (R, N, ...). What all rounds share is kept once."""
    parts = iter([_stacked(tensors) for tensors in zip(*rounds, strict=True)])
    return each(rounds[0], lambda _: next(parts))


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    first, *others = tensors
    if others and all(other is first for other in others):
        return first.expand(len(tensors), *first.shape)
    return torch.stack(list(tensors))


def of_round(batch: AnyBatch, r: int) -> AnyBatch:
    """Returns one round's part: (R, N, ...) -> (N, ...)."""
    return each(batch, lambda tensor: tensor[r])


def to_device(batch: AnyBatch, device: torch.device, dtype: torch.dtype = torch.float32) -> AnyBatch:
    """Returns a batch on a device, its floats as `dtype`."""

    def moved(tensor: Tensor) -> Tensor:
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        if tensor.dim() and tensor.stride(0) == 0:  # the rounds share it
            return tensor[0].to(device, wanted).expand(tensor.shape)
        return tensor.to(device, wanted)

    return each(batch, moved)


def batches(data: AnyBatch, orders: Tensor, size: int) -> Iterator[tuple[AnyBatch, float]]:
    """Yields the examples of R rounds in these orders, (R, N), batch by batch; each with its share of N.

    A batch is copied when its turn comes, and is still in the cache when it is trained on. The last may be smaller.
    """
    for chosen in torch.split(orders, size, dim=1):  # (R, B)
        yield take(data, chosen), chosen.shape[1] / orders.shape[1]


def take(data: AnyBatch, chosen: Tensor) -> AnyBatch:
    """Returns the chosen examples of R rounds, (R, B, ...) each; `chosen` (R, B) are their numbers."""
    return take_rows(data, rows_of(data, chosen))


def rows_of(data: Batch, chosen: Tensor) -> Tensor:
    """Returns where chosen examples (R, ...) lie in data whose rounds lie one behind the other."""
    firsts = data[0].shape[1] * torch.arange(len(chosen), device=chosen.device)
    return chosen + firsts.view(-1, *[1] * (chosen.dim() - 1))


def take_rows(data: AnyBatch, rows: Tensor) -> AnyBatch:
    """Returns the examples of R rounds, (R, B, ...) each, that lie in these rows (R, B), see `rows_of`."""
    flat, shape, count = rows.flatten(), rows.shape, data[0].shape[1]

    def taken(tensor: Tensor) -> Tensor:
        if tensor.stride(0) == 0:  # the rounds share it
            return tensor[0].index_select(0, flat % count).view(*shape, *tensor.shape[2:])
        return tensor.flatten(0, 1).index_select(0, flat).view(*shape, *tensor.shape[2:])

    return each(data, taken)


def map_output(output: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Returns a network's output, a tensor or a tuple or a dictionary of tensors, with a function applied to each."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, dict):
        return {name: map_output(part, function) for name, part in output.items()}
    return each(output, function)


def tensors_of(output: Any) -> list[Tensor]:
    """Returns the tensors of a network's output."""
    found: list[Tensor] = []
    map_output(output, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def join(outputs: Sequence[Any], function: Callable[[list[Tensor]], Tensor]) -> Any:
    """Returns several outputs as one, by `torch.cat` or `torch.stack`."""
    parts = iter([function(list(tensors)) for tensors in zip(*map(tensors_of, outputs), strict=True)])
    return map_output(outputs[0], lambda _: next(parts))
