"""Rounds of networks of linear layers and activations: a batch forward and back as one loop, on a CPU.

A step of `fnn` is eleven million multiply-adds a round, and small operations around them. As operations of PyTorch on
stacked rounds the small ones take as long as the products, and what one writes has left the core's cache before the
next reads it. Here a round's batch is drawn, sent through towers and head, and its gradients back through both, before
the next round's begins, so all of it stays in the cache. The optimizer is PyTorch's, one step for all rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .chains import Chain, flatten, is_chain, run, run_back, structure, unflatten
from .data import Pairs
from .kernels import Array, compiled, cross_entropy
from .recipe import Recipe, make_optimizer
from .rounds import GradientNorms, Rounds


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
            parameter.grad = torch.empty_like(parameter)
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
        rounds, count = images.shape[:2]
        comparison, digits = images.new_empty(rounds, count, 2), images.new_empty(rounds, count, 2, 10)
        predict(
            _array(images.flatten(3)),
            self.recipe.batch_size,
            *self._chains(),
            _array(comparison),
            _array(digits.flatten(2)),
        )
        return comparison, digits

    def states(self) -> list[dict[str, Tensor]]:  # noqa: D102
        named = self._named([parameter.detach() for parameter in self._parameters])
        return [{name: tensor[r] for name, tensor in named.items()} for r in range(len(self._parameters[0]))]

    def _step(self, pairs: Pairs, chosen: Tensor) -> Tensor:
        """Trains every round on its chosen pairs, (R, B), and returns the losses (R,) from before."""
        losses = pairs.images.new_empty(len(chosen))
        weights = (self.recipe.main_weight, self.recipe.auxiliary_weight) if self.recipe.auxiliary_loss else (1.0, 0.0)
        towers, head = self._chains()
        towards_towers, towards_head = (_array(_gradient(parameter)) for parameter in self._parameters)
        train_batch(
            _array(pairs.images.flatten(3)), _array(pairs.classes), _array(pairs.targets), _array(chosen), towers, head,
            np.array(weights, losses.numpy().dtype), towards_towers, towards_head, _array(losses),
        )  # fmt: skip
        (optimizer,) = self.optimizers
        optimizer.step()
        return losses

    def _chains(self) -> tuple[Chain, Chain]:
        towers, head = (
            Chain(_array(parameter), *form) for parameter, form in zip(self._parameters, self._structures, strict=True)
        )
        return towers, head

    def _named(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns tensors that lie as the parameters do, by the names that a network has for them: (R, ...)."""
        towers, head = parts
        named = {f"head.{name}": part for name, part in unflatten(head, self._head).items()}
        for i, tower in enumerate(self._towers):
            named |= {f"towers.{i}.{name}": part for name, part in unflatten(towers[:, i], tower).items()}
        return named


def is_linear(network: nn.Module) -> bool:
    """Says whether a network is one or two towers and a head that are chains, joined as those of a `DigitPair` are.

    How they are joined is not believed of their names, but seen by what comes of a few pairs.
    """
    network = copy.deepcopy(network).double()
    towers, head = getattr(network, "towers", None), getattr(network, "head", None)
    if not isinstance(towers, nn.ModuleList) or not is_chain(head):
        return False
    if len(towers) not in (1, 2) or not all(is_chain(tower) for tower in towers):
        return False
    parameters = [parameter for part in (*towers, head) for parameter in part.parameters()]
    if len(parameters) != len(list(network.parameters())) or list(network.buffers()):
        return False
    pairs = torch.linspace(-1, 1, 3 * 2 * 14 * 14, dtype=torch.float64).view(3, 2, 14, 14)
    with torch.no_grad():
        digits = torch.stack([towers[i % len(towers)](pairs[:, i : i + 1]) for i in range(2)], dim=1)  # (3, 2, 10)
        return all(map(torch.allclose, network(pairs), (head(digits.flatten(1)), digits)))


@compiled
def train_batch(
    images: Array,
    classes: Array,
    targets: Array,
    chosen: Array,
    towers: Chain,
    head: Chain,
    weights: Array,
    towards_towers: Array,
    towards_head: Array,
    losses: Array,
) -> None:
    """Writes the losses of R rounds on a batch of each, as `Recipe.loss` has them, and their gradients.

    Args:
        images, classes, targets: (R, N, 2, K), (R, N, 2), (R, N), as of `Pairs`.
        chosen: (R, B), each round's batch.
        towers: of (R, T, P), one tower for both images or one for each.
        head: of (R, Q).
        weights: (2,), of the comparison's loss and of the digits', which are left out where it is 0.
        towards_towers, towards_head: written: the gradients, (R, T, P) and (R, Q).
        losses: written: (R,).
    """
    batch = chosen.shape[1]
    main, auxiliary = weights / batch
    for r in range(len(chosen)):
        ours, our_head = _of_round(towers, head, r)
        x, seen, digits, decided = _look(images[r], chosen[r], ours, our_head)
        towards_decided, towards_digits = np.empty((1, batch, 2), x.dtype), np.empty_like(digits)
        losses[r] = _loss(_last(decided, batch, 2)[0], targets[r][chosen[r]], main, towards_decided[0])
        run_back(digits, our_head, decided, towards_decided, towards_head[r : r + 1], towards_digits)
        if auxiliary != 0:
            towards_each = np.empty((2 * batch, 10), x.dtype)
            losses[r] += _loss(
                digits.reshape(2 * batch, 10), classes[r][chosen[r]].reshape(2 * batch), auxiliary, towards_each
            )
            _add(towards_each.reshape(batch, 20), towards_digits[0])
        towards_seen = np.empty((len(x), x.shape[1], 10), x.dtype)
        for b in range(batch):
            _copy(towards_digits[0, b].reshape(2, 10), _of_pair(towards_seen, b))
        run_back(x, ours, seen, towards_seen, towards_towers[r], x[:0])


@compiled
def predict(images: Array, size: int, towers: Chain, head: Chain, comparison: Array, digits: Array) -> None:
    """Writes the logits (R, N, 2) and (R, N, 2 * 10) of R rounds, in batches of a size that stays in the cache."""
    for r in range(len(images)):
        ours, our_head = _of_round(towers, head, r)
        for start in range(0, images.shape[1], size):
            chosen = np.arange(start, min(start + size, images.shape[1]))
            _, _, found, decided = _look(images[r], chosen, ours, our_head)
            _copy(found[0], digits[r, start : start + size])
            _copy(_last(decided, len(chosen), 2)[0], comparison[r, start : start + size])


@compiled
def _look(images: Array, chosen: Array, towers: Chain, head: Chain) -> tuple[Array, Array, Array, Array]:
    """Shows chosen pairs (B,) of the images (N, 2, K) to a round's network: to towers of (T, P) and a head of (1, Q).

    Returns:
        What the towers were given, (T, 2 * B / T, K); what their layers made of it; the digits' logits, one after
        another (1, B, 20); and what the head's layers made of them.
    """
    batch, many = len(chosen), len(towers.flat)
    x = np.empty((many, 2 * batch // many, images.shape[2]), images.dtype)
    for b in range(batch):
        _copy(images[chosen[b]], _of_pair(x, b))
    seen = run(x, towers)
    logits, digits = _last(seen, x.shape[1], 10), np.empty((1, batch, 20), images.dtype)
    for b in range(batch):
        _copy(_of_pair(logits, b), digits[0, b].reshape(2, 10))
    return x, seen, digits, run(digits, head)


@compiled
def _loss(logits: Array, labels: Array, weight: float, towards_logits: Array) -> float:
    """Returns the sum of the cross-entropies of logits (B, K) and labels (B,), weighted, and writes its gradient."""
    losses = np.empty(len(labels), logits.dtype)
    cross_entropy(logits, labels, losses, towards_logits)
    total = logits.dtype.type(0)
    for b in range(len(labels)):
        total += losses[b]
        for k in range(logits.shape[1]):
            towards_logits[b, k] *= weight
    loss: float = weight * total
    return loss


@compiled
def _of_pair(examples: Array, b: int) -> Array:
    """Returns where the towers have the two images of a pair: of (1, 2 * B, K) or (2, B, K) a view of (2, K)."""
    return examples[:, b] if len(examples) == 2 else examples[0, 2 * b : 2 * b + 2]


@compiled
def _copy(rows: Array, to: Array) -> None:
    """Copies (B, K); Numba takes seconds to compile an assignment of slices."""
    for b in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            to[b, k] = rows[b, k]


@compiled
def _add(rows: Array, to: Array) -> None:
    for b in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            to[b, k] += rows[b, k]


@compiled
def _last(results: Array, batch: int, width: int) -> Array:
    """Returns what the last layer made, (T, B, N), of the results of `run`."""
    return results[:, -batch * width :].copy().reshape(-1, batch, width)


@compiled
def _of_round(towers: Chain, head: Chain, r: int) -> tuple[Chain, Chain]:
    return (
        Chain(towers.flat[r], towers.widths, towers.curves),
        Chain(head.flat[r : r + 1], head.widths, head.curves),
    )


def _parts(network: nn.Module) -> tuple[list[nn.Sequential], nn.Sequential]:
    towers, head = network.get_submodule("towers"), network.get_submodule("head")
    assert isinstance(towers, nn.ModuleList)
    assert is_chain(head)
    return [tower for tower in towers if is_chain(tower)], head


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # as they were made
    return parameter.grad


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()
