"""A rival in JAX: the rounds of a configuration in jitted programs.

    pip install jax
    python -m benchmarks.rival_jax scan cnn_bn          # or steps

The same configuration, protocol, pairs and evaluations as `benchmarks.rivals`, and the same line of JSON. `scan` is one
program for an epoch: all rounds at once by vmap, a scan over batches, as one would write it for a GPU. `steps` is a
program for a step of one round, called from Python: on a CPU, XLA runs convolutions inside a scan on one thread and
slowly. Compiling is warm-up, and stated apart.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from benchmarks.report_a import cnn_rounds, cnn_task
from hpo.training.batch import stack

RATE, SLOPE, EPSILON, MOMENTUM = 0.1, 0.01, 1e-5, 0.1
Tree = Any

# A tower is a list of layers; images are (B, 14, 14, 1), channels last.
TOWERS: dict[str, list[tuple[Any, ...]]] = {
    "fnn": [("flatten",), ("linear", 196, 100), ("leaky",), ("linear", 100, 50), ("leaky",), ("linear", 50, 10)],
    "cnn": [
        *[("conv", 1, 32, 0, True), ("pool",), ("leaky",), ("conv", 32, 64, 0, True), ("pool",), ("leaky",)],
        *[("flatten",), ("linear", 256, 200), ("leaky",), ("linear", 200, 10)],
    ],
    "cnn_bn": [
        *[("conv", 1, 32, 0, False), ("norm", 32), ("pool",), ("leaky",)],
        *[("conv", 32, 64, 0, False), ("norm", 64), ("pool",), ("leaky",)],
        *[("flatten",), ("linear", 256, 200), ("leaky",), ("linear", 200, 10)],
    ],
    "residual": [("conv", 1, 14, 0, True), *[("block",)] * 6, ("mean",), ("leaky",), ("linear", 14, 10)],
}
BLOCK = [("conv", 14, 14, 1, True), ("norm", 14), ("leaky",), ("conv", 14, 14, 1, True), ("norm", 14)]
HEAD = [("linear", 20, 20), ("leaky",), ("linear", 20, 2)]


def init(key: Tree, layers: list[tuple[Any, ...]]) -> tuple[Tree, Tree]:
    """Returns parameters and running statistics, a pair for each layer; PyTorch's default initialisation."""
    parameters, statistics = [], []
    for k, (kind, *sizes) in zip(random.split(key, len(layers)), layers, strict=True):
        weights, running = {}, {}
        if kind in ("linear", "conv"):
            inputs, outputs = sizes[:2]
            shape = (inputs, outputs) if kind == "linear" else (3, 3, inputs, outputs)
            bound = (np.prod(shape[:-1])) ** -0.5
            weights["w"] = random.uniform(k, shape, minval=-bound, maxval=bound)
            if kind == "linear" or sizes[3]:
                weights["b"] = random.uniform(random.fold_in(k, 1), (outputs,), minval=-bound, maxval=bound)
        elif kind == "norm":
            weights = {"g": jnp.ones(sizes[0]), "b": jnp.zeros(sizes[0])}
            running = {"m": jnp.zeros(sizes[0]), "v": jnp.ones(sizes[0])}
        elif kind == "block":
            weights, running = init(k, BLOCK)
        parameters.append(weights)
        statistics.append(running)
    return parameters, statistics


def apply(layers: list[tuple[Any, ...]], p: Tree, s: Tree, x: jax.Array, training: bool) -> tuple[jax.Array, Tree]:
    """Returns what the layers make of x, and the running statistics after it."""
    after = []
    for (kind, *sizes), w, running in zip(layers, p, s, strict=True):
        new = running
        if kind == "linear":
            x = x @ w["w"] + w["b"]
        elif kind == "conv":
            pad = [(sizes[2], sizes[2])] * 2
            x = lax.conv_general_dilated(x, w["w"], (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = x + w["b"] if "b" in w else x
        elif kind == "norm":
            mean, variance = running["m"], running["v"]
            if training:
                mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
                n = x.size // x.shape[-1]
                moved = {"m": mean, "v": variance * n / (n - 1)}
                new = {key: (1 - MOMENTUM) * running[key] + MOMENTUM * moved[key] for key in running}
            x = (x - mean) * lax.rsqrt(variance + EPSILON) * w["g"] + w["b"]
        elif kind == "pool":
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        elif kind == "leaky":
            x = jnp.where(x > 0, x, SLOPE * x)
        elif kind == "flatten":
            x = x.reshape(len(x), -1)
        elif kind == "mean":
            x = x.mean((1, 2))
        elif kind == "block":
            residue, new = apply(BLOCK, w, running, x, training)
            x = x + residue
            x = jnp.where(x > 0, x, SLOPE * x)
        after.append(new)
    return x, after


def forward(tower: list[tuple[Any, ...]], p: Tree, s: Tree, pairs: jax.Array, training: bool) -> tuple[Any, Any, Tree]:
    """Maps pairs (B, 2, 14, 14) to comparison logits (B, 2) and digit logits (B, 2, 10), one tower for both images."""
    digits, after = apply(tower, p["tower"], s, pairs.reshape(-1, 14, 14, 1), training)
    digits = digits.reshape(-1, 2, 10)
    comparison, _ = apply(HEAD, p["head"], [{}] * len(HEAD), digits.reshape(-1, 20), training)
    return comparison, digits, after


def entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1).mean()


@dataclass(frozen=True)
class OneRound:
    """What a round computes, as functions that JAX can map and compile.

    Attributes:
        batch: pairs a step.
    """

    tower: list[tuple[Any, ...]]
    batch: int

    def begin(self, key: Tree) -> tuple[Tree, Tree]:
        """Returns fresh parameters and running statistics."""
        p, s = init(key, self.tower)
        return {"tower": p, "head": init(random.fold_in(key, 2), HEAD)[0]}, s

    def loss(self, p: Tree, s: Tree, images: jax.Array, classes: jax.Array, targets: jax.Array) -> tuple[Any, Tree]:
        """Returns the loss of a batch, and the running statistics after it."""
        comparison, digits, after = forward(self.tower, p, s, images, training=True)
        return entropy(comparison, targets) + 2 * entropy(digits, classes), after

    def step(self, p: Tree, s: Tree, rows: jax.Array, data: Tree) -> tuple[Tree, Tree]:
        """Trains on the pairs of some rows."""
        gradients, s = jax.grad(self.loss, has_aux=True)(p, s, *(tensor[rows] for tensor in data))
        return jax.tree.map(lambda weight, gradient: weight - RATE * gradient, p, gradients), s

    def order(self, key: Tree, data: Tree) -> jax.Array:
        """Returns the rows of an epoch's batches."""
        return random.permutation(key, len(data[0])).reshape(-1, self.batch)

    def epoch(self, p: Tree, s: Tree, key: Tree, data: Tree) -> tuple[Tree, Tree]:
        """Trains an epoch, in one program."""
        return lax.scan(lambda state, rows: (self.step(*state, rows, data), None), (p, s), self.order(key, data))[0]

    def error(self, p: Tree, s: Tree, data: Tree) -> jax.Array:
        """Returns the error by recognition, in percent."""
        first, second = forward(self.tower, p, s, data[0], training=False)[1].argmax(-1).T
        return 100 * ((first <= second) != data[2]).mean()


class Scan:
    """All rounds at once: their states and data are stacked.

    Args:
        train, test: images, classes and targets, of R rounds each.
    """

    def __init__(self, one: OneRound, train: Tree, test: Tree) -> None:
        self._train, self._test = train, test
        self.begin = jax.jit(jax.vmap(one.begin))
        self._epoch, self._error = jax.jit(jax.vmap(one.epoch)), jax.jit(jax.vmap(one.error))

    def epoch(self, states: Tree, keys: Tree) -> Tree:
        """Trains every round for an epoch."""
        return self._epoch(*states, keys, self._train)

    def errors(self, states: Tree) -> jax.Array:
        """Returns every round's error."""
        return self._error(*states, self._test)


class Steps:
    """One round after another, a program for a step; the arguments are those of `Scan`."""

    def __init__(self, one: OneRound, train: Tree, test: Tree) -> None:
        self._one, self._begin, self._step, self._error = one, *map(jax.jit, (one.begin, one.step, one.error))
        self._train, self._test = (
            [jax.tree.map(itemgetter(r), data) for r in range(len(data[0]))] for data in (train, test)
        )

    def begin(self, keys: Tree) -> Tree:
        """Returns every round's fresh state."""
        return [self._begin(key) for key in keys]

    def epoch(self, states: Tree, keys: Tree) -> Tree:
        """Trains every round for an epoch."""
        after = []
        for state, key, data in zip(states, keys, self._train, strict=True):
            for rows in self._one.order(key, data):
                state = self._step(*state, rows, data)
            after.append(state)
        return after

    def errors(self, states: Tree) -> jax.Array:
        """Returns every round's error."""
        return jnp.stack([self._error(*state, data) for state, data in zip(states, self._test, strict=True)])


def main(how: str, architecture: str, device: str = "cpu", first: str = "0", count: str = "10") -> None:
    """Measures one architecture over `count` rounds from `first`; JAX_PLATFORMS chooses the device."""
    numbers = range(int(first), int(first) + int(count))
    task, training = cnn_task()
    drawn = [(split.train, split.test) for split in map(task.data, cnn_rounds(numbers))]
    train, test = (tuple(jnp.asarray(tensor.numpy()) for tensor in stack(part)) for part in zip(*drawn, strict=True))
    rounds = (Scan if how == "scan" else Steps)(OneRound(TOWERS[architecture], training.batch_size), train, test)

    def trial(epochs: int) -> np.ndarray:
        key, errors = random.key(numbers.start), np.empty(0)
        states = rounds.begin(random.split(key, len(numbers)))
        for number in range(1, epochs + 1):
            states = rounds.epoch(states, random.split(random.fold_in(key, number), len(numbers)))
            if number in (*training.evaluate_at, training.epochs):
                errors = np.asarray(rounds.errors(states))
        return errors

    began = time.perf_counter()
    trial(epochs=1)
    warmed_up = time.perf_counter()
    errors = trial(training.epochs)
    seconds = time.perf_counter() - warmed_up
    spent = {"seconds": seconds, "warm_up_seconds": warmed_up - began}
    print(json.dumps({**spent, "errors": errors.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
