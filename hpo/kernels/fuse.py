"""Layers as loops of our own, on a CPU, where PyTorch's wait for memory or do more than they need.

    fused = fuse(network)

The fused network computes what the network would, its running statistics and gradients included, on its very parameters
and buffers. Networks need to know nothing of this: layers are recognised. Together with `cross_entropy` they save a
third of the time of `cnn` (docs/performance.md).
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from hpo.kernels import maps as kernels
from hpo.kernels import winograd
from hpo.tasks.digit_pairs import mlp_kernels as dense


def fuse(network: nn.Module) -> nn.Module:
    """Returns a network of the same parameters and buffers, not copies, that computes the same on a CPU, faster.

    Three things are recognised: in an `nn.Sequential`, a first convolution (one channel in, no padding), its batch norm
    if it has one, and the 2x2 max-pool behind; every other batch norm over maps; and 3x3 convolutions without padding.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    fused = copy.deepcopy(network, shared)
    _fuse_children(fused)
    return fused


def _fuse_children(module: nn.Module) -> None:
    if isinstance(module, nn.Sequential):
        for first in range(len(module)):
            run = module[first : first + 3]
            if len(run) < 3 or not _is_norm(run[1]):
                run = run[:2]
            if len(run) > 1 and _is_first_convolution(run[0]) and _is_pool(run[-1]):
                module[first] = ConvolutionAndPool(run)
                for passed in range(first + 1, first + len(run)):
                    module[passed] = nn.Identity()  # the others keep their numbers
    for name, child in list(module.named_children()):
        if _is_norm(child):
            module.set_submodule(name, Norm(child))
        elif _is_plain_convolution(child) and child.kernel_size == (3, 3):
            module.set_submodule(name, Convolution(child))
        elif not isinstance(child, ConvolutionAndPool):
            _fuse_children(child)


class ConvolutionAndPool(nn.Module):
    """A convolution of one channel, perhaps its batch norm, and a 2x2 max-pool: (B, 1, H, W) -> (B, C, h, w).

    Batch norm is a scale and a shift of each channel, so it goes into the convolution's weight and bias. Its mean and
    variance are had without the maps: a convolution is linear in the patches of its images, so the mean of its result
    is the weight times the patches' mean, and the variance the weight's quadratic form in their covariance.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        if images.requires_grad:  # not the images after all, but what other layers made of them
            return self.layers(images)  # type: ignore[no-any-return]
        convolution, norm = self.layers[0], self.layers[1]
        assert isinstance(convolution, nn.Conv2d)
        weight: Tensor = convolution.weight
        bias = _bias(convolution)
        if isinstance(norm, nn.BatchNorm2d):
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            if self.training:
                mean, variance, count = _moments_of_convolution(images, weight)
                mean = mean + bias
                _keep_statistics(norm, mean.detach(), variance.detach(), count)
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = norm.bias + (bias - mean) * scale
        pooled: Tensor = _ConvolveAndPool.apply(images, weight, bias)
        return pooled


class Norm(nn.Module):
    """Batch norm over maps (B, C, H, W) that lie in memory with the channels last."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        norm = self.norm
        if not self.training:
            return norm(maps)  # type: ignore[no-any-return]
        normalised: Tensor
        normalised, mean, variance = _Normalise.apply(maps, norm.weight, norm.bias, norm.eps)
        _keep_statistics(norm, mean, variance, maps.numel() // len(mean))
        return normalised


class Convolution(nn.Module):
    """A 3x3 convolution of maps that may be 6x6: (B, C, 6, 6) -> (B, D, 4, 4)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        if maps.shape[2:] != (winograd.SIZE, winograd.SIZE):
            return self.convolution(maps)  # type: ignore[no-any-return]
        return winograd.convolve(maps, self.convolution.weight, _bias(self.convolution))


class _ConvolveAndPool(torch.autograd.Function):
    """(B, 1, H, W), (C, 1, K, K), (C,) -> (B, C, h, w). Nothing may ask for the gradient of the images."""

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        count, _, height, width = images.shape
        channels, size = len(weight), weight.shape[-1]
        shape = (count, (height - size + 1) // 2, (width - size + 1) // 2, channels)
        maxima, places = images.new_empty(shape), torch.empty(shape, dtype=torch.uint8)
        flat = images.reshape(count, height, width)
        kernels.convolve_and_pool(
            _array(flat), _array(weight.view(channels, size, size).permute(1, 2, 0).contiguous()), _array(bias),
            _array(maxima), _array(places),
        )  # fmt: skip
        context.save_for_backward(flat, places)
        context.size = size
        return maxima.permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        images, places = context.saved_tensors
        size, channels = context.size, gradient.shape[1]
        weight, bias = gradient.new_zeros(size, size, channels), gradient.new_zeros(channels)
        kernels.convolve_and_pool_gradient(
            _array(images), _array(places), _array(gradient.permute(0, 2, 3, 1).contiguous()),
            _array(weight), _array(bias),
        )  # fmt: skip
        return None, weight.permute(2, 0, 1).unsqueeze(1), bias


class _Normalise(torch.autograd.Function):
    """(B, C, H, W), (C,), (C,) -> the maps normalised, and each channel's mean and biased variance, (C,)."""

    @staticmethod
    def forward(
        context: Any, maps: Tensor, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        last = maps.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C)
        normalised, mean, variance = torch.empty_like(last), torch.empty_like(weight), torch.empty_like(weight)
        kernels.normalise(
            _rows(last), _array(weight), _array(bias), epsilon, _rows(normalised), _array(mean), _array(variance)
        )
        context.save_for_backward(last, weight, mean, variance)
        context.epsilon = epsilon
        context.mark_non_differentiable(mean, variance)
        return normalised.permute(0, 3, 1, 2), mean, variance

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, variance = context.saved_tensors
        towards_maps, towards_weight, towards_bias = (torch.empty_like(t) for t in (maps, weight, weight))
        kernels.normalise_gradient(
            _rows(maps), _array(weight), context.epsilon, _array(mean), _array(variance),
            _rows(gradient.permute(0, 2, 3, 1).contiguous()),
            _rows(towards_maps), _array(towards_weight), _array(towards_bias),
        )  # fmt: skip
        return towards_maps.permute(0, 3, 1, 2), towards_weight, towards_bias, None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns each example's cross-entropy (N,), of logits (N, K) and labels (N,), on a CPU.

    PyTorch's takes four times as long for ten classes: its log-softmax wants rows as wide as a vector.
    """
    losses: Tensor = _CrossEntropy.apply(logits, labels)
    return losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.contiguous()
        losses, gradient = logits.new_empty(len(labels)), torch.empty_like(logits)
        dense.cross_entropy(_array(logits), _array(labels.contiguous()), _array(losses), _array(gradient))
        context.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (towards_logits,) = context.saved_tensors
        return towards_logits * gradient.unsqueeze(1), None


def _moments_of_convolution(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, int]:
    """Returns mean and biased variance of each channel, (C,), over all places, and how many there are."""
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
    """Returns for every place in a patch which pixel lies there, in each of the P patches: (size * size, P)."""
    pixels = torch.arange(height * width).view(height, width)
    return pixels.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size).t().contiguous()


def _bias(convolution: nn.Conv2d) -> Tensor:
    return convolution.weight.new_zeros(convolution.out_channels) if convolution.bias is None else convolution.bias


def _keep_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Moves the running statistics of a batch norm towards a batch's, as PyTorch does: by the unbiased variance."""
    assert norm.momentum is not None  # _is_norm has looked
    with torch.no_grad():
        norm.get_buffer("num_batches_tracked").add_(1)
        norm.get_buffer("running_mean").lerp_(mean, norm.momentum)
        norm.get_buffer("running_var").lerp_(variance * (count / (count - 1)), norm.momentum)


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    return isinstance(layer, nn.Conv2d) and all(getattr(layer, name) == value for name, value in plain.items())


def _is_first_convolution(layer: nn.Module) -> bool:
    return _is_plain_convolution(layer) and layer.in_channels == 1 and layer.kernel_size[0] == layer.kernel_size[1]


def _is_norm(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(layer, nn.BatchNorm2d) and layer.affine and layer.track_running_stats and bool(layer.momentum)


def _is_pool(layer: nn.Module) -> bool:
    plain = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "return_indices": False, "ceil_mode": False}
    return isinstance(layer, nn.MaxPool2d) and all(getattr(layer, name) == value for name, value in plain.items())


def _array(tensor: Tensor) -> kernels.Array:
    return tensor.detach().numpy()


def _rows(maps: Tensor) -> kernels.Array:
    """Returns maps (B, H, W, C) as rows (B, H * W * C)."""
    return maps.detach().view(len(maps), -1).numpy()
