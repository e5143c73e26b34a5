"""Linear layers and activations one behind the other, for R networks, as loops on a CPU.

A network goes through all its layers, and all the way back, before the next one begins, so what it makes is still in
the core's cache when it is read. Bias and activation are one pass, their gradients another. Products are those of
SciPy's BLAS, which Numba calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - here, so that whoever limits the threads of BLAS finds it
import torch
from torch import Tensor, nn

from .kernels import Array, compiled

# An activation is two slopes and a floor: z -> above * z where z > 0, else below * z, or floor * (e^z - 1) where the
# floor is not 0.
Curve = tuple[float, float, float]
NO_ACTIVATION: Curve = (1.0, 1.0, 0.0)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, as in torch.nn.SELU
CURVES: dict[type[nn.Module], Callable[[Any], Curve]] = {
    nn.ReLU: lambda layer: (1.0, 0.0, 0.0),
    nn.LeakyReLU: lambda layer: (1.0, layer.negative_slope, 0.0),
    nn.ELU: lambda layer: (1.0, 0.0, layer.alpha),
    nn.SELU: lambda layer: (SELU_SCALE, 0.0, SELU_SCALE * SELU_ALPHA),
}


class Chain(NamedTuple):
    """R chains of one structure, of L layers each.

    Attributes:
        flat: (R, P), the parameters of each: of each layer the weight, row by row, and then the bias.
        widths: (L + 1,), the width of an example, and then that of each layer.
        curves: (L, 3), each layer's activation.
    """

    flat: Array
    widths: Array
    curves: Array


def is_chain(layers: nn.Module | None) -> TypeGuard[nn.Sequential]:
    """Says whether these are linear layers with a bias, each with at most one known activation behind it.

    A first `nn.Flatten` is passed over.
    """
    known = {nn.Flatten, nn.Linear, *CURVES}
    if not isinstance(layers, nn.Sequential) or not all(type(layer) in known for layer in layers):
        return False
    kinds = [type(layer) for layer in layers]
    kinds = kinds[1:] if kinds[:1] == [nn.Flatten] else kinds
    return (
        kinds[:1] == [nn.Linear]
        and nn.Flatten not in kinds
        and all(nn.Linear in pair for pair in pairwise(kinds))
        and all(layer.bias is not None for layer in layers if isinstance(layer, nn.Linear))
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


@compiled
def run(x: Array, chain: Chain) -> Array:
    """Sends the examples of R networks, (R, B, K), through their layers.

    Returns:
        (R, B * (N1 + ... + NL)): what each layer makes of the examples, (B, N), one after another.
    """
    flat, widths, curves = chain
    rounds, batch = x.shape[:2]
    results = np.empty((rounds, batch * widths[1:].sum()), x.dtype)
    for r in range(rounds):
        source, parameter, place = x[r], 0, 0
        for i in range(len(curves)):
            size, end = widths[i] * widths[i + 1], place + batch * widths[i + 1]
            weight = flat[r, parameter : parameter + size].reshape(widths[i + 1], widths[i])
            bias = flat[r, parameter + size : parameter + size + widths[i + 1]]
            result = results[r, place:end].reshape(batch, widths[i + 1])
            np.dot(source, weight.T, result)
            _activate(result, bias, curves[i])
            source, parameter, place = result, parameter + size + widths[i + 1], end
    return results


@compiled
def run_back(x: Array, chain: Chain, results: Array, gradient: Array, towards_flat: Array, towards_x: Array) -> None:
    """Sends gradients back through the layers.

    Args:
        x, chain: as of `run`, and `results` what it returned.
        gradient: (R, B, N), of what the last layer made; it is overwritten.
        towards_flat: written: (R, P).
        towards_x: written: (R, B, K), unless it is empty.
    """
    flat, widths, curves = chain
    batch = x.shape[1]
    for r in range(x.shape[0]):
        parameter, place = flat.shape[1], results.shape[1]
        towards = gradient[r]
        for i in range(len(curves) - 1, -1, -1):
            size, end = widths[i] * widths[i + 1], place
            place -= batch * widths[i + 1]
            parameter -= size + widths[i + 1]
            result = results[r, place:end].reshape(batch, widths[i + 1])
            source = x[r] if i == 0 else results[r, place - batch * widths[i] : place].reshape(batch, widths[i])
            _activate_back(towards, result, curves[i], towards_flat[r, parameter + size :][: widths[i + 1]])
            np.dot(towards.T, source, towards_flat[r, parameter : parameter + size].reshape(widths[i + 1], widths[i]))
            weight = flat[r, parameter : parameter + size].reshape(widths[i + 1], widths[i])
            if i > 0:
                towards = np.dot(towards, weight)
            elif len(towards_x):
                np.dot(towards, weight, towards_x[r])


@compiled
def _activate(rows: Array, bias: Array, curve: Array) -> None:
    """Adds a bias (N,) to rows (B, N), and maps them by an activation."""
    above, below, floor = curve
    zero = rows.dtype.type(0)
    for b in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            z = rows[b, n] + bias[n]
            if floor != 0:
                rows[b, n] = above * z if z > 0 else floor * np.expm1(z)
            elif below != 0:
                rows[b, n] = above * z if z > 0 else below * z
            else:
                rows[b, n] = zero if z <= 0 else above * z  # what is no number stays none


@compiled
def _activate_back(gradient: Array, rows: Array, curve: Array, towards_bias: Array) -> None:
    """Turns the gradient (B, N) of an activation's results, which are `rows`, into its input's; writes the bias's."""
    above, below, floor = curve
    zero = rows.dtype.type(0)
    towards_bias[:] = 0
    for b in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            y, part = rows[b, n], gradient[b, n]
            if floor != 0:
                part *= above if y > 0 else y + floor
            elif below != 0:
                part *= above if y > 0 else below
            else:
                part = zero if y <= 0 else above * part
            gradient[b, n] = part
            towards_bias[n] += part
