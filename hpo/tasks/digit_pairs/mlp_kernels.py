"""Linear layers and activations one behind the other, for R networks, as loops on a CPU.

A network goes through all its layers, and all the way back, before the next one begins, so what it makes is still in
the core's cache when it is read. Bias and activation are one pass, their gradients another. Products are those of
SciPy's BLAS, which Numba calls. All is compiled as in `hpo/kernels/jit.py`. Numba looks at no bounds: shapes are the
callers' to keep.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - here, so that whoever limits the threads of BLAS finds it

from hpo.kernels.jit import Array, compiled


class MLP(NamedTuple):
    """R MLPs of one structure, of L layers each.

    Attributes:
        flat: (R, P), the parameters of each: of each layer the weight, row by row, and then the bias.
        widths: (L + 1,), the width of an example, and then that of each layer.
        activations: (L, 3), each layer's: two slopes and a depth. It maps z to above * z where z > 0, else to
            below * z, or to depth * (e^z - 1) where the depth is not 0. Neither below nor depth is negative.
    """

    flat: Array
    widths: Array
    activations: Array


@compiled
def train_batch(
    images: Array,
    classes: Array,
    targets: Array,
    chosen: Array,
    towers: MLP,
    head: MLP,
    weights: Array,
    grad_towers: Array,
    grad_head: Array,
    losses: Array,
) -> None:
    """Writes the losses of R rounds on a batch of each, as `DigitPairs.loss` has them, and their gradients.

    Args:
        images, classes, targets: (R, N, 2, K), (R, N, 2), (R, N), as of `Pairs`.
        chosen: (R, B), each round's batch.
        towers: of (R, T, P), one tower for both images or one for each.
        head: of (R, Q).
        weights: (2,), of the comparison's loss and of the digits', which are left out where it is 0.
        grad_towers, grad_head: written: the gradients, (R, T, P) and (R, Q).
        losses: written: (R,).
    """
    batch = chosen.shape[1]
    main, auxiliary = weights / batch
    for r in range(len(chosen)):
        ours, our_head = _of_round(towers, head, r)
        x, towers_out, digits, head_out = _forward_pair(images[r], chosen[r], ours, our_head)
        grad_comparison, grad_digits = np.empty((1, batch, 2), x.dtype), np.empty_like(digits)
        losses[r] = _loss(_last(head_out, batch, 2)[0], targets[r][chosen[r]], main, grad_comparison[0])
        backward(digits, our_head, head_out, grad_comparison, grad_head[r : r + 1], grad_digits)
        if auxiliary != 0:
            grad_each = np.empty((2 * batch, 10), x.dtype)
            losses[r] += _loss(
                digits.reshape(2 * batch, 10), classes[r][chosen[r]].reshape(2 * batch), auxiliary, grad_each
            )
            _add(grad_each.reshape(batch, 20), grad_digits[0])
        grad_towers_out = np.empty((len(x), x.shape[1], 10), x.dtype)
        for b in range(batch):
            _copy(grad_digits[0, b].reshape(2, 10), _of_pair(grad_towers_out, b))
        backward(x, ours, towers_out, grad_towers_out, grad_towers[r], x[:0])


@compiled
def predict(images: Array, size: int, towers: MLP, head: MLP, comparison: Array, digits: Array) -> None:
    """Writes the logits (R, N, 2) and (R, N, 2 * 10) of R rounds, in batches of a size that stays in the cache."""
    for r in range(len(images)):
        ours, our_head = _of_round(towers, head, r)
        for start in range(0, images.shape[1], size):
            chosen = np.arange(start, min(start + size, images.shape[1]))
            _, _, found, head_out = _forward_pair(images[r], chosen, ours, our_head)
            _copy(found[0], digits[r, start : start + size])
            _copy(_last(head_out, len(chosen), 2)[0], comparison[r, start : start + size])


@compiled
def compare(logits: Array, pairs: Array, size: int, head: MLP, comparison: Array) -> None:
    """Writes what heads make of pairs of images whose digits' logits are known, in batches of a size.

    Args:
        logits: (R, T, M, 10), of M images by each of T towers.
        pairs: (R, P, 2), which images.
        head: of (R, Q).
        comparison: written: (R, P, 2).
    """
    for r in range(len(pairs)):
        our_head = MLP(head.flat[r : r + 1], head.widths, head.activations)
        for start in range(0, pairs.shape[1], size):
            chosen = pairs[r, start : start + size]
            both = np.empty((1, len(chosen), 20), logits.dtype)
            for b in range(len(chosen)):
                for k in range(10):
                    both[0, b, k] = logits[r, 0, chosen[b, 0], k]
                    both[0, b, 10 + k] = logits[r, -1, chosen[b, 1], k]
            found = forward(both, our_head)
            _copy(_last(found, len(chosen), 2)[0], comparison[r, start : start + size])


@compiled
def _forward_pair(images: Array, chosen: Array, towers: MLP, head: MLP) -> tuple[Array, Array, Array, Array]:
    """Shows chosen pairs (B,) of the images (N, 2, K) to a round's network: to towers of (T, P) and a head of (1, Q).

    Returns:
        What the towers were given, (T, 2 * B / T, K); what their layers made of it; the digits' logits, one after
        another (1, B, 20); and what the head's layers made of them.
    """
    batch, many = len(chosen), len(towers.flat)
    x = np.empty((many, 2 * batch // many, images.shape[2]), images.dtype)
    for b in range(batch):
        _copy(images[chosen[b]], _of_pair(x, b))
    towers_out = forward(x, towers)
    logits, digits = _last(towers_out, x.shape[1], 10), np.empty((1, batch, 20), images.dtype)
    for b in range(batch):
        _copy(_of_pair(logits, b), digits[0, b].reshape(2, 10))
    return x, towers_out, digits, forward(digits, head)


@compiled
def _loss(logits: Array, labels: Array, weight: float, grad_logits: Array) -> float:
    """Returns the sum of the cross-entropies of logits (B, K) and labels (B,), weighted, and writes its gradient."""
    losses = np.empty(len(labels), logits.dtype)
    cross_entropy(logits, labels, losses, grad_logits)
    total = logits.dtype.type(0)
    for b in range(len(labels)):
        total += losses[b]
        for k in range(logits.shape[1]):
            grad_logits[b, k] *= weight
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
def _of_round(towers: MLP, head: MLP, r: int) -> tuple[MLP, MLP]:
    return (
        MLP(towers.flat[r], towers.widths, towers.activations),
        MLP(head.flat[r : r + 1], head.widths, head.activations),
    )


@compiled
def forward(x: Array, mlp: MLP) -> Array:
    """Sends the examples of R networks, (R, B, K), through their layers.

    Returns:
        (R, B * (N1 + ... + NL)): what each layer makes of the examples, (B, N), one after another.
    """
    flat, widths, activations = mlp
    rounds, batch = x.shape[:2]
    results = np.empty((rounds, batch * widths[1:].sum()), x.dtype)
    for r in range(rounds):
        source, parameter, place = x[r], 0, 0
        for i in range(len(activations)):
            size, end = widths[i] * widths[i + 1], place + batch * widths[i + 1]
            weight = flat[r, parameter : parameter + size].reshape(widths[i + 1], widths[i])
            bias = flat[r, parameter + size : parameter + size + widths[i + 1]]
            result = results[r, place:end].reshape(batch, widths[i + 1])
            np.dot(source, weight.T, result)
            _activate(result, bias, activations[i])
            source, parameter, place = result, parameter + size + widths[i + 1], end
    return results


@compiled
def backward(x: Array, mlp: MLP, results: Array, gradient: Array, grad_flat: Array, grad_x: Array) -> None:
    """Sends gradients back through the layers.

    Args:
        x, mlp: as of `run`, and `results` what it returned.
        gradient: (R, B, N), of what the last layer made; it is overwritten.
        grad_flat: written: (R, P).
        grad_x: written: (R, B, K), unless it is empty.
    """
    flat, widths, activations = mlp
    batch = x.shape[1]
    for r in range(x.shape[0]):
        parameter, place = flat.shape[1], results.shape[1]
        grad = gradient[r]
        for i in range(len(activations) - 1, -1, -1):
            size, end = widths[i] * widths[i + 1], place
            place -= batch * widths[i + 1]
            parameter -= size + widths[i + 1]
            result = results[r, place:end].reshape(batch, widths[i + 1])
            source = x[r] if i == 0 else results[r, place - batch * widths[i] : place].reshape(batch, widths[i])
            _activate_back(grad, result, activations[i], grad_flat[r, parameter + size :][: widths[i + 1]])
            np.dot(grad.T, source, grad_flat[r, parameter : parameter + size].reshape(widths[i + 1], widths[i]))
            weight = flat[r, parameter : parameter + size].reshape(widths[i + 1], widths[i])
            if i > 0:
                grad = np.dot(grad, weight)
            elif len(grad_x):
                np.dot(grad, weight, grad_x[r])


@compiled
def cross_entropy(logits: Array, labels: Array, losses: Array, gradient: Array) -> None:
    """Writes each example's cross-entropy (N,) and its gradient (N, K), given logits (N, K) and labels (N,)."""
    for n in range(len(labels)):
        largest = logits[n, 0]
        for k in range(1, logits.shape[1]):
            if logits[n, k] > largest:
                largest = logits[n, k]
        total = logits.dtype.type(0)
        for k in range(logits.shape[1]):
            gradient[n, k] = np.exp(logits[n, k] - largest)
            total += gradient[n, k]
        losses[n] = np.log(total) + largest - logits[n, labels[n]]
        for k in range(logits.shape[1]):
            gradient[n, k] /= total
        gradient[n, labels[n]] -= 1


@compiled
def _activate(rows: Array, bias: Array, activation: Array) -> None:
    """Adds a bias (N,) to rows (B, N), and maps them by an activation."""
    above, below, depth = activation
    zero = rows.dtype.type(0)
    for b in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            z = rows[b, n] + bias[n]
            if depth != 0:
                rows[b, n] = above * z if z > 0 else depth * np.expm1(z)
            elif below != 0:
                rows[b, n] = above * z if z > 0 else below * z
            else:
                rows[b, n] = zero if z <= 0 else above * z  # what is no number stays none


@compiled
def _activate_back(gradient: Array, rows: Array, activation: Array, grad_bias: Array) -> None:
    """Turns the gradient (B, N) of an activation's results, which are `rows`, into its input's; writes the bias's."""
    above, below, depth = activation
    zero = rows.dtype.type(0)
    grad_bias[:] = 0
    for b in range(rows.shape[0]):
        for n in range(rows.shape[1]):
            y, part = rows[b, n], gradient[b, n]
            if depth != 0:
                part *= above if y > 0 else y + depth
            elif below != 0:
                part *= above if y > 0 else below
            else:
                part = zero if y <= 0 else above * part
            gradient[b, n] = part
            grad_bias[n] += part
