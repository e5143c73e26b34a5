from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpo.kernels.gpu.activation import NONE, Activation
from hpo.kernels.gpu.convolution import convolution
from hpo.kernels.gpu.linear import linear
from tests.kernels.gpu.comparison import ACTIVATIONS, ROUNDING, assert_computes, convolved, leaf


@pytest.mark.parametrize(
    ("rounds", "images", "channels", "filters", "size", "kernel", "padding"),
    [
        pytest.param(2, 3, 1, 17, (9, 9), (3, 3), (0, 0), id="one channel"),
        pytest.param(2, 2, 5, 3, (7, 6), (3, 3), (1, 1), id="padding"),
        pytest.param(1, 3, 2, 3, (5, 7), (2, 3), (2, 0), id="not square, one round"),
        pytest.param(1, 1, 3, 4, (6, 6), (1, 1), (0, 0), id="1x1, one image"),
        pytest.param(3, 2, 2, 2, (4, 4), (2, 2), (3, 3), id="more padding than kernel"),
        pytest.param(1, 2, 2, 20, (4, 3), (4, 3), (0, 0), id="a kernel as large as the map"),
        pytest.param(1, 40, 1, 1, (4, 4), (3, 3), (1, 1), id="several tiles of positions"),
        pytest.param(1, 2, 9, 70, (3, 3), (3, 3), (1, 1), id="several tiles of channels"),
    ],
)
def test_a_convolution_is_pytorchs(
    rounds: int,
    images: int,
    channels: int,
    filters: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
) -> None:
    assert_computes(
        lambda x, w, b: convolution(x, w, b, padding, "tf32x3"),
        lambda x, w, b: convolved(x, w, b, padding),
        [leaf(rounds, channels, images, *size), leaf(rounds, filters, channels, *kernel), leaf(rounds, filters)],
    )


def test_a_convolution_without_bias_is_pytorchs() -> None:
    assert_computes(
        lambda x, w: convolution(x, w, None, (1, 0), "ieee"),
        lambda x, w: convolved(x, w, None, (1, 0)),
        [leaf(2, 3, 2, 5, 5), leaf(2, 4, 3, 3, 3)],
    )


@pytest.mark.parametrize("precision", ROUNDING)
def test_products_are_as_exact_as_their_precision(precision: str) -> None:
    rounding = ROUNDING[precision]
    assert_computes(
        lambda x, w, b: convolution(x, w, b, (1, 0), precision),
        lambda x, w, b: convolved(x, w, b, (1, 0)),
        [leaf(2, 3, 4, 5, 5), leaf(2, 6, 3, 3, 3), leaf(2, 6)],
        rounding,
    )
    assert_computes(
        lambda x, w, b: linear(x, w, b, NONE, precision),
        functional.linear,
        [leaf(2, 9, 70), leaf(2, 35, 70), leaf(2, 35)],
        rounding,
    )


def test_bfloat16_rounds_what_is_multiplied() -> None:
    inputs, weight = torch.full((1, 1, 1), 1 + 2**-12), torch.full((1, 1, 1), 3.0)
    assert linear(inputs, weight, None, NONE, "bf16").item() == 3.0


@pytest.mark.parametrize(("activation", "layer"), ACTIVATIONS)
@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_layer_with_its_activation_is_pytorchs(activation: Activation, layer: nn.Module, biased: bool) -> None:
    for rounds, examples, width, results in ((2, 33, 20, 3), (1, 1, 3, 2)):
        inputs = [leaf(rounds, examples, width), leaf(rounds, results, width), leaf(rounds, results)]
        if biased:
            assert_computes(
                lambda x, w, b: linear(x, w, b, activation, "ieee"),
                lambda x, w, b: layer(functional.linear(x, w, b)),
                inputs,
            )
        else:
            assert_computes(
                lambda x, w: linear(x, w, None, activation, "tf32x3"),
                lambda x, w: layer(functional.linear(x, w)),
                inputs[:2],
            )


def test_a_linear_layer_takes_inputs_that_lie_anywhere_in_memory() -> None:
    assert_computes(
        lambda x, w: linear(x.transpose(1, 2), w, None, NONE, "ieee"),
        lambda x, w: functional.linear(x.t(), w),
        [leaf(2, 6, 5), leaf(2, 3, 6)],
    )


def test_the_same_twice_is_the_same_to_the_last_bit() -> None:
    inputs = leaf(2, 3, 7, 6, 6), leaf(2, 4, 3, 3, 3), leaf(2, 4)

    def outcome() -> list[torch.Tensor]:
        result = convolution(*inputs, (1, 1), "tf32x3")
        return [result, *torch.autograd.grad(result.sin().sum(), inputs)]

    assert all(torch.equal(*both) for both in zip(outcome(), outcome(), strict=True))


def test_rounds_do_not_depend_on_what_is_computed_beside_them() -> None:
    maps, weight, bias = leaf(3, 2, 5, 6, 6), leaf(3, 4, 2, 3, 3), leaf(3, 4)
    together = convolution(maps, weight, bias, (0, 0), "tf32x3")
    alone = convolution(maps[1:2], weight[1:2], bias[1:2], (0, 0), "tf32x3")
    assert torch.equal(together[1:2], alone)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    weight = leaf(1, 2, 3)
    result = linear(leaf(1, 4, 3), weight, None, NONE, "ieee").square().sum()
    (gradient,) = torch.autograd.grad(result, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]
