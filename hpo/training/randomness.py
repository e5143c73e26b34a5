"""Random numbers of a round's own, whatever it draws them from: torch, on any device, NumPy or Python.

Dropout, for one, draws from a generator that all rounds would share, so that what a round comes to would depend on the
rounds before it, and on the trials before that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpo.study.task import Round

State = tuple[Any, ...]


class RandomStream:
    """The random numbers of one round, from its seed on.

    Args:
        seed: in [0, 2**32).
        device: the network's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        before = _state(device)
        try:
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            self._at = _state(device)
        finally:
            _restore(before, device)

    @contextmanager
    def drawing(self, *, goes_on: bool = True) -> Iterator[None]:
        """Context manager in which everything draws from this stream; every generator is then as it was before.

        Args:
            goes_on: whether the stream goes on from there the next time, or begins at the same place again.
        """
        before = _state(self._device)
        _restore(self._at, self._device)
        try:
            yield
            if goes_on:
                self._at = _state(self._device)
        finally:
            _restore(before, self._device)


def draws_numbers(call: Callable[[], object], device: torch.device) -> bool:
    """Says whether a call draws random numbers; it may fail, and leaves every generator as it was."""
    before = _state(device)
    try:
        call()
        return not _are_equal(before, _state(device))
    finally:
        _restore(before, device)


def _state(device: torch.device) -> State:
    of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), of_device, np.random.get_state(), random.getstate()


def _restore(state: State, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
    np.random.set_state(state[2])
    random.setstate(state[3])


def _are_equal(one: State, other: State) -> bool:
    same_numpy = all(np.array_equal(ours, theirs) for ours, theirs in zip(one[2], other[2], strict=True))
    same_device = one[1] is None or torch.equal(one[1], other[1])
    return torch.equal(one[0], other[0]) and same_device and same_numpy and one[3] == other[3]


class EpochNumbers:
    """Random numbers by which R rounds vary their data in an epoch: the same on every device, however they are trained.

    Each kind has a name, and a stream of its own in every round and epoch: what else is drawn does not move it.
    """

    def __init__(self, rounds: Sequence[Round], epoch: int, device: torch.device, dtype: torch.dtype) -> None:
        self._rounds, self._epoch, self._device, self._dtype = rounds, epoch, device, dtype

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Returns numbers between -1 and 1, (R, *shape)."""
        drawn = torch.stack([torch.rand(shape, generator=one) for one in self._generators(name)])
        return (2 * drawn - 1).to(self._device, self._dtype)

    def permutations(self, name: str, count: int) -> Tensor:
        """Returns an order of so many things for each round, (R, count)."""
        drawn = [torch.randperm(count, generator=one) for one in self._generators(name)]
        return torch.stack(drawn).to(self._device)

    def _generators(self, name: str) -> Iterator[torch.Generator]:
        for one in self._rounds:
            yield torch.Generator().manual_seed(one.training_seed(f"{name}, epoch {self._epoch}"))
