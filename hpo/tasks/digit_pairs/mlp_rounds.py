"""Rounds of networks of linear layers and activations: a batch forward and back as one loop, on a CPU.

A step of `fnn` is eleven million multiply-adds a round, and small operations around them. As operations of PyTorch on
stacked rounds the small ones take as long as the products, and what one writes has left the core's cache before the
next reads it. Here a round's batch is drawn, sent through towers and head, and its gradients back through both, before
the next round's begins, so all of it stays in the cache. The optimizer is PyTorch's, one step for all rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from hpo.kernels.maps import Array
from hpo.tasks.digit_pairs import mlp_kernels as dense
from hpo.tasks.digit_pairs.mlp_kernels import Chain
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.optimizers import Recipe, make_optimizer
from hpo.training.rounds import GradientNorms, Rounds

DIGIT_PAIR = "_hpo_models._pair.DigitPair"  # the class whose `forward` these loops are, by the name that it goes under

Curve = tuple[float, float, float]  # an activation, as of `dense.Chain`
NO_ACTIVATION: Curve = (1.0, 1.0, 0.0)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, as in torch.nn.SELU
CURVES: dict[type[nn.Module], Callable[[Any], Curve]] = {
    nn.ReLU: lambda layer: (1.0, 0.0, 0.0),
    nn.LeakyReLU: lambda layer: (1.0, layer.negative_slope, 0.0),
    nn.ELU: lambda layer: (1.0, 0.0, layer.alpha),
    nn.SELU: lambda layer: (SELU_SCALE, 0.0, SELU_SCALE * SELU_ALPHA),
}


class LinearRounds(Rounds):
    """R networks of `towers` and a `head` that are chains, in training on a CPU, in float32 or float64."""

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        self.recipe = recipe
        self._towers, self._head = _parts(networks[0])
        apart = [_parts(network) for network in networks]
        self._parameters = [
            nn.Parameter(torch.stack([flatten(towers) for towers, _ in apart])),  # (R, T, P)
            nn.Parameter(flatten([head for _, head in apart])),  # (R, Q)
        ]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizers = [make_optimizer(recipe, self._parameters)]
        self._structures = structure(self._towers[0]), structure(self._head)

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        rounds, count = batch.targets.shape
        return self._step(batch, torch.arange(count).repeat(rounds, 1))

    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        total = pairs.images.new_zeros(len(orders))  # (R,)
        for chosen in torch.split(orders, self.recipe.batch_size, dim=1):  # (R, B)
            total += chosen.shape[1] / orders.shape[1] * self._step(pairs, chosen.contiguous())
            if norms is not None:
                norms.add(self._named([_gradient(parameter) for parameter in self._parameters]))
        return total

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        self._check_rounds(images)
        rounds, count = images.shape[:2]
        comparison, digits = images.new_empty(rounds, count, 2), images.new_empty(rounds, count, 2, 10)
        dense.predict(
            _array(images.flatten(3)), self.recipe.batch_size, *self._chains(),
            _array(comparison), _array(digits.flatten(2)),
        )  # fmt: skip
        return comparison, digits

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        named = self._named([parameter.detach() for parameter in self._parameters])
        return [{name: tensor[r] for name, tensor in named.items()} for r in range(len(self._parameters[0]))]

    def _step(self, pairs: Pairs, chosen: Tensor) -> Tensor:
        """Trains every round on its chosen pairs, (R, B), and returns the losses (R,) from before."""
        self._check_rounds(pairs.images, chosen)
        losses = pairs.images.new_empty(len(chosen))
        weights = (self.recipe.main_weight, self.recipe.auxiliary_weight) if self.recipe.auxiliary_loss else (1.0, 0.0)
        towers, head = self._chains()
        towards_towers, towards_head = (_array(_gradient(parameter)) for parameter in self._parameters)
        dense.train_batch(
            _array(pairs.images.flatten(3)), _array(pairs.classes), _array(pairs.targets), _array(chosen), towers, head,
            np.array(weights, losses.numpy().dtype), towards_towers, towards_head, _array(losses),
        )  # fmt: skip
        (optimizer,) = self.optimizers
        optimizer.step()
        return losses

    def _check_rounds(self, *tensors: Tensor) -> None:
        rounds = len(self._parameters[0])
        if any(len(tensor) != rounds for tensor in tensors):
            raise ValueError(f"{rounds} networks, but pairs or orders of {[len(tensor) for tensor in tensors]} rounds")

    def _chains(self) -> tuple[Chain, Chain]:
        towers, head = (
            Chain(_array(parameter), *form) for parameter, form in zip(self._parameters, self._structures, strict=True)
        )
        return towers, head

    def _named(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns tensors that lie as the parameters do, by the names that a network has for them: (R, ...)."""
        towers, head = parts
        named: dict[str, Tensor] = {}
        for i, tower in enumerate(self._towers):
            named |= {f"towers.{i}.{name}": part for name, part in unflatten(towers[:, i], tower).items()}
        return named | {f"head.{name}": part for name, part in unflatten(head, self._head).items()}


def is_linear(network: nn.Module) -> bool:
    """Says whether a network is a `DigitPair` of chains, its two towers alike, and all of it is to be trained."""
    if f"{type(network).__module__}.{type(network).__qualname__}" != DIGIT_PAIR:
        return False
    towers, head = network.get_submodule("towers"), network.get_submodule("head")
    assert isinstance(towers, nn.ModuleList)
    if not all(parameter.requires_grad for parameter in network.parameters()):
        return False
    return all(is_chain(part) for part in (*towers, head)) and len({str(tower) for tower in towers}) == 1


def is_chain(layers: nn.Module) -> TypeGuard[nn.Sequential]:
    """Says whether these are linear layers with a bias, each with at most one known activation behind it.

    A first `nn.Flatten` is passed over. A gradient is had from an activation's result, so none may fall.
    """
    if type(layers) is not nn.Sequential or not all(
        type(layer) in {nn.Flatten, nn.Linear, *CURVES} for layer in layers
    ):
        return False
    kinds = [type(layer) for layer in layers]
    kinds = kinds[1:] if kinds[:1] == [nn.Flatten] else kinds
    return (
        kinds[:1] == [nn.Linear]
        and nn.Flatten not in kinds
        and all(nn.Linear in pair for pair in pairwise(kinds))
        and len(list(layers.parameters())) == 2 * kinds.count(nn.Linear)  # a bias each, and no layer twice
        and all(min(CURVES[type(layer)](layer)) >= 0 for layer in layers if type(layer) in CURVES)
    )


def flatten(chains: Sequence[nn.Sequential]) -> Tensor:
    """Returns the parameters of R chains, (R, P), as `Chain` has them; copies."""
    return torch.stack(
        [torch.cat([parameter.detach().flatten() for parameter in chain.parameters()]) for chain in chains]
    )


def unflatten(flat: Tensor, chain: nn.Sequential) -> dict[str, Tensor]:
    """Returns the parts of (R, P), by the names and in the shapes that a chain's parameters have: (R, ...)."""
    shapes = {name: parameter.shape for name, parameter in chain.named_parameters()}
    parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def structure(chain: nn.Sequential) -> tuple[Array, Array]:
    """Returns a chain's widths and curves."""
    linear = [layer for layer in chain if isinstance(layer, nn.Linear)]
    curves: list[Curve] = []
    for layer in chain:
        if isinstance(layer, nn.Linear):
            curves.append(NO_ACTIVATION)
        elif type(layer) in CURVES:
            curves[-1] = CURVES[type(layer)](layer)
    widths = np.array([linear[0].in_features, *(layer.out_features for layer in linear)])
    return widths, np.array(curves, linear[0].weight.detach().numpy().dtype)


def _parts(network: nn.Module) -> tuple[list[nn.Sequential], nn.Sequential]:
    towers, head = network.get_submodule("towers"), network.get_submodule("head")
    assert isinstance(towers, nn.ModuleList)
    chains = [part for part in (*towers, head) if is_chain(part)]
    assert len(chains) == len(towers) + 1  # `is_linear` has looked
    return chains[:-1], chains[-1]


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # as they were made
    return parameter.grad


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()
