"""Draws the data of rounds, puts it on their device, and keeps that of the last rounds which were asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from hpo.study.task import Round
from hpo.training.batch import Batch, stack, to_device
from hpo.training.network_task import NetworkTask, Split

MOST_ORDERS = 8_000_000  # numbers of examples that are kept for the trials to come: 64 MB
MOST_BYTES = 256 * 1024**2  # of data that are kept, unless more are asked for at once


class RoundData:
    """The data of a network task's rounds, on a device.

    Args:
        dtype: of its floats.
        select_on: `test`, or `validation`: then the task's validation examples are in the test's place.
    """

    def __init__(self, task: NetworkTask, device: torch.device, dtype: torch.dtype, select_on: str = "test") -> None:
        self._task, self.device, self.dtype, self._select_on = task, device, dtype, select_on
        self._groups: dict[tuple[Round, ...], list[tuple[Round, ...]]] = {}  # asked for -> trained together
        self._splits: dict[tuple[Round, ...], Split] = {}

    def groups(self, rounds: Sequence[Round]) -> list[tuple[Round, ...]]:
        """Returns which rounds are trained together: all of them, or each alone where they differ in size."""
        wanted = tuple(rounds)
        if wanted not in self._groups:
            whole = {(one.number, one.study_seed): one for one in wanted}  # members of a round share its data
            splits = {key: self._draw(one) for key, one in whole.items()}
            drawn = {one: splits[one.number, one.study_seed] for one in wanted}
            alike = len({_shapes(split) for split in drawn.values()}) == 1
            self._groups[wanted] = [wanted] if alike else [(one,) for one in wanted]
            self._splits |= {group: self._stack([drawn[one] for one in group]) for group in self._groups[wanted]}
            self._make_room()
        return self._groups[wanted]

    def _draw(self, round_: Round) -> Split:
        split = self._task.data(round_)
        if self._select_on == "test":
            return split
        validation: Callable[[Round], Batch] = getattr(self._task, "validation")  # noqa: B009 - not all tasks have it
        return split._replace(test=validation(round_))

    def _make_room(self) -> None:
        """Lets what was asked for first go; what fits is kept, for where rounds go in turn each is asked for again."""
        while len(self._groups) > 1 and sum(map(_bytes_of, self._splits.values())) > MOST_BYTES:
            del self._groups[next(iter(self._groups))]
            kept = {group for groups in self._groups.values() for group in groups}
            self._splits = {group: split for group, split in self._splits.items() if group in kept}

    def of(self, rounds: Sequence[Round]) -> Split:
        """Returns the data of R rounds that are trained together, (R, N, ...) each.

        Raises:
            ValueError: where they differ in size.
        """
        wanted = tuple(rounds)
        if wanted not in self._splits and self.groups(wanted) != [wanted]:
            raise ValueError("rounds whose data differ in size cannot be trained together")
        return self._splits[wanted]

    def _stack(self, drawn: Sequence[Split]) -> Split:
        parts = stack([one.train for one in drawn]), stack([one.test for one in drawn])
        return Split(*(to_device(part, self.device, self.dtype) for part in parts))


class Orders:
    """The orders in which R rounds see their training examples, epoch after epoch, drawn once for all trials.

    Args:
        seeds: of the rounds.
        count: N, how many examples each has.
    """

    def __init__(self, seeds: Sequence[int], count: int, device: torch.device) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._count, self._device = count, device
        self._drawn: list[Tensor] = []

    def of(self, epoch: int) -> Tensor:
        """Returns the orders of an epoch, (R, N), on the device; epochs are counted from 1."""
        while len(self._drawn) < epoch:
            orders = torch.stack([torch.randperm(self._count, generator=one) for one in self._generators])
            self._drawn.append(orders.to(self._device))
        return self._drawn[epoch - 1]


class KeptOrders:
    """The orders of the last rounds that were trained, unless they are too many to be kept."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: tuple[Hashable, Orders] | None = None

    def of(self, rounds: Sequence[Round], count: int, epochs: int) -> Orders:
        """Returns the orders of R rounds of so many examples each, for so many epochs."""
        key, is_kept = (tuple(rounds), count), epochs * len(rounds) * count <= MOST_ORDERS
        if is_kept and self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        orders = Orders([one.training_seed("shuffle") for one in rounds], count, self._device)
        if is_kept:
            self._kept = key, orders
        return orders


def _bytes_of(split: Split) -> int:
    tensors = [tensor for part in split for tensor in part]
    return sum(one.numel() * one.element_size() // (len(one) if one.stride(0) == 0 else 1) for one in tensors)


def _shapes(split: Split) -> tuple[tuple[torch.Size, ...], ...]:
    return tuple(tuple(tensor.shape for tensor in part) for part in split)
