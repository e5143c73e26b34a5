"""Rounds of networks that are linear layers and activations, stacked without vmap."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .recipe import Recipe, in_precision, make_optimizer
from .rounds import StackedRounds


class LinearRounds(StackedRounds):
    """Stacked rounds of networks whose parameters are all in linear layers, without vmap.

    What else such a network does, it does to each example by itself, so it can be given the examples of all rounds as
    one batch, round after round. Only a linear layer must know where a round ends: it multiplies each round's part by
    that round's weights, in one batched product. This spares vmap's bookkeeping and the transposed gradients that
    autograd makes of `F.linear` under it: an epoch of `fnn` takes 0.83 of the time (10 rounds, one core; EPYC).
    """

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        self.rounds, self.structure = len(networks), copy.deepcopy(networks[0])
        for name, module in networks[0].named_modules():
            if isinstance(module, nn.Linear):
                self.structure.set_submodule(
                    name, _StackedLinear([network.get_submodule(name) for network in networks])
                )
        self.parameters, self.buffers = dict(self.structure.named_parameters()), {}
        self.recipe = recipe
        self.optimizers = [make_optimizer(recipe, self.parameters.values())]

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        self.structure.eval()
        # In batches that stay in the cache.
        comparisons, digits = zip(
            *(self._forward(batch) for batch in torch.split(images, self.recipe.batch_size, dim=1)), strict=True
        )
        return torch.cat(comparisons, dim=1), torch.cat(digits, dim=1)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        together = images.flatten(0, 1)  # (R, B, 2, 14, 14) -> (R * B, 2, 14, 14)
        parts = in_precision(self.recipe.precision, lambda: self.structure(together), images.device)
        comparison, digits = (part.view(self.rounds, -1, *part.shape[1:]) for part in parts)
        return comparison, digits


class _StackedLinear(nn.Module):
    """R linear layers: maps (R * B, K) to (R * B, N), each of R parts by its own weights."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.stack([layer.get_parameter(name).detach() for layer in layers]))  # (R, N, K), (R, N)
            for name in ("weight", "bias")
        )

    def forward(self, x: Tensor) -> Tensor:
        apart = x.reshape(len(self.weight), -1, x.shape[-1])  # (R * B, K) -> (R, B, K)
        product: Tensor = _BatchedProduct.apply(apart, self.weight, self.bias)
        return product.flatten(0, 1)


class _BatchedProduct(torch.autograd.Function):
    """x @ weight^T + bias for each of R: (R, B, K), (R, N, K), (R, N) -> (R, B, N)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return _product(x, weight.transpose(1, 2)).add_(bias.unsqueeze(1))

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = context.saved_tensors
        # Nothing asks for the gradient of the images.
        towards_x = _product(gradient, weight) if context.needs_input_grad[0] else None
        return towards_x, _product(gradient.transpose(1, 2), x), gradient.sum(1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies (R, M, K) by (R, K, N).

    By the BLAS of NumPy, OpenBLAS: it takes 0.85 of the time of PyTorch's MKL for these sizes (EPYC), an epoch of `fnn`
    0.95.
    """
    if torch.is_autocast_enabled("cpu"):
        return torch.bmm(a, b)
    product = a.new_empty(len(a), a.shape[1], b.shape[2])
    with np.errstate(all="ignore"):  # a round that has diverged goes on
        np.matmul(a.detach().numpy(), b.detach().numpy(), out=product.numpy())
    return product


def is_linear(network: nn.Module) -> bool:
    """Says whether all parameters are in linear layers with a bias, and nothing else is kept from batch to batch."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear) and module.bias is not None]
    return 2 * len(layers) == len(list(network.parameters())) and not list(network.buffers())
