"""A first convolution, its batch norm and max-pooling as one loop.

A map has its channels last, (B, H, W, C). A first convolution of one channel makes 32 maps of it, of which pooling
keeps a quarter; as two operations they write all of them, read them, and do the same again backwards, out of the cache:
two fifths of a step of `cnn` for a tenth of its multiply-adds. As one loop nothing but the maximum is ever written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpo.kernels.batch_norm import keep_statistics
from hpo.kernels.jit import Array, as_array, compiled
from hpo.kernels.stand_in import StandIn


class ConvolutionAndPool(StandIn):
    """A convolution of one channel, perhaps its batch norm, and a 2x2 max-pool: (B, 1, H, W) -> (B, C, h, w).

    Batch norm is a scale and a shift of each channel, so it goes into the convolution's weight and bias. Its mean and
    variance are had without the maps: a convolution is linear in the patches of its images, so the mean of its result
    is the weight times the patches' mean, and the variance the weight's quadratic form in their covariance.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(layers[0])
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        if images.requires_grad:  # not the images after all, but what other layers made of them
            return self.layers(images)  # type: ignore[no-any-return]
        convolution, norm = self.layers[0], self.layers[1]
        assert isinstance(convolution, nn.Conv2d)
        weight: Tensor = convolution.weight
        bias = bias_of(convolution)
        if isinstance(norm, nn.BatchNorm2d):
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            if self.training:
                mean, variance, count = _moments_of_convolution(images, weight)
                mean = mean + bias
                keep_statistics(norm, mean.detach(), variance.detach(), count)
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = norm.bias + (bias - mean) * scale
        pooled: Tensor = _ConvolveAndPool.apply(images, weight, bias)
        return pooled


class _ConvolveAndPool(torch.autograd.Function):
    """(B, 1, H, W), (C, 1, K, K), (C,) -> (B, C, h, w). Nothing may ask for the gradient of the images."""

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        count, _, height, width = images.shape
        channels, size = len(weight), weight.shape[-1]
        shape = (count, (height - size + 1) // 2, (width - size + 1) // 2, channels)
        maxima, indices = images.new_empty(shape), torch.empty(shape, dtype=torch.uint8)
        flat = images.reshape(count, height, width)
        convolve_and_pool(
            as_array(flat), as_array(weight.view(channels, size, size).permute(1, 2, 0).contiguous()), as_array(bias),
            as_array(maxima), as_array(indices),
        )  # fmt: skip
        context.save_for_backward(flat, indices)
        context.size = size
        return maxima.permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        images, indices = context.saved_tensors
        size, channels = context.size, gradient.shape[1]
        weight, bias = gradient.new_zeros(size, size, channels), gradient.new_zeros(channels)
        convolve_and_pool_gradient(
            as_array(images), as_array(indices), as_array(gradient.permute(0, 2, 3, 1).contiguous()),
            as_array(weight), as_array(bias),
        )  # fmt: skip
        return None, weight.permute(2, 0, 1).unsqueeze(1), bias


def _moments_of_convolution(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, int]:
    """Returns mean and biased variance of each channel, (C,), over all indices, and how many there are."""
    count, _, height, width = images.shape
    patches = _patches(height, width, weight.shape[-1])  # (K * K, P)
    flat, filters = images.reshape(count, -1), weight.flatten(1)  # (B, H * W), (C, K * K)
    total = count * patches.shape[1]
    mean = flat.sum(0)[patches].sum(1) / total  # (K * K,)
    # Of every two pixels of an image the sum of products over the batch; of those, the ones that lie so in some patch.
    pixels = (flat.t() @ flat).flatten()
    products = pixels[patches.unsqueeze(1) * height * width + patches].sum(2) / total  # (K * K, K * K)
    covariance = products - torch.outer(mean, mean)
    return filters @ mean, (filters @ covariance * filters).sum(1).clamp_min(0), total


@lru_cache
def _patches(height: int, width: int, size: int) -> Tensor:
    """Returns for every index in a patch which pixel lies there, in each of the P patches: (size * size, P)."""
    pixels = torch.arange(height * width).view(height, width)
    return pixels.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size).t().contiguous()


def bias_of(convolution: nn.Conv2d) -> Tensor:
    """Returns a convolution's bias; zeros where it has none."""
    return convolution.weight.new_zeros(convolution.out_channels) if convolution.bias is None else convolution.bias


@compiled
def convolve_and_pool(images: Array, weight: Array, bias: Array, maxima: Array, indices: Array) -> None:
    """Convolves images of one channel, without padding, and keeps the maximum of every 2x2 window.

    Args:
        images: (B, H, W).
        weight: (K, K, C).
        bias: (C,).
        maxima: written: (B, h, w, C), where h = (H - K + 1) // 2.
        indices: written: (B, h, w, C), which of the window's four it was, row by row; the first of equals.
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
                    maximum, index = a[k], 0
                    if b[k] > maximum or b[k] != b[k]:
                        maximum, index = b[k], 1
                    if c[k] > maximum or c[k] != c[k]:
                        maximum, index = c[k], 2
                    if d[k] > maximum or d[k] != d[k]:
                        maximum, index = d[k], 3
                    maxima[n, i, j, k] = maximum
                    indices[n, i, j, k] = index


@compiled
def convolve_and_pool_gradient(images: Array, indices: Array, gradient: Array, weight: Array, bias: Array) -> None:
    """Adds to `weight` (K, K, C) and `bias` (C,) their gradients, given that of the maxima (B, h, w, C)."""
    size, channels = weight.shape[0], weight.shape[2]
    a, b, c, d = (np.empty_like(bias), np.empty_like(bias), np.empty_like(bias), np.empty_like(bias))
    zero = bias.dtype.type(0)
    for n in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            for j in range(gradient.shape[2]):
                for k in range(channels):
                    index, part = indices[n, i, j, k], gradient[n, i, j, k]
                    a[k] = part if index == 0 else zero
                    b[k] = part if index == 1 else zero
                    c[k] = part if index == 2 else zero
                    d[k] = part if index == 3 else zero
                    bias[k] += part
                for u in range(size):
                    for v in range(size):
                        y, x = 2 * i + u, 2 * j + v
                        pa, pb = images[n, y, x], images[n, y, x + 1]
                        pc, pd = images[n, y + 1, x], images[n, y + 1, x + 1]
                        for k in range(channels):
                            weight[u, v, k] += pa * a[k] + pb * b[k] + pc * c[k] + pd * d[k]
