"""What fused layers change: nothing in the errors, something in the time; and where a step's time goes.

    python -m benchmarks.fused cnn         # or cnn_bn, residual, fnn

Rounds of report A's final configuration are trained by loops of our own and by PyTorch's, in turn, by one thread,
and their errors compared round by round. Then one epoch of ten rounds by ours is profiled; `fnn`, which is one loop, is
compared with its products alone. As two workers share a machine, a core's rates are measured alone and with a second
process that does the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import fmean
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.report_a import cnn_rounds, cnn_task, final_params
from hpo.analysis.statistics import paired_difference
from hpo.kernels.jit import Array, compiled
from hpo.provenance import cpu_name, versions
from hpo.study.card import MetricCard
from hpo.study.task import Round
from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds
from hpo.training.rounds import Rounds
from hpo.training.trainer import Trainer, open_trainer

ROUNDS = cnn_rounds(range(10, 40))  # fresh ones: the study's own are the first ten
PROFILED = ROUNDS[:10]
SHOWN = 12  # operations
SECONDS = 3.0  # for each rate


def make(rounds: Sequence[Round]) -> Trainer:
    """Returns what trains rounds as the cnn study does, tested at the end alone."""
    task, training = cnn_task()
    return open_trainer(task, training.model_copy(update={"evaluate_at": ()}), "cpu", rounds)


def prepare(trainer: Trainer, architecture: str, rounds: Sequence[Round], *, fused: bool) -> Rounds:
    """Returns fresh networks of report A's final configuration, or of another architecture."""
    params = final_params(architecture)
    if fused:
        return trainer.prepare(params, rounds)
    with mock.patch("hpo.training.ways.fuse", lambda network: network):
        return Trainer(trainer.task, trainer.training, stacked=False).prepare(params, rounds)


def measure(trainer: Trainer, architecture: str, *, fused: bool) -> tuple[Sequence[float], float]:
    """Returns the rounds' errors in percent, and the seconds."""
    networks, began = prepare(trainer, architecture, ROUNDS, fused=fused), time.perf_counter()
    *_, last = trainer.train(networks, final_params(architecture), ROUNDS)
    return last.errors["recognition"], time.perf_counter() - began


def shares(architecture: str) -> list[tuple[str, float]]:
    """Returns the operations that take most of an epoch's time, each with its share."""
    trainer = make(PROFILED)
    networks = prepare(trainer, architecture, PROFILED, fused=True)
    epochs = trainer.train(networks, final_params(architecture), PROFILED)
    next(epochs)  # warm-up
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        next(epochs)
    spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    whole = sum(spent.values())
    return [(key, spent[key] / whole) for key in sorted(spent, key=spent.__getitem__, reverse=True)[:SHOWN]]


def share_of_products(architecture: str) -> float:
    """Returns what part of an epoch of a linear architecture its products of matrices take alone, in the cache."""
    trainer = make(PROFILED)
    networks, data = prepare(trainer, architecture, PROFILED, fused=True), trainer.data(PROFILED).train
    count, batch_size = data[0].shape[1], trainer.training.batch_size
    orders = torch.arange(count).repeat(len(PROFILED), 1)
    epoch = 1 / _per_second(lambda: networks.train_epoch(data, orders, None))
    network = trainer.task.network(architecture, "leaky_relu", weight_sharing=True)
    alone, first = 0.0, True
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            examples = batch_size * (1 if name.startswith("head") else 2)
            shapes = (
                (examples, layer.in_features),
                (layer.out_features, layer.in_features),
                (examples, layer.out_features),
            )
            x, weight, result = (np.zeros(shape, "f") for shape in shapes)
            alone += 1 / _per_second(partial(_products, x, weight, result, first))
            first = False
    return alone * len(PROFILED) * count / batch_size / epoch


@compiled
def _products(x: Array, weight: Array, result: Array, first: bool) -> None:
    """Does a linear layer's two or three products of a step: x is (B, K), the weight (N, K), the result (B, N)."""
    np.dot(x, weight.T, result)
    np.dot(result.T, x, weight)
    if not first:  # nothing asks for the images' gradient
        np.dot(result, weight, x)


def rates(_: int = 0) -> tuple[float, float, float]:
    """Returns a core's rates: G multiply-adds a second, GB a second copied through memory, and within the cache."""
    torch.set_num_threads(1)
    square, long, short = torch.randn(1024, 1024), torch.randn(16_000_000), torch.randn(400_000)
    to_long, to_short = torch.empty_like(long), torch.empty_like(short)
    return (
        _per_second(lambda: torch.mm(square, square)) * 1024**3 / 1e9,
        _per_second(lambda: to_long.copy_(long)) * 8 * len(long) / 1e9,
        _per_second(lambda: to_short.copy_(short)) * 8 * len(short) / 1e9,
    )


def _per_second(work: Callable[[], object]) -> float:
    work()  # warm-up
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        work()
        done += 1
    return done / (time.perf_counter() - began)


def main(architecture: str) -> None:
    """Prints all of it."""
    print(f"{cpu_name()}, {', '.join(f'{name} {version}' for name, version in versions().items())}\n")
    trainer = make(ROUNDS)
    (ours, fast), (plain, slow) = (measure(trainer, architecture, fused=fused) for fused in (True, False))
    metric = MetricCard(**{name: getattr(trainer.metrics[0], name) for name in MetricCard.model_fields})
    by = paired_difference(ours, plain, metric)
    print(f"{architecture}, {len(ROUNDS)} rounds: fused {fmean(ours):.2f} %, plain {fmean(plain):.2f} %")
    print(f"fused less plain {by.estimate:+.2f} points (95 %: {by.low:+.2f} to {by.high:+.2f})")
    print(f"plain takes {slow / fast:.2f} times as long\n")
    if isinstance(prepare(trainer, architecture, PROFILED, fused=True), MLPRounds):
        print(f"of an epoch its products alone, in the cache, take {100 * share_of_products(architecture):.0f} %")
    else:
        for operation, share in shares(architecture):
            print(f"{100 * share:5.1f} %  {operation}")
    alone = rates()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        together = list(pool.map(rates, range(2)))
    for what, values in (("alone", [alone]), ("two at once", together)):
        shown = " and ".join(" / ".join(f"{rate:.0f}" for rate in one) for one in values)
        print(f"\n{what}: {shown} (G multiply-adds, GB through memory, GB in the cache, a second)", end="")
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
