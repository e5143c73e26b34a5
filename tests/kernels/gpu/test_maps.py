from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.kernels.gpu.activation import Activation, activated_sum
from hpo.kernels.gpu.norm import Settings, Statistics, norm
from hpo.kernels.gpu.pooling import average_pool, max_pool
from tests.kernels.gpu.comparison import ACTIVATIONS, DEVICE, as_double, assert_close, assert_computes, leaf, swapped

SHAPES = [(2, 3, 5, 7, 6), (1, 2, 1, 4, 5)]  # R, C, N, H, W


def statistics(rounds: int, channels: int) -> Statistics:
    mean, variance = leaf(rounds, channels, seed=3).detach(), leaf(rounds, channels, seed=4).detach().exp()
    return Statistics(mean, variance, torch.arange(rounds).to(DEVICE))


@pytest.mark.parametrize(("activation", "layer"), ACTIVATIONS)
@pytest.mark.parametrize("follows", ["nothing", "pool", "sum"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_what_follows_are_pytorchs(
    activation: Activation, layer: nn.Module, follows: str, training: bool
) -> None:
    for shape in SHAPES:
        kept = statistics(*shape[:2])
        exact = [as_double([one])[0] for one in kept[:2]]
        settings = Settings(training, follows == "pool", activation, 1e-5, 0.3)
        rounds = iter(range(shape[0]))

        def normed(
            maps: Tensor,
            weight: Tensor,
            bias: Tensor,
            added: Tensor | None = None,
            exact: list[Tensor] = exact,
            rounds: object = rounds,
        ) -> Tensor:
            r = next(rounds)  # type: ignore[call-overload]
            z = functional.batch_norm(swapped(maps), exact[0][r], exact[1][r], weight, bias, training, 0.3, 1e-5)
            z = swapped(functional.max_pool2d(z, 2) if follows == "pool" else z)
            result: Tensor = layer(z if added is None else z + added)
            return result

        inputs = [leaf(*shape), leaf(*shape[:2], seed=1), leaf(*shape[:2], seed=2), leaf(*shape, seed=5)]
        assert_computes(
            lambda maps, weight, bias, added=None, kept=kept, settings=settings: norm(
                maps, weight, bias, kept, settings, added
            ),
            normed,
            inputs if follows == "sum" else inputs[:3],
            1e-5,
        )
        for found, wanted in zip(kept[:2], exact, strict=True):
            assert_close(found, wanted, 1e-6)
        assert kept.tracked.tolist() == [r + training for r in range(shape[0])]


def test_of_equal_maxima_the_first_takes_the_gradient_as_in_pytorch() -> None:
    maps = leaf(1, 2, 3, 7, 6).detach().round().requires_grad_()  # many equal windows
    for size, stride in ((2, 2), (3, 2)):
        (wanted,) = torch.autograd.grad(functional.max_pool2d(maps[0], size, stride).sin().sum(), maps)
        (found,) = torch.autograd.grad(max_pool(maps, size, stride, ACTIVATIONS[0][0]).sin().sum(), maps)
        torch.testing.assert_close(found, wanted)
    zero, kept = torch.zeros(1, 2, device=DEVICE), statistics(1, 2)
    settings = Settings(False, True, ACTIVATIONS[0][0], 0.0, 0.1)
    bias = torch.ones_like(zero)
    pooled = norm(maps, zero.requires_grad_(), bias, kept, settings)  # all numbers are equal
    (found,) = torch.autograd.grad(pooled.sum(), zero)
    wanted = ((maps[0] - kept.mean[0][:, None, None, None]) / kept.variance[0][:, None, None, None].sqrt())[
        :, :, :6:2, ::2
    ].sum((1, 2, 3))
    torch.testing.assert_close(found[0], wanted)


@pytest.mark.parametrize(("activation", "layer"), ACTIVATIONS)
def test_pools_and_sums_with_an_activation_are_pytorchs(activation: Activation, layer: nn.Module) -> None:
    for size, stride in ((2, 2), (3, 2), (3, 3), (2, 3), (3, 1)):
        assert_computes(
            lambda maps, size=size, stride=stride: max_pool(maps, size, stride, activation),
            lambda maps, size=size, stride=stride: layer(functional.max_pool2d(maps, size, stride)),
            [leaf(2, 3, 2, 7, 8)],
        )
    for size in (1, 3, 7):
        assert_computes(
            lambda maps, size=size: average_pool(maps, size, activation),
            lambda maps, size=size: layer(functional.avg_pool2d(maps, size)),
            [leaf(2, 3, 2, 7, 8)],
        )
    assert_computes(
        lambda left, right: activated_sum(left, right, activation),
        lambda left, right: layer(left + right),
        [leaf(3, 500), leaf(3, 500, seed=1)],
    )


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_largest_of_a_window_with_nan_is_nan(size: int) -> None:
    maps = leaf(1, 1, 2, 6, 6).detach()
    maps[0, 0, 0, 1, 1] = maps[0, 0, 0, 1, 0] = maps[0, 0, 1, 4, 3] = torch.nan
    maps[0, 0, 1, 0] = torch.inf
    for activation, layer in ACTIVATIONS[
        :3
    ]:  # of ELU and NaN PyTorch makes one gradient in tensors of 64, another in small ones
        assert_computes(
            lambda maps, activation=activation: max_pool(maps, size, 2, activation),
            lambda maps, layer=layer: layer(functional.max_pool2d(maps, size, 2)),
            [maps.clone().requires_grad_()],
        )
