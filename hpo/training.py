"""Trains the rounds of one configuration in step, epoch by epoch.

R rounds are R networks of one structure, each with its own weights, pairs and shuffles. They are trained in one of two
ways with equal results: *stacked*, all at once, their parameters stacked along a leading dimension of R and the forward
pass under `torch.func.vmap`; or *looped*, one after another within each epoch. Every operation and every optimizer here
works element by element or network by network, so a stacked round computes what it would alone; a test holds both to a
plain `torch.optim` loop.

On two x86 cores the convolutional towers are faster looped (vmap turns them into grouped convolutions, which are slow
on a CPU), the linear ones stacked; on a GPU stacking always wins. `train` chooses so by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from .data import Pairs

CPU = torch.device("cpu")

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How networks are trained.

    Attributes:
        auxiliary_loss: if true the loss is `main_weight * L1 + auxiliary_weight * (L2 + L3)`, else L1. L1 is the
            comparison's cross-entropy, L2 and L3 those of the two digits (report A, section III.A; report B, equation
            1).
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    auxiliary_loss: bool
    main_weight: float = 1.0
    auxiliary_weight: float = 1.0

    def loss(self, comparison: Tensor, digits: Tensor, pairs: Pairs) -> Tensor:
        """Returns the mean loss over B pairs: (..., B, 2) and (..., B, 2, 10) -> (...)."""
        main = _cross_entropy(comparison, pairs.targets).mean(-1)
        if not self.auxiliary_loss:
            return main
        auxiliary = _cross_entropy(digits, pairs.classes).sum(-1).mean(-1)  # (..., B, 2) -> (..., B) -> (...)
        return self.main_weight * main + self.auxiliary_weight * auxiliary


@dataclass(frozen=True)
class Errors:
    """Test errors of R rounds in percent, by both decisions.

    A pair whose logits are not finite counts as wrong.

    Attributes:
        head: (R,), the comparison read off the head's logits (report B).
        recognition: (R,), the two recognised digits compared (report A).
        diverged: (R,), true where a logit of any test pair is not finite.
    """

    head: Tensor
    recognition: Tensor
    diverged: Tensor


@dataclass(frozen=True)
class Epoch:
    """What one epoch of R rounds showed.

    Attributes:
        number: from 1.
        losses: (R,), mean training loss over the epoch; not finite for a round that diverged.
        errors: on the test pairs after the epoch; None where it was not evaluated.
        gradient_norms: layer -> (R,), the gradient's norm, mean over the epoch's batches; empty unless asked for.
    """

    number: int
    losses: Tensor
    errors: Errors | None
    gradient_norms: Mapping[str, Tensor]


def build_networks(build: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """Returns a network for each seed, the same on every device; the global random state stays as it was."""
    networks = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            networks.append(build())
    return networks


def train(
    networks: Sequence[nn.Module],
    train_pairs: Pairs,
    test_pairs: Pairs,
    recipe: Recipe,
    *,
    shuffle_seeds: Sequence[int],
    evaluate_at: Collection[int] = (),
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    stacked: bool | None = None,
    gradient_norms: bool = False,
) -> Iterator[Epoch]:
    """Trains R networks of one structure, each on its round's pairs, and yields after every epoch.

    A round that diverges goes on with what it has; the others never notice.

    Args:
        networks: R networks; they are moved to `device` and trained in place, or copied where rounds are stacked.
        train_pairs, test_pairs: the pairs of the R rounds.
        shuffle_seeds: R seeds of the order in which a round sees its pairs.
        evaluate_at: the epochs after which to measure the test errors. The last is always measured.
        stacked: which of the two ways; None chooses the faster.
        gradient_norms: whether to measure the gradient of every layer.
    """
    train_pairs, test_pairs = train_pairs.to(device, dtype), test_pairs.to(device, dtype)
    rounds = make_rounds([network.to(device, dtype) for network in networks], recipe, device, stacked)
    shuffles = [torch.Generator().manual_seed(seed) for seed in shuffle_seeds]
    for number in range(1, recipe.epochs + 1):
        orders = torch.stack([torch.randperm(train_pairs.targets.shape[1], generator=g) for g in shuffles])  # (R, N)
        norms = GradientNorms() if gradient_norms else None
        losses = rounds.train_epoch(shuffled(train_pairs, orders.to(device)), norms)
        evaluated = number in evaluate_at or number == recipe.epochs
        errors = measure(*rounds.predict(test_pairs.images), test_pairs) if evaluated else None
        yield Epoch(number, losses.cpu(), errors, norms.mean() if norms else {})


def measure(comparison: Tensor, digits: Tensor, pairs: Pairs) -> Errors:
    """Returns the errors of R rounds: logits (R, N, 2) and (R, N, 2, 10) against N pairs a round."""
    first, second = digits.argmax(-1).unbind(-1)  # (R, N) each
    comparison_finite, digits_finite = (
        comparison.isfinite().all(-1),
        digits.isfinite().flatten(2).all(-1),
    )  # (R, N) each

    def percent_wrong(decided: Tensor, finite: Tensor) -> Tensor:
        return 100 * ((decided != pairs.targets) | ~finite).double().mean(-1).cpu()

    return Errors(
        head=percent_wrong(comparison.argmax(-1), comparison_finite),
        recognition=percent_wrong((first <= second).long(), digits_finite),
        diverged=~(comparison_finite & digits_finite).all(-1).cpu(),
    )


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

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None: ...

    @abstractmethod
    def step(self, batch: Pairs) -> Tensor:
        """Trains every round on its batch, and returns the losses (R,) from before."""

    @abstractmethod
    def train_epoch(self, pairs: Pairs, norms: GradientNorms | None) -> Tensor:
        """Takes the pairs in the order of the epoch, batch after batch; returns the mean losses (R,)."""

    @abstractmethod
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (R, N, 2, 14, 14) to logits (R, N, 2) and (R, N, 2, 10), batch norm at its running statistics."""


class LoopedRounds(Rounds):
    """R networks trained one after another within each epoch, their images with the channels last."""

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        self.networks = [network.to(memory_format=torch.channels_last) for network in networks]
        self.recipe = recipe
        self.optimizers = [make_optimizer(recipe, network.parameters()) for network in self.networks]

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        return torch.stack([self._step(r, _of_round(batch, r)) for r in range(len(self.networks))])

    def train_epoch(self, pairs: Pairs, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        losses = []
        steps: list[list[dict[str, Tensor]]] = []  # of each round, of each step: its gradients
        for r, network in enumerate(self.networks):
            total, gradients = pairs.images.new_zeros(()), []
            for batch, share in batches(_of_round(pairs, r), self.recipe.batch_size, dim=0):
                total += share * self._step(r, batch)
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
        network, optimizer = self.networks[r].train(), self.optimizers[r]
        comparison, digits = network(batch.images)
        loss = self.recipe.loss(comparison, digits, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        comparisons, digits = zip(*(self._predict(r, images[r]) for r in range(len(images))), strict=True)
        return torch.stack(comparisons), torch.stack(digits)

    def _predict(self, r: int, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self.networks[r].eval()
        # In batches that stay in the cache: all 1 000 pairs at once took four times as long (cnn_bn, one core).
        comparisons, digits = zip(
            *(network(batch) for batch in torch.split(images, self.recipe.batch_size)), strict=True
        )
        return torch.cat(comparisons), torch.cat(digits)


class StackedRounds(Rounds):
    """R networks trained all at once."""

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        # One network lends its structure; the parameters and buffers of all R, stacked, take the place of its own.
        self.structure = networks[0]
        self.parameters, self.buffers = stack_module_state(list(networks))  # name -> (R, ...)
        self.recipe = recipe
        self.optimizers = [make_optimizer(recipe, self.parameters.values())]

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        (optimizer,) = self.optimizers
        self.structure.train()
        losses = self.recipe.loss(*self._forward(batch.images), batch)  # (R,)
        optimizer.zero_grad()
        # No parameter belongs to two rounds, so the sum gives each its own gradient.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    def train_epoch(self, pairs: Pairs, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        total = pairs.images.new_zeros(len(pairs.targets))  # (R,)
        for batch, share in batches(pairs, self.recipe.batch_size, dim=1):
            total += share * self.step(batch)
            if norms is not None:
                norms.add({name: p.grad for name, p in self.parameters.items() if p.grad is not None})
        return total

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        self.structure.eval()
        return self._forward(images)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
            logits: tuple[Tensor, Tensor] = functional_call(self.structure, (parameters, buffers), (images,))
            return logits

        both: tuple[Tensor, Tensor] = vmap(one)(self.parameters, self.buffers, images)
        return both


def make_rounds(networks: Sequence[nn.Module], recipe: Recipe, device: torch.device, stacked: bool | None) -> Rounds:
    """Returns networks, already on the device, in training; `stacked` is which of the two ways, None the faster."""
    if stacked is None:
        stacked = device.type != "cpu" or not _has_convolutions(networks[0])
    return (StackedRounds if stacked else LoopedRounds)(networks, recipe)


def make_optimizer(recipe: Recipe, parameters: Collection[Tensor] | Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the recipe's optimizer over parameters, PyTorch's defaults but for the learning rate."""
    return OPTIMIZERS[recipe.optimizer](parameters, lr=recipe.learning_rate)  # type: ignore[call-arg]


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Maps (..., K) logits and (...) labels to (...) losses."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)


def _has_convolutions(network: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in network.modules())


def shuffled(pairs: Pairs, orders: Tensor) -> Pairs:
    """Returns the pairs of R rounds in these orders, (R, N)."""
    rows = torch.arange(orders.shape[0], device=orders.device).unsqueeze(1)  # (R, 1), against orders (R, N)
    return Pairs(pairs.images[rows, orders], pairs.classes[rows, orders], pairs.targets[rows, orders])


def _of_round(pairs: Pairs, r: int) -> Pairs:
    return Pairs(pairs.images[r], pairs.classes[r], pairs.targets[r])


def batches(pairs: Pairs, size: int, dim: int) -> Iterator[tuple[Pairs, float]]:
    """Yields the pairs in batches along their dimension `dim`, each with its share of them; the last may be smaller."""
    count = pairs.targets.shape[dim]
    parts = (torch.split(tensor, size, dim) for tensor in (pairs.images, pairs.classes, pairs.targets))
    for images, classes, targets in zip(*parts, strict=True):
        yield Pairs(images, classes, targets), targets.shape[dim] / count
