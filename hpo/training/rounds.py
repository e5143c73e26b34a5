"""R networks of one structure in training together: one batch for every round, then the next.

There are two ways with equal results. *Stacked*: all at once, their parameters stacked along a leading dimension of R;
on a GPU the forward pass runs under `torch.func.vmap`, and the step is captured in a CUDA graph. *Looped*: one after
another within each epoch. Every operation and every optimizer here works element by element or network by network, so a
stacked round computes what it would alone; a test holds all to a plain `torch.optim` loop.

On two x86 cores convolutions are faster looped (vmap turns them into grouped convolutions, which are slow on a CPU) and
fused; on a GPU stacking always wins. A task may bring rounds of its own, as the digit pairs do for linear layers.
ways.py chooses. docs/performance.md has the measurements.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from hpo.training.batch import Batch, batches, each, join, of_round
from hpo.training.network_task import FinalTest
from hpo.training.precision import in_precision
from hpo.training.randomness import RandomStream
from hpo.training.updates.config import TrainingConfig
from hpo.training.updates.steps import Steps

Loss = Callable[[Any, Any], Tensor]
"""Maps a network's output and the batch, of one round, to the mean loss ()."""


class GradientNorms:
    """Adds up each layer's gradient norms over the steps of an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Takes R rounds' gradients of one step: parameter name -> (R, ...)."""
        squares: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            layer = name.rpartition(".")[0]  # a layer is its weight and its bias
            squares[layer] = (
                squares.get(layer, torch.zeros(())) + gradient.reshape(len(gradient), -1).square().sum(1).cpu()
            )
        for layer, square in squares.items():
            self._sums[layer].append(square.sqrt())

    def mean(self) -> dict[str, Tensor]:
        """Returns layer -> (R,), the mean over the steps."""
        return {layer: torch.stack(norms).mean(0) for layer, norms in self._sums.items()}


class Rounds(Protocol):
    """R networks of one structure in training; they are moved and changed in place, or copied.

    Attributes:
        way: how they are trained, for people.
        config: how each is trained.
        optimizers: one for each round, or one for all.
    """

    way: str
    config: TrainingConfig
    optimizers: list[torch.optim.Optimizer]

    @abstractmethod
    def step(self, batch: Batch) -> Tensor:
        """Trains every round on its batch, (R, B, ...) each, and returns the losses (R,) from before."""

    @abstractmethod
    def train_epoch(self, data: Batch, orders: Tensor, norms: GradientNorms | None) -> Tensor:
        """Takes the examples of each round in its order, (R, N), batch after batch; returns the mean losses (R,)."""

    @abstractmethod
    def predict(self, inputs: Tensor) -> Any:
        """Maps inputs (R, N, ...) to the networks' outputs, (R, N, ...), batch norm at its running statistics."""

    def evaluate(self, test: Batch, evaluate: Callable[[Any, Batch], Tensor]) -> Tensor:
        """Returns what `evaluate` makes of the outputs (R, N, ...) on the test data, and of that."""
        return evaluate(self.predict(test[0]), test)

    def test_finally(self, test: FinalTest) -> Tensor:
        """Returns the numbers of a final test of the networks as they are now, (K, R)."""
        return test.numbers(self.predict, self.states)

    def launching(self) -> AbstractContextManager[Any]:
        """Context manager in which a device is told what to do."""
        return nullcontext()

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """How many numbers of a network are trained."""

    @abstractmethod
    def states(self) -> list[dict[str, Tensor]]:
        """Returns every round's parameters and buffers as they are now, by the names that a network has for them."""


class LoopedRounds(Rounds):
    """R networks trained one after another within each epoch.

    Args:
        adapt: returns what to run in a network's place, on its very parameters and buffers.
        streams: of random numbers, one for each round; empty where nothing draws any.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        config: TrainingConfig,
        loss: Loss,
        adapt: Callable[[nn.Module], nn.Module] = lambda network: network,
        way: str = "looped",
        streams: Sequence[RandomStream] = (),
    ) -> None:
        self._streams = streams
        self.networks, self.config, self._loss, self.way = networks, config, loss, way
        self._adapted = [adapt(network) for network in networks]
        self._in_training = [False] * len(networks)
        self._steps = [Steps(config, network.parameters(), network.buffers()) for network in networks]
        self.optimizers = [steps.optimizer for steps in self._steps]

    def step(self, batch: Batch) -> Tensor:  # noqa: D102
        losses = []
        for r in range(len(self.networks)):
            with self._drawing(r):
                losses.append(self._step(r, of_round(batch, r)))
        return torch.stack(losses)

    def train_epoch(self, data: Batch, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        losses = []
        steps: list[list[dict[str, Tensor]]] = []  # of each round, of each step: its gradients
        for r, network in enumerate(self.networks):
            total, gradients = torch.zeros((), dtype=data[0].dtype, device=data[0].device), []
            ours = each(data, lambda tensor, r=r: tensor[r : r + 1])  # type: ignore[misc]
            with self._drawing(r):
                for batch, share in batches(ours, orders[r : r + 1], self.config.batch_size):
                    total += share * self._step(r, of_round(batch, 0))
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

    def _step(self, r: int, batch: Batch) -> Tensor:
        network, steps = self._adapted[r], self._steps[r]
        if not self._in_training[r]:  # train() goes through all modules, which takes time; a network may have its own
            network.train()
            self._in_training[r] = True
        loss = self._loss(self._forward(network, batch[0]), batch)
        steps.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        steps.take()
        return loss.detach()

    @torch.inference_mode()
    def predict(self, inputs: Tensor) -> Any:  # noqa: D102
        return join([self._predict(r, inputs[r]) for r in range(len(inputs))], torch.stack)

    @property
    def parameter_count(self) -> int:  # noqa: D102
        return sum(one.numel() for one in self.networks[0].parameters() if one.requires_grad)

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        return [self._state(*both) for both in zip(self.networks, self._steps, strict=True)]

    def _state(self, network: nn.Module, steps: Steps) -> dict[str, Tensor]:
        if not steps.averages:
            return dict(network.state_dict())
        with steps.averaged():
            return {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def _predict(self, r: int, inputs: Tensor) -> Any:
        network, self._in_training[r] = self._adapted[r].eval(), False
        # In batches that stay in the cache: all 1 000 pairs at once took four times as long (cnn_bn, one core).
        parts = torch.split(inputs, self.config.batch_size)
        with (
            self._steps[r].averaged(),
            self._drawing(r, goes_on=False),
        ):  # to look at a network changes nothing of its training
            return join([self._forward(network, part) for part in parts], torch.cat)

    def _drawing(self, r: int, *, goes_on: bool = True) -> AbstractContextManager[None]:
        return self._streams[r].drawing(goes_on=goes_on) if self._streams else nullcontext()

    def _forward(self, network: nn.Module, inputs: Tensor) -> Any:
        return in_precision(self.config.precision, lambda: network(inputs), inputs.device)


class StackedRounds(Rounds):
    """R networks trained all at once: one lends its structure, the parameters of all R take the place of its own.

    Args:
        structure: computes what the networks do, with parameters and buffers of the same names; None takes the first.

    Attributes:
        parameters, buffers: name -> (R, ...).
    """

    way = "stacked"
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __init__(
        self, networks: Sequence[nn.Module], config: TrainingConfig, loss: Loss, structure: nn.Module | None = None
    ) -> None:
        self.rounds, self.structure = len(networks), structure or networks[0]
        self.parameters, self.buffers = stack_module_state(list(networks))
        self.config = config
        self._in_training = False
        self._ones: Tensor | None = None
        self._losses: Loss = vmap(loss, randomness="different")
        self.steps = self._make_steps()
        self.optimizers = [self.steps.optimizer]

    def _make_steps(self) -> Steps:
        return Steps(self.config, self.parameters.values(), self.buffers.values(), is_stacked=True)

    def step(self, batch: Batch) -> Tensor:  # noqa: D102
        if not self._in_training:
            self.structure.train()
            self._in_training = True
        losses = self.losses(batch)
        self.steps.optimizer.zero_grad()
        # No parameter belongs to two rounds, so each has the gradient of its own loss.
        if self._ones is None or self._ones.dtype != losses.dtype:
            self._ones = torch.ones_like(losses)
        losses.backward(self._ones)  # type: ignore[no-untyped-call]
        self.steps.take()
        return losses.detach()

    def losses(self, batch: Batch) -> Tensor:
        """Returns every round's loss on its batch, (R, B, ...) each -> (R,), to be differentiated."""
        return self._losses(self._forward(batch[0]), batch)

    def train_epoch(self, data: Batch, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        total = torch.zeros(self.rounds, dtype=data[0].dtype, device=data[0].device)
        for batch, share in batches(data, orders, self.config.batch_size):
            total += share * self.step(batch)
            if norms is not None:
                norms.add({name: p.grad for name, p in self.parameters.items() if p.grad is not None})
        return total

    @torch.inference_mode()
    def predict(self, inputs: Tensor) -> Any:  # noqa: D102
        self.structure.eval()
        self._in_training = False
        with self.steps.averaged():
            return self._forward(inputs)

    @property
    def parameter_count(self) -> int:  # noqa: D102
        return sum(one[0].numel() for one in self.parameters.values() if one.requires_grad)

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        stacked = {name: tensor.detach() for name, tensor in (self.parameters | self.buffers).items()}
        if self.steps.averages:
            with self.steps.averaged():
                stacked = {name: tensor.clone() for name, tensor in stacked.items()}
        return [{name: tensor[r] for name, tensor in stacked.items()} for r in range(self.rounds)]

    def _forward(self, inputs: Tensor) -> Any:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Any:
            return functional_call(self.structure, (parameters, buffers), (inputs,))

        forward = vmap(one, randomness="different")  # dropout draws for each round
        return in_precision(
            self.config.precision, lambda: forward(self.parameters, self.buffers, inputs), inputs.device
        )
