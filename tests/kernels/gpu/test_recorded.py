"""Recorded rounds that compute with the kernels: a trial is what it is with PyTorch's layers, but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.training.gpu_kernels import find_kernels
from hpo.training.optimizers import TrainingConfig
from hpo.training.recorded import RecordedRounds
from hpo.training.trainer import build_networks
from tests.kernels.gpu.comparison import DEVICE
from tests.training.test_rounds import Tape

SEEDS = [1, 2]
HOW = TrainingConfig(epochs=1, batch_size=3, optimizer="sgd", learning_rate=0.05)
Pair = tuple[Tensor, Tensor]


def small() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)),
    )


def loss(output: Tensor, batch: Pair) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def examples(dtype: torch.dtype) -> tuple[Pair, Pair]:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (5, 3):  # five in batches of three: the last is short
        images = torch.randn(len(SEEDS), count, 1, 8, 8, generator=generator)
        labels = torch.randint(3, (len(SEEDS), count), generator=generator)
        parts.append((images.to(DEVICE, dtype), labels.to(DEVICE)))
    return parts[0], parts[1]


def trained(dtype: torch.dtype, *, by_kernels: bool) -> Tensor:
    train, test = examples(dtype)
    networks = [network.to(DEVICE, dtype) for network in build_networks(small, SEEDS)]
    kernels = find_kernels(networks, HOW, loss, train) if by_kernels else None
    if kernels is not None:
        assert kernels.structure is not None, kernels.why_not
    rounds = RecordedRounds(
        *(networks, HOW, loss),
        train=train,
        test=test,
        evaluate=lambda output, batch: output,
        recorder=Tape(),
        kernels=kernels,
    )
    assert rounds.way == RecordedRounds.way
    told = []
    for rate in (0.2, 0.05):  # the second trial is told
        rounds.begin(rate)
        orders = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(r)) for r in SEEDS]).to(DEVICE)
        told = [rounds.train_epoch(train, orders, None).clone() for _ in range(1)]
        told.append(rounds.evaluate(test, lambda output, batch: output).clone())
    states = [tensor for state in rounds.states() for tensor in state.values()]
    return torch.cat([tensor.flatten().double() for tensor in (*told, *states)])


@pytest.mark.usefixtures("large_tiles")
def test_a_trial_by_the_kernels_is_that_of_pytorch_but_for_rounding() -> None:
    exact, ordinary, ours = (
        trained(torch.float64, by_kernels=False),
        trained(torch.float32, by_kernels=False),
        trained(torch.float32, by_kernels=True),
    )
    assert (ours - exact).abs().max() <= 8 * (ordinary - exact).abs().max()  # sums in another order round differently


def test_where_kernels_compute_something_else_pytorchs_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [network.to(DEVICE) for network in build_networks(small, SEEDS)]
    train, _ = examples(torch.float32)
    monkeypatch.setattr(
        "hpo.training.gpu_kernels.fuse", lambda network, precision="": nn.Sequential(network, nn.Tanh())[0:1]
    )
    assert "ours" in find_kernels(networks, HOW, loss, train).why_not
    monkeypatch.setattr("hpo.training.gpu_kernels.missing", lambda device: "Triton is not installed")
    found = find_kernels(networks, HOW, loss, train)
    assert found.structure is None
    assert found.described == ", by PyTorch's kernels, for Triton is not installed"
