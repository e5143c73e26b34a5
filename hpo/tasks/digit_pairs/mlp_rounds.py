"""Rounds of networks of linear layers and activations: a batch forward and back as one loop, on a CPU.

A step of `fnn` is eleven million multiply-adds a round, and small operations around them. As operations of PyTorch on
stacked rounds the small ones take as long as the products, and what one writes has left the core's cache before the
next reads it. Here a round's batch is drawn, sent through towers and head, and its gradients back through both, before
the next round's begins, so all of it stays in the cache. The optimizer is PyTorch's, one step for all rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from hpo.kernels.jit import Array
from hpo.tasks.digit_pairs import mlp_kernels
from hpo.tasks.digit_pairs.architectures import load_pair_class
from hpo.tasks.digit_pairs.mlp_kernels import MLP, train_batch
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.batch import Batch
from hpo.training.rounds import GradientNorms, Rounds
from hpo.training.updates.config import TrainingConfig
from hpo.training.updates.steps import Steps

Activation = tuple[float, float, float]  # an activation, as of `MLP.activations`
PAIRS = 500  # that heads compare at once
NO_ACTIVATION: Activation = (1.0, 1.0, 0.0)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, as in torch.nn.SELU
ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: lambda layer: (1.0, 0.0, 0.0),
    nn.LeakyReLU: lambda layer: (1.0, layer.negative_slope, 0.0),
    nn.ELU: lambda layer: (1.0, 0.0, layer.alpha),
    nn.SELU: lambda layer: (SELU_SCALE, 0.0, SELU_SCALE * SELU_ALPHA),
}


class MLPRounds(Rounds):
    """R networks of `towers` and a `head` that are mlps, in training on a CPU, in float32 or float64.

    Args:
        weights: of the comparison's loss and of the digits', as in `DigitPairs.loss`.
    """

    way = "stacked, by loops of the task's own"

    def __init__(self, networks: Sequence[nn.Module], config: TrainingConfig, weights: tuple[float, float]) -> None:
        self.config, self._weights = config, weights
        self._towers, self._head = _parts(networks[0])
        apart = [_parts(network) for network in networks]
        self._parameters = [
            nn.Parameter(torch.stack([flatten(towers) for towers, _ in apart])),  # (R, T, P)
            nn.Parameter(flatten([head for _, head in apart])),  # (R, Q)
        ]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._steps = Steps(config, self._parameters, is_stacked=True)
        self.optimizers = [self._steps.optimizer]
        self._structures = structure(self._towers[0]), structure(self._head)

    def step(self, batch: Batch) -> Tensor:  # noqa: D102
        pairs = Pairs(*batch)
        rounds, count = pairs.targets.shape
        return self._step(pairs, torch.arange(count).repeat(rounds, 1))

    def train_epoch(self, data: Batch, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        pairs = Pairs(*data)
        total = pairs.images.new_zeros(len(orders))  # (R,)
        for chosen in torch.split(orders, self.config.batch_size, dim=1):  # (R, B)
            total += chosen.shape[1] / orders.shape[1] * self._step(pairs, chosen.contiguous())
            if norms is not None:
                norms.add(self._named([_gradient(parameter) for parameter in self._parameters]))
        return total

    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        images = inputs
        self._check_rounds(images)
        rounds, count = images.shape[:2]
        comparison, digits = images.new_empty(rounds, count, 2), images.new_empty(rounds, count, 2, 10)
        with self._steps.averaged():
            mlp_kernels.predict(
                _array(images.flatten(3)), self.config.batch_size, *self._mlps(),
                _array(comparison), _array(digits.flatten(2)),
            )  # fmt: skip
        return comparison, digits

    @property
    def parameter_count(self) -> int:  # noqa: D102
        return sum(one[0].numel() for one in self._parameters)

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        with self._steps.averaged():
            kept = [one.detach().clone() if self._steps.averages else one.detach() for one in self._parameters]
        named = self._named(kept)
        return [{name: tensor[r] for name, tensor in named.items()} for r in range(len(self._parameters[0]))]

    def _step(self, pairs: Pairs, chosen: Tensor) -> Tensor:
        """Trains every round on its chosen pairs, (R, B), and returns the losses (R,) from before."""
        self._check_rounds(pairs.images, chosen)
        losses = pairs.images.new_empty(len(chosen))
        towers, head = self._mlps()
        grad_towers, grad_head = (_array(_gradient(parameter)) for parameter in self._parameters)
        train_batch(
            _array(pairs.images.flatten(3)), _array(pairs.classes), _array(pairs.targets), _array(chosen), towers, head,
            np.array(self._weights, losses.numpy().dtype), grad_towers, grad_head, _array(losses),
        )  # fmt: skip
        self._steps.take()
        return losses

    def _check_rounds(self, *tensors: Tensor) -> None:
        rounds = len(self._parameters[0])
        if any(len(tensor) != rounds for tensor in tensors):
            raise ValueError(f"{rounds} networks, but pairs or orders of {[len(tensor) for tensor in tensors]} rounds")

    def _mlps(self) -> tuple[MLP, MLP]:
        towers, head = (
            MLP(_array(parameter), *form) for parameter, form in zip(self._parameters, self._structures, strict=True)
        )
        return towers, head

    def _named(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns tensors that lie as the parameters do, by the names that a network has for them: (R, ...)."""
        towers, head = parts
        named: dict[str, Tensor] = {}
        for i, tower in enumerate(self._towers):
            named |= {f"towers.{i}.{name}": part for name, part in unflatten(towers[:, i], tower).items()}
        return named | {f"head.{name}": part for name, part in unflatten(head, self._head).items()}


def is_two_tower_mlp(network: nn.Module) -> bool:
    """Says whether a network is a `DigitPair` of mlps, its two towers alike, and all of it is to be trained."""
    if type(network) is not load_pair_class():  # whose `forward` these loops are
        return False
    towers, head = network.get_submodule("towers"), network.get_submodule("head")
    assert isinstance(towers, nn.ModuleList)
    if not all(parameter.requires_grad for parameter in network.parameters()):
        return False
    return all(is_mlp(part) for part in (*towers, head)) and len({str(tower) for tower in towers}) == 1


def is_mlp(layers: nn.Module) -> TypeGuard[nn.Sequential]:
    """Says whether these are linear layers with a bias, each with at most one known activation behind it.

    A first `nn.Flatten` is passed over. A gradient is had from an activation's result, so none may fall.
    """
    if type(layers) is not nn.Sequential or not all(
        type(layer) in {nn.Flatten, nn.Linear, *ACTIVATIONS} for layer in layers
    ):
        return False
    kinds = [type(layer) for layer in layers]
    kinds = kinds[1:] if kinds[:1] == [nn.Flatten] else kinds
    return (
        kinds[:1] == [nn.Linear]
        and nn.Flatten not in kinds
        and all(nn.Linear in pair for pair in pairwise(kinds))
        and len(list(layers.parameters())) == 2 * kinds.count(nn.Linear)  # a bias each, and no layer twice
        and all(min(ACTIVATIONS[type(layer)](layer)) >= 0 for layer in layers if type(layer) in ACTIVATIONS)
    )


def compare(head: nn.Sequential, states: Sequence[Mapping[str, Tensor]], logits: Tensor, pairs: Tensor) -> Tensor:
    """Returns what the heads of R networks make of pairs of images, (R, P, 2), on a CPU.

    Args:
        head: one of them, an mlp; the weights of each are among its network's `states`, as `head.0.weight`.
        logits: of the digits in each image, as each of T towers reads them, (R, T, M, 10).
        pairs: (R, P, 2), which images.
    """
    names = [f"head.{name}" for name, _ in head.named_parameters()]
    flat = torch.stack([torch.cat([state[name].flatten() for name in names]) for state in states])
    comparison = logits.new_empty(*pairs.shape[:2], 2)
    heads = MLP(_array(flat), *structure(head))
    mlp_kernels.compare(_array(logits.contiguous()), _array(pairs.contiguous()), PAIRS, heads, _array(comparison))
    return comparison


def flatten(mlps: Sequence[nn.Sequential]) -> Tensor:
    """Returns the parameters of R mlps, (R, P), as `MLP` has them; copies."""
    return torch.stack([torch.cat([parameter.detach().flatten() for parameter in mlp.parameters()]) for mlp in mlps])


def unflatten(flat: Tensor, mlp: nn.Sequential) -> dict[str, Tensor]:
    """Returns the parts of (R, P), by the names and in the shapes that a mlp's parameters have: (R, ...)."""
    shapes = {name: parameter.shape for name, parameter in mlp.named_parameters()}
    parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def structure(mlp: nn.Sequential) -> tuple[Array, Array]:
    """Returns a mlp's widths and activations."""
    linear = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    activations: list[Activation] = []
    for layer in mlp:
        if isinstance(layer, nn.Linear):
            activations.append(NO_ACTIVATION)
        elif type(layer) in ACTIVATIONS:
            activations[-1] = ACTIVATIONS[type(layer)](layer)
    widths = np.array([linear[0].in_features, *(layer.out_features for layer in linear)])
    return widths, np.array(activations, linear[0].weight.detach().numpy().dtype)


def _parts(network: nn.Module) -> tuple[list[nn.Sequential], nn.Sequential]:
    towers, head = network.get_submodule("towers"), network.get_submodule("head")
    assert isinstance(towers, nn.ModuleList)
    mlps = [part for part in (*towers, head) if is_mlp(part)]
    assert len(mlps) == len(towers) + 1  # `is_two_tower_mlp` has looked
    return mlps[:-1], mlps[-1]


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # as they were made
    return parameter.grad


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()
