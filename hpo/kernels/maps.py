"""Loops over small maps that PyTorch leaves to memory, compiled by Numba for one core.

A map here has its channels last, (B, H, W, C). A first convolution of one channel makes 32 maps of it, of which pooling
keeps a quarter; as two operations they write all of them, read them, and do the same again backwards, out of the cache:
two fifths of a step of `cnn` for a tenth of its multiply-adds. As one loop nothing but the maximum is ever written.
Batch norm reads its maps as rows of H * W * C numbers, wide enough for vector instructions however few the channels.

Compiled at the first call, which takes seconds, and kept beside this file (or in NUMBA_CACHE_DIR) for the next process;
a process that may write to neither compiles for itself. What is kept is made again when its own file changes, so a
compiled function calls none of another file. Sums may be taken in any order; numbers that are not finite stay so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
Array = NDArray[Any]  # the numbers of one call are all of float32 or of float64


def compiled(function: Function) -> Function:
    """Has Numba compile a function at its first call, and keep it where there is a folder that it may write to."""
    options: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no such folder, neither beside this file nor in the user's cache
        return njit(**options)(function)  # type: ignore[no-any-return]


@compiled
def convolve_and_pool(images: Array, weight: Array, bias: Array, maxima: Array, places: Array) -> None:
    """Convolves images of one channel, without padding, and keeps the maximum of every 2x2 window.

    Args:
        images: (B, H, W).
        weight: (K, K, C).
        bias: (C,).
        maxima: written: (B, h, w, C), where h = (H - K + 1) // 2.
        places: written: (B, h, w, C), which of the window's four it was, row by row; the first of equals.
    """
    size, channels = weight.shape[0], weight.shape[2]
    a, b, c, d = (np.empty_like(bias), np.empty_like(bias), np.empty_like(bias), np.empty_like(bias))
    for n in range(maxima.shape[0]):
        for i in range(maxima.shape[1]):
            for j in range(maxima.shape[2]):
                for k in range(channels):
                    a[k], b[k], c[k], d[k] = bias[k], bias[k], bias[k], bias[k]
                for u in range(size):
                    for v in range(size):
                        y, x = 2 * i + u, 2 * j + v
                        pa, pb = images[n, y, x], images[n, y, x + 1]
                        pc, pd = images[n, y + 1, x], images[n, y + 1, x + 1]
                        for k in range(channels):
                            factor = weight[u, v, k]
                            a[k] += pa * factor
                            b[k] += pb * factor
                            c[k] += pc * factor
                            d[k] += pd * factor
                for k in range(channels):
                    maximum, place = a[k], 0
                    if b[k] > maximum or b[k] != b[k]:
                        maximum, place = b[k], 1
                    if c[k] > maximum or c[k] != c[k]:
                        maximum, place = c[k], 2
                    if d[k] > maximum or d[k] != d[k]:
                        maximum, place = d[k], 3
                    maxima[n, i, j, k] = maximum
                    places[n, i, j, k] = place


@compiled
def convolve_and_pool_gradient(images: Array, places: Array, gradient: Array, weight: Array, bias: Array) -> None:
    """Adds to `weight` (K, K, C) and `bias` (C,) their gradients, given that of the maxima (B, h, w, C)."""
    size, channels = weight.shape[0], weight.shape[2]
    a, b, c, d = (np.empty_like(bias), np.empty_like(bias), np.empty_like(bias), np.empty_like(bias))
    zero = bias.dtype.type(0)
    for n in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            for j in range(gradient.shape[2]):
                for k in range(channels):
                    place, part = places[n, i, j, k], gradient[n, i, j, k]
                    a[k] = part if place == 0 else zero
                    b[k] = part if place == 1 else zero
                    c[k] = part if place == 2 else zero
                    d[k] = part if place == 3 else zero
                    bias[k] += part
                for u in range(size):
                    for v in range(size):
                        y, x = 2 * i + u, 2 * j + v
                        pa, pb = images[n, y, x], images[n, y, x + 1]
                        pc, pd = images[n, y + 1, x], images[n, y + 1, x + 1]
                        for k in range(channels):
                            weight[u, v, k] += pa * a[k] + pb * b[k] + pc * c[k] + pd * d[k]


@compiled
def normalise(
    maps: Array, weight: Array, bias: Array, epsilon: float, normalised: Array, means: Array, variances: Array
) -> None:
    """Normalises each channel over all examples and places, then scales and shifts it: batch norm in training.

    Args:
        maps: (B, L), rows of places times channels, channels last.
        weight, bias: (C,).
        epsilon: added to the variance.
        normalised: written: (B, L).
        means, variances: written: (C,); the variances are the biased ones.
    """
    channels, places = len(weight), maps.shape[1] // len(weight)
    count = maps.shape[0] * places
    sums = np.zeros(maps.shape[1], maps.dtype)
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            sums[s] += maps[n, s]
    means[:] = sums.reshape(places, channels).sum(0) / count
    row, sums[:] = _tiled(means, places), 0
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            away = maps[n, s] - row[s]
            sums[s] += away * away
    variances[:] = sums.reshape(places, channels).sum(0) / count
    scale = weight / np.sqrt(variances + weight.dtype.type(epsilon))
    scales, shifts = _tiled(scale, places), _tiled(bias - means * scale, places)
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            normalised[n, s] = maps[n, s] * scales[s] + shifts[s]


@compiled
def normalise_gradient(
    maps: Array,
    weight: Array,
    epsilon: float,
    means: Array,
    variances: Array,
    gradient: Array,
    towards_maps: Array,
    towards_weight: Array,
    towards_bias: Array,
) -> None:
    """Writes the gradients of `normalise` towards the maps (B, L), weight and bias (C,), given that of its result."""
    channels, places = len(weight), maps.shape[1] // len(weight)
    count = maps.shape[0] * places
    row, sums, products = (
        _tiled(means, places),
        np.zeros(maps.shape[1], maps.dtype),
        np.zeros(maps.shape[1], maps.dtype),
    )
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            sums[s] += gradient[n, s]
            products[s] += gradient[n, s] * (maps[n, s] - row[s])
    inverse = 1 / np.sqrt(variances + weight.dtype.type(epsilon))
    towards_bias[:] = sums.reshape(places, channels).sum(0)
    towards_weight[:] = products.reshape(places, channels).sum(0) * inverse
    # weight * inverse * (gradient - its mean - normalised maps * mean of their product), a line in gradient and maps
    slope = weight * inverse
    bend = -slope * inverse * towards_weight / count
    slopes, bends = _tiled(slope, places), _tiled(bend, places)
    shifts = _tiled(-slope * towards_bias / count - bend * means, places)
    for n in range(maps.shape[0]):
        for s in range(len(sums)):
            towards_maps[n, s] = gradient[n, s] * slopes[s] + maps[n, s] * bends[s] + shifts[s]


@compiled
def transform(maps: Array, matrix: Array, transformed: Array) -> None:
    """Writes matrix @ map @ matrix^T, for the map of every example and channel.

    Args:
        maps: (B, P, P, C).
        matrix: (Q, P); its zeros cost nothing.
        transformed: written: (Q, Q, B, C).
    """
    points, size = matrix.shape
    channels = maps.shape[3]
    half = np.empty((points, size, channels), maps.dtype)
    for n in range(maps.shape[0]):
        half[:] = 0
        for q in range(points):
            for i in range(size):
                factor = matrix[q, i]
                if factor != 0:
                    for j in range(size):
                        for k in range(channels):
                            half[q, j, k] += factor * maps[n, i, j, k]
        for q in range(points):
            for r in range(points):
                for k in range(channels):
                    transformed[q, r, n, k] = 0
                for j in range(size):
                    factor = matrix[r, j]
                    if factor != 0:
                        for k in range(channels):
                            transformed[q, r, n, k] += factor * half[q, j, k]


@compiled
def transform_back(transformed: Array, matrix: Array, maps: Array) -> None:
    """Writes matrix^T @ transformed @ matrix, for every example and channel; shapes are those of `transform`."""
    points, size = matrix.shape
    channels = maps.shape[3]
    half = np.empty((size, points, channels), maps.dtype)
    for n in range(maps.shape[0]):
        half[:] = 0
        for q in range(points):
            for i in range(size):
                factor = matrix[q, i]
                if factor != 0:
                    for r in range(points):
                        for k in range(channels):
                            half[i, r, k] += factor * transformed[q, r, n, k]
        for i in range(size):
            for j in range(size):
                for k in range(channels):
                    maps[n, i, j, k] = 0
                for r in range(points):
                    factor = matrix[r, j]
                    if factor != 0:
                        for k in range(channels):
                            maps[n, i, j, k] += factor * half[i, r, k]


@compiled
def _tiled(channels: Array, places: int) -> Array:
    """Returns a row (places * C,) of one number a channel (C,)."""
    row = np.empty((places, len(channels)), channels.dtype)
    for s in range(places):
        row[s] = channels
    return row.reshape(-1)
