"""R networks of one structure in training together: one batch for every round, then the next.

There are two ways with equal results. *Stacked*: all at once, their parameters stacked along a leading dimension of R;
on a GPU the forward pass runs under `torch.func.vmap`, and the step is captured in a CUDA graph. *Looped*: one after
another within each epoch. Every operation and every optimizer here works element by element or network by network, so a
stacked round computes what it would alone; a test holds all to a plain `torch.optim` loop.

On two x86 cores the convolutional towers are faster looped (vmap turns them into grouped convolutions, which are slow
on a CPU) and fused, the linear ones stacked, by loops of our own (`hpo/tasks/digit_pairs/mlp_rounds.py`); on a GPU
stacking always wins. `make_rounds` in trainer.py chooses. docs/performance.md has the measurements.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from hpo.kernels.fuse import fuse
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.optimizers import TrainingConfig, in_precision, make_optimizer


class GradientNorms:
    """Adds up each layer's gradient norms over the steps of an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Takes R rounds' gradients of one step: parameter name -> (R, ...)."""
        squares: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            layer = name.rpartition(".")[0]  # a layer is its weight and its bias
            squares[layer] = squares.get(layer, torch.zeros(())) + gradient.flatten(1).square().sum(1).cpu()  # (R,)
        for layer, square in squares.items():
            self._sums[layer].append(square.sqrt())

    def mean(self) -> dict[str, Tensor]:
        """Returns layer -> (R,), the mean over the steps."""
        return {layer: torch.stack(norms).mean(0) for layer, norms in self._sums.items()}


class Rounds(Protocol):
    """R networks of one structure in training; they are moved and changed in place, or copied.

    Attributes:
        optimizers: one for each round, or one for all.
    """

    optimizers: list[torch.optim.Optimizer]

    def __init__(self, networks: Sequence[nn.Module], config: TrainingConfig) -> None: ...

    @abstractmethod
    def step(self, batch: Pairs) -> Tensor:
        """Trains every round on its batch, and returns the losses (R,) from before."""

    @abstractmethod
    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:
        """Takes the pairs of each round in its order, (R, N), batch after batch; returns the mean losses (R,)."""

    @abstractmethod
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (R, N, 2, 14, 14) to logits (R, N, 2) and (R, N, 2, 10), batch norm at its running statistics."""

    @abstractmethod
    def states(self) -> list[dict[str, Tensor]]:
        """Returns every round's parameters and buffers as they are now, by the names that a network has for them."""


class LoopedRounds(Rounds):
    """R networks trained one after another within each epoch, their images with the channels last."""

    def __init__(self, networks: Sequence[nn.Module], config: TrainingConfig) -> None:
        self.networks = [network.to(memory_format=torch.channels_last) for network in networks]
        self.config = config
        self.optimizers = [make_optimizer(config, list(network.parameters())) for network in self.networks]
        fused = next(networks[0].parameters()).is_cpu and config.precision == "float32"
        self._fused = [fuse(network) for network in self.networks] if fused else self.networks

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        return torch.stack([self._step(r, _of_round(batch, r)) for r in range(len(self.networks))])

    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        losses = []
        steps: list[list[dict[str, Tensor]]] = []  # of each round, of each step: its gradients
        for r, network in enumerate(self.networks):
            total, gradients = pairs.images.new_zeros(()), []
            ours = Pairs(pairs.images[r : r + 1], pairs.classes[r : r + 1], pairs.targets[r : r + 1])
            for batch, share in batches(ours, orders[r : r + 1], self.config.batch_size):
                total += share * self._step(r, _of_round(batch, 0))
                if norms is not None:
                    gradients.append(
                        {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
                    )
            losses.append(total)
            steps.append(gradients)
        if norms is not None:
            for step in zip(*steps, strict=True):
                norms.add({name: torch.stack([gradients[name] for gradients in step]) for name in step[0]})
        return torch.stack(losses)

    def _step(self, r: int, batch: Pairs) -> Tensor:
        network, optimizer = self._fused[r], self.optimizers[r]
        if not network.training:  # train() goes through all modules, which takes time
            network.train()
        loss = self.config.loss(*self._forward(network, batch.images), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        comparisons, digits = zip(*(self._predict(r, images[r]) for r in range(len(images))), strict=True)
        return torch.stack(comparisons), torch.stack(digits)

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        return [dict(network.state_dict()) for network in self.networks]

    def _predict(self, r: int, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self._fused[r].eval()
        # In batches that stay in the cache: all 1 000 pairs at once took four times as long (cnn_bn, one core).
        comparisons, digits = zip(
            *(self._forward(network, batch) for batch in torch.split(images, self.config.batch_size)), strict=True
        )
        return torch.cat(comparisons), torch.cat(digits)

    def _forward(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        return in_precision(self.config.precision, lambda: network(images), images.device)


class StackedRounds(Rounds):
    """R networks trained all at once: one lends its structure, the parameters of all R take the place of its own.

    Attributes:
        parameters, buffers: name -> (R, ...).
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __init__(self, networks: Sequence[nn.Module], config: TrainingConfig) -> None:
        self.rounds, self.structure = len(networks), networks[0]
        self.parameters, self.buffers = stack_module_state(list(networks))
        self.config = config
        self.optimizers = [make_optimizer(config, self.parameters.values())]

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        (optimizer,) = self.optimizers
        if not self.structure.training:
            self.structure.train()
        losses = self.config.loss(*self._forward(batch.images), batch)  # (R,)
        optimizer.zero_grad()
        # No parameter belongs to two rounds, so the sum gives each its own gradient.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        total = pairs.images.new_zeros(len(pairs.targets))  # (R,)
        for batch, share in batches(pairs, orders, self.config.batch_size):
            total += share * self.step(batch)
            if norms is not None:
                norms.add({name: p.grad for name, p in self.parameters.items() if p.grad is not None})
        return total

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        self.structure.eval()
        return self._forward(images)

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        stacked = {name: tensor.detach() for name, tensor in (self.parameters | self.buffers).items()}
        return [{name: tensor[r] for name, tensor in stacked.items()} for r in range(self.rounds)]

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
            logits: tuple[Tensor, Tensor] = functional_call(self.structure, (parameters, buffers), (images,))
            return logits

        forward = vmap(one)
        return in_precision(
            self.config.precision, lambda: forward(self.parameters, self.buffers, images), images.device
        )


def batches(pairs: Pairs, orders: Tensor, size: int) -> Iterator[tuple[Pairs, float]]:
    """Yields the pairs of R rounds in these orders, (R, N), batch by batch; each with its share of N.

    A batch is copied when its turn comes, and is still in the cache when it is trained on. The last may be smaller.
    """
    rounds, count = orders.shape
    firsts = count * torch.arange(rounds, device=orders.device).unsqueeze(1)  # (R, 1), where a round's pairs begin
    for chosen in torch.split(orders, size, dim=1):  # (R, B)
        rows = (firsts + chosen).flatten()
        parts = (tensor.flatten(0, 1).index_select(0, rows) for tensor in (pairs.images, pairs.classes, pairs.targets))
        yield Pairs(*(part.view(*chosen.shape, *part.shape[1:]) for part in parts)), chosen.shape[1] / count


def _of_round(pairs: Pairs, r: int) -> Pairs:
    return Pairs(pairs.images[r], pairs.classes[r], pairs.targets[r])
