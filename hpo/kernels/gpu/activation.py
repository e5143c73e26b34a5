"""Activations inside other kernels, and of a sum of maps: the end of a residual block.

A gradient needs the activation's result alone: all of these are increasing, so the result tells which branch was taken.
What is not a number goes through as in PyTorch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.language import constexpr, tensor

from hpo.kernels.gpu.language import apply, blocks, indices, kernel

BLOCK = 1024  # numbers a program takes


class Activation(NamedTuple):
    """An activation function.

    Attributes:
        kind: `none`, `relu`, `leaky_relu`, `elu` or `selu`; a constant of the kernels.
        alpha: the slope of leaky_relu below 0, or ELU's factor, above 0: a number () on the device, where kernels read
            it, so that another value has nothing compiled, nor recorded, again. None for the others.
    """

    kind: str = "none"
    alpha: Tensor | None = None

    def alpha_or(self, other: Tensor) -> Tensor:
        """Returns what to launch a kernel with as `alpha`: another tensor, which is not read, where there is none."""
        return other if self.alpha is None else self.alpha


NONE = Activation()


@kernel
def read_alpha(alpha: tensor, activation: constexpr) -> Any:
    """Returns an activation's alpha; 0 for those that have none."""
    value = 0.0
    if activation == "leaky_relu" or activation == "elu":
        value = tl.load(alpha)
    return value


@kernel
def activate(z: tensor, alpha: tensor, activation: constexpr) -> Any:
    """Returns the activation of z."""
    # Written so that NaN takes the branch that keeps it, and ReLU of minus infinity is 0.
    if activation == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif activation == "leaky_relu":
        z = tl.where(z > 0, z, alpha * z)
    elif activation == "elu":
        z = tl.where(z <= 0, alpha * (tl.exp(tl.minimum(z, 0.0)) - 1), z)
    elif activation == "selu":
        z = 1.0507009873554805 * tl.where(z <= 0, 1.6732632423543772 * (tl.exp(tl.minimum(z, 0.0)) - 1), z)
    return z


@kernel
def activation_gradient(gradient: tensor, activated: tensor, alpha: tensor, activation: constexpr) -> Any:
    """Returns the gradient by what was activated, given that by the result and the result."""
    if activation == "relu":
        gradient = tl.where(activated <= 0, 0.0, gradient)
    elif activation == "leaky_relu":
        gradient = tl.where(activated > 0, gradient, alpha * gradient)
    elif activation == "elu":
        gradient = tl.where(activated <= 0, (activated + alpha) * gradient, gradient)
    elif activation == "selu":  # 1.758... is the product of both constants
        gradient = tl.where(activated <= 0, activated + 1.7580993408473766, 1.0507009873554805) * gradient
    return gradient


def activated_sum(left: Tensor, right: Tensor, activation: Activation) -> Tensor:
    """Returns the activation of left + right, which have one shape and lie in memory alike."""
    return apply(_ActivatedSum, left, right, activation)


class _ActivatedSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, left: Tensor, right: Tensor, activation: Activation) -> Tensor:
        left, right = left.contiguous(), right.contiguous()
        result = torch.empty_like(left)
        size = left.numel()
        alpha = activation.alpha_or(result)
        _activate_sum[(blocks(size, BLOCK),)](left, right, result, alpha, size, activation.kind, BLOCK)
        context.save_for_backward(result)
        context.activation = activation
        return result

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (result,) = context.saved_tensors
        kind, alpha = context.activation.kind, context.activation.alpha_or(result)
        before = torch.empty_like(result)
        size = result.numel()
        _undo_activation[(blocks(size, BLOCK),)](gradient.contiguous(), result, before, alpha, size, kind, BLOCK)
        return before, before, None


@kernel
def _activate_sum(
    left: tensor,
    right: tensor,
    result: tensor,
    alpha: tensor,
    size: constexpr,
    activation: constexpr,
    block: constexpr,
) -> None:
    alpha = read_alpha(alpha, activation)
    at = indices(block, size)
    inside = at < size
    z = tl.load(left + at, mask=inside, other=0.0) + tl.load(right + at, mask=inside, other=0.0)
    tl.store(result + at, activate(z, alpha, activation), mask=inside)


@kernel
def _undo_activation(
    gradient: tensor,
    result: tensor,
    before: tensor,
    alpha: tensor,
    size: constexpr,
    activation: constexpr,
    block: constexpr,
) -> None:
    alpha = read_alpha(alpha, activation)
    at = indices(block, size)
    inside = at < size
    g, y = tl.load(gradient + at, mask=inside, other=0.0), tl.load(result + at, mask=inside, other=0.0)
    tl.store(before + at, activation_gradient(g, y, alpha, activation), mask=inside)
