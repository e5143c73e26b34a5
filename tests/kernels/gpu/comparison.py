"""What the tests of kernels share: leaves to differentiate, and comparisons with PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.kernels.gpu.activation import NONE, Activation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {"tf32x3": 3e-6, "ieee": 3e-6, "tf32": 5e-3, "bf16": 3e-2}
"""What a product in a precision may be off, relative to its largest number."""
ACTIVATIONS: list[tuple[Activation, nn.Module]] = [
    (NONE, nn.Identity()),
    (Activation("relu"), nn.ReLU()),
    (Activation("leaky_relu", torch.tensor(0.1, device=DEVICE)), nn.LeakyReLU(0.1)),
    (Activation("elu", torch.tensor(0.7, device=DEVICE)), nn.ELU(0.7)),
    (Activation("selu"), nn.SELU()),
]
Network = Callable[..., Tensor]


def leaf(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_()


def as_double(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]


def assert_close(found: Tensor, expected: Tensor, rounding: float) -> None:
    """Compares with what is exact; where either is not finite, both must be so, in the same way."""
    assert found.shape == expected.shape
    largest = max(expected.nan_to_num(0, 0, 0).abs().max().item(), 1e-6)
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=rounding * largest, equal_nan=True)


def assert_computes(
    ours: Network, exact: Network, inputs: Sequence[Tensor], rounding: float = 3e-6, of_rounds: bool = True
) -> None:
    """Compares value and gradients of a function of R rounds with one in float64 of one round, or of all."""
    doubles = as_double(inputs)
    found = ours(*inputs)
    expected = torch.stack([exact(*one) for one in zip(*doubles, strict=True)]) if of_rounds else exact(*doubles)
    upstream = leaf(*found.shape, seed=9).detach()
    assert_close(found, expected, rounding)
    differentiated = [one for one in inputs if one.requires_grad]
    gradients = torch.autograd.grad(found, differentiated, upstream)
    wanted = torch.autograd.grad(expected, [one for one in doubles if one.requires_grad], upstream.double())
    for one, other in zip(gradients, wanted, strict=True):
        assert_close(one, other, rounding)


def swapped(maps: Tensor) -> Tensor:
    """Returns maps (C, N, H, W) as (N, C, H, W), or the other way round."""
    return maps.transpose(0, 1)


def convolved(maps: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """Returns PyTorch's convolution of maps that lie as ours do, (C, N, H, W)."""
    return swapped(functional.conv2d(swapped(maps), weight, bias, padding=padding))
