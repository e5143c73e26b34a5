"""The learning-rate range test: trains fresh networks while the rate rises, batch after batch, and records the losses.

What is made of the curves stands in lr_curve.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from hpo.training.batch import Batch, batches
from hpo.training.lr_curve import Floats, LRCurve
from hpo.training.rounds import Rounds

DIVERGED = 4.0  # a round has diverged when its loss exceeds so many times the one that it began with


def run_range_test(
    networks: Rounds,
    data: Batch,
    rates: Floats,
    batch_size: int,
    shuffle_seeds: Sequence[int],
    watch: Callable[[Sequence[float]], Iterable[float]] = iter,
) -> LRCurve:
    """Trains R networks on their rounds' data, one batch at each rate.

    A round whose loss is not finite, or has grown beyond `DIVERGED` times its first, ends there; the others go on.

    Args:
        networks: fresh, and not captured in a CUDA graph, which would hold the rate.
        data: (R, N, ...) each, on the networks' device.
        rates: (S,). Where S batches are more than an epoch has, the examples are shuffled again.
        shuffle_seeds: R seeds.
        watch: goes through the rates one by one, as a progress bar does.
    """
    shuffles = [torch.Generator().manual_seed(seed) for seed in shuffle_seeds]
    count, losses = data[0].shape[1], []
    batches_left: list[Batch] = []
    for rate in watch(rates.tolist()):
        if not batches_left:
            orders = torch.stack([torch.randperm(count, generator=g) for g in shuffles])  # (R, N)
            batches_left = [batch for batch, _ in batches(data, orders.to(data[0].device), batch_size)]
        for optimizer in networks.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses.append(networks.step(batches_left.pop(0)))
    return LRCurve(rates, _end_where_diverged(torch.stack(losses, dim=1).double().cpu()))


def _end_where_diverged(losses: Tensor) -> Floats:
    """Makes everything NaN from where a round diverged: (R, S) -> (R, S)."""
    diverged = ~losses.isfinite() | (losses > DIVERGED * losses[:, :1])
    over = diverged.cummax(dim=1).values
    return np.asarray(losses.masked_fill(over, torch.nan).numpy(), dtype=np.float64)
