"""Rivals: a study of one configuration, as users of Optuna and PyTorch write it, and what it costs.

    python -m benchmarks.rivals loader cnn_bn          # or sliced, compiled

Each measures report A's final configuration (WS, AL, Leaky ReLU, SGD at 0.1) by the protocol of `studies/cnn.toml`: 25
epochs, tested after the same epochs, nothing pruned. Rounds are trained one network after another, with
the threads that PyTorch takes by itself, images with channels first, in `study.optimize`.

* `loader`: batches from a `DataLoader`, as in Optuna's own PyTorch example.
* `sliced`: batches cut from the tensors by hand.
* `compiled`: the same with `torch.compile`.

An epoch before is warm-up, and stated apart: PyTorch imports its compiler when the first optimizer is made, and
`compiled` compiles.

It prints one line of JSON: seconds for a trial, those of warm-up, and the errors of the rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.report_a import cnn_rounds, cnn_task
from hpo.study.training import Training
from hpo.training.batch import Batch, to_device


def by_loader(data: Batch, size: int) -> Callable[[], Iterator[Batch]]:
    """Returns what yields an epoch's batches from a DataLoader."""
    device = data[0].device  # the data stays in memory, and its batches are moved, as the example does it
    loader: DataLoader[Batch] = DataLoader(TensorDataset(*(t.cpu() for t in data)), batch_size=size, shuffle=True)
    return lambda: (tuple(tensor.to(device) for tensor in batch) for batch in loader)


def by_slices(data: Batch, size: int) -> Callable[[], Iterator[Batch]]:
    """Returns what yields an epoch's batches cut by hand."""

    def epoch() -> Iterator[Batch]:
        for rows in torch.split(torch.randperm(len(data[0]), device=data[0].device), size):
            yield tuple(tensor[rows] for tensor in data)

    return epoch


def train(network: Any, epoch_of: Callable[[], Iterator[Batch]], test: Batch, training: Training) -> float:
    """Trains one network and returns its last test error in percent."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    error = 100.0
    for epoch in range(1, training.epochs + 1):
        network.train()
        for images, classes, targets in epoch_of():
            comparison, digits = network(images)
            loss = functional.cross_entropy(comparison, targets)
            loss = loss + functional.cross_entropy(digits[:, 0], classes[:, 0])
            loss = loss + functional.cross_entropy(digits[:, 1], classes[:, 1])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if epoch in (*training.evaluate_at, training.epochs):
            network.eval()
            with torch.no_grad():
                images, _, targets = test
                first, second = network(images)[1].argmax(-1).unbind(-1)
                error = 100 * ((first <= second).long() != targets).double().mean().item()
    return error


def main(rival: str, architecture: str, device: str = "cpu", first: str = "0", count: str = "10") -> None:
    """Measures one rival on one architecture, over `count` rounds from `first`."""
    numbers = range(int(first), int(first) + int(count))
    task, training = cnn_task()
    drawn = [
        [to_device(batch, torch.device(device)) for batch in (split.train, split.test)]
        for split in map(task.data, cnn_rounds(numbers))
    ]
    batches = by_loader if rival == "loader" else by_slices

    def run_round(r: int, training: Training = training) -> float:
        torch.manual_seed(numbers[r])
        network = task.network(architecture, "leaky_relu", weight_sharing=True).to(device)
        run = torch.compile(network) if rival == "compiled" else network
        data, test = drawn[r]
        return train(run, batches(data, training.batch_size), test, training)

    began = time.perf_counter()
    run_round(0, training.model_copy(update={"epochs": 1}))
    warmed_up = time.perf_counter()
    errors: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        errors[:] = [run_round(r) for r in range(len(numbers))]
        return statistics.fmean(errors)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.optimize(objective, n_trials=1)
    seconds = time.perf_counter() - warmed_up
    spent = {"seconds": seconds, "warm_up_seconds": warmed_up - began, "threads": torch.get_num_threads()}
    print(json.dumps({**spent, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
