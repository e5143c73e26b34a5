"""Finds out how many trials of a structure a GPU trains fastest at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from hpo.errors import is_out_of_memory
from hpo.training.batch import Batch
from hpo.training.recording.recorded import RecordedRounds
from hpo.training.rounds import Rounds

CANDIDATES = (1, 2, 4, 8)
EPOCHS = 5
GAIN = 1.1  # in trials a second, for which more are taken: each holds memory, and begins before others have ended


def most_together(several: list[RecordedRounds], another: Callable[[], Rounds], train: Batch) -> int:
    """Returns how many trials at once to train: more, as long as that trains more trials a second, and memory is left.

    Args:
        several: one recorded structure; as many are added as were tried.
        another: makes another of the same.
        train: the data that they were recorded with.
    """
    best, rate = 1, 0.0
    for number in CANDIDATES:
        try:
            while len(several) < number:
                made = another()
                if not isinstance(made, RecordedRounds):  # which says so itself
                    return best
                several.append(made)
        except RuntimeError as error:
            if is_out_of_memory(error):
                break
            raise
        seconds = seconds_of_an_epoch(several[:number], train)
        if number / seconds < GAIN * rate:
            break
        best, rate = number, number / seconds
    return best


def seconds_of_an_epoch(several: list[RecordedRounds], train: Batch) -> float:
    """Returns how long an epoch takes of several trials at once, the fastest of some: it may be a few milliseconds."""
    rounds, count, device = several[0].rounds, train[0].shape[1], train[0].device
    orders = torch.arange(count, device=device).expand(rounds, count).contiguous()
    fastest = math.inf
    for _ in range(EPOCHS):
        _wait(device)
        began = time.perf_counter()
        for one in several:
            with one.launching():
                one.train_epoch(train, orders, None)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
