"""Networks in training under vmap, fused or not, and alone in float64: what the tests of fused networks compare."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpo.kernels.gpu.fuse import fuse
from hpo.training.batch import tensors_of
from hpo.training.rounds import StackedRounds
from hpo.training.updates.config import TrainingConfig
from tests.kernels.gpu.comparison import DEVICE
from tests.training import narrow

RATE = 0.05


class Trained:
    """What came of networks in training: losses, outputs in evaluation, parameters and buffers, (R, ...) each."""

    def __init__(self, losses: Tensor, outputs: Sequence[Tensor], state: dict[str, Tensor]) -> None:
        self.tensors = {"losses": losses, **{f"output {i}": one for i, one in enumerate(outputs)}, **state}

    def distance(self, exact: Trained) -> float:
        """Returns how far the tensors are off, relative to the largest number of each, at most."""
        worst = 0.0
        for name, wanted in exact.tensors.items():
            found = self.tensors[name].double()
            worst = max(worst, ((found - wanted.double()).abs().max() / wanted.abs().max().clamp_min(1e-3)).item())
        return worst


def objective(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return torch.stack([(one.sin() * one.detach().cos()).mean() for one in tensors_of(output)]).sum()


def trained(networks: Sequence[nn.Module], inputs: Tensor, steps: int, precision: str | None) -> Trained:
    """Trains copies of networks, stacked, on inputs (steps + 1, R, N, ...); fused if a precision is given."""
    networks = [copy.deepcopy(network).to(inputs) for network in networks]
    config = TrainingConfig(epochs=1, batch_size=1, optimizer="sgd", learning_rate=RATE)
    rounds = StackedRounds(networks, config, lambda output, batch: objective(output))
    if precision is not None:
        rounds.structure = fuse(rounds.structure, precision)
    losses = [rounds.step((batch,)) for batch in inputs[:steps]]
    outputs = tensors_of(rounds.predict(inputs[steps]))
    return Trained(torch.stack(losses), outputs, rounds.parameters | rounds.buffers)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def assert_trains_alike(networks: Sequence[nn.Module], inputs: Tensor, steps: int = 2) -> None:
    """Compares fused networks with PyTorch's in float64, from which PyTorch's in float32 differ about as much."""
    exact = trained(networks, inputs.double(), steps, None)
    plain = trained(networks, inputs, steps, None).distance(exact)
    fused = trained(networks, inputs, steps, "tf32x3").distance(exact)
    assert fused <= 10 * plain + 1e-6


def narrowed(network: nn.Module) -> nn.Module:
    """Returns a network of the same layers, hidden ones with two channels, on the tests' device."""
    return narrow.narrowed(network, channels=2).to(DEVICE)
