"""The learning-rate range test: trains fresh networks while the rate rises, batch after batch, and records the losses.

What is made of the curves stands in lr_curve.py. Nothing outside is touched: the networks are the test's own, and the
global random state stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.lr_curve import Floats, LRCurve
from hpo.training.optimizers import CPU, TrainingConfig
from hpo.training.rounds import batches
from hpo.training.trainer import make_rounds

DIVERGED = 4.0  # a round has diverged when its loss exceeds so many times the one that it began with


def run_range_test(
    networks: Sequence[nn.Module],
    pairs: Pairs,
    config: TrainingConfig,
    rates: Floats,
    *,
    shuffle_seeds: Sequence[int],
    device: torch.device = CPU,
    stacked: bool | None = None,
    watch: Callable[[Sequence[float]], Iterable[float]] = iter,
) -> LRCurve:
    """Trains R networks on their rounds' pairs, one batch at each rate.

    A round whose loss is not finite, or has grown beyond `DIVERGED` times its first, ends there; the others go on.

    Args:
        networks: R fresh networks of one structure; they are trained in place, or copied.
        config: its learning rate and number of epochs are not used.
        rates: (S,). Where S batches are more than an epoch has, the pairs are shuffled again.
        shuffle_seeds: R seeds.
        stacked: which of the two ways of training; None chooses the faster.
        watch: goes through the rates one by one, as a progress bar does.
    """
    pairs = pairs.to(device, torch.float32)
    rounds = make_rounds([network.to(device) for network in networks], config, device, stacked=stacked, captured=False)
    shuffles = [torch.Generator().manual_seed(seed) for seed in shuffle_seeds]
    count, losses = pairs.targets.shape[1], []
    batches_left: list[Pairs] = []
    for rate in watch(rates.tolist()):
        if not batches_left:
            orders = torch.stack([torch.randperm(count, generator=g) for g in shuffles])  # (R, N)
            batches_left = [batch for batch, _ in batches(pairs, orders.to(device), config.batch_size)]
        for optimizer in rounds.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses.append(rounds.step(batches_left.pop(0)))
    return LRCurve(rates, _end_where_diverged(torch.stack(losses, dim=1).double().cpu()))


def _end_where_diverged(losses: Tensor) -> Floats:
    """Makes everything NaN from where a round diverged: (R, S) -> (R, S)."""
    diverged = ~losses.isfinite() | (losses > DIVERGED * losses[:, :1])
    over = diverged.cummax(dim=1).values
    return np.asarray(losses.masked_fill(over, torch.nan).numpy(), dtype=np.float64)
