from __future__ import annotations

import inspect
from itertools import pairwise

import pytest
import torch
from torch import nn

from hpo.tasks.digit_pairs.architectures import architectures, load_activations, load_architecture
from hpo.training.network_summary import count_parameters, list_layers

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "selu": nn.SELU, "silu": nn.SiLU}


def build(architecture: str, activation: str = "relu", *, weight_sharing: bool = True) -> nn.Module:
    make_activation = load_activations()
    network: nn.Module = load_architecture(architecture)(
        make_activation(activation, 0.7), weight_sharing=weight_sharing
    )
    return network


@pytest.mark.parametrize(
    ("architecture", "apart", "shared"),
    [("fully_connected", 21_182, 10_822), ("simple_cnn", 9_702, 5_082), ("residual", 44_386, 22_424)],
)
def test_parameter_counts_are_those_of_report_b_table_1(architecture: str, apart: int, shared: int) -> None:
    assert count_parameters(build(architecture, weight_sharing=False)) == apart
    assert count_parameters(build(architecture, weight_sharing=True)) == shared


@pytest.mark.parametrize("weight_sharing", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("architecture", architectures())
def test_every_architecture_maps_pairs_to_logits(architecture: str, activation: str, weight_sharing: bool) -> None:
    network = build(architecture, activation, weight_sharing=weight_sharing)
    comparison, digits = network(torch.randn(5, 2, 14, 14))
    assert comparison.shape == (5, 2)
    assert digits.shape == (5, 2, 10)
    kinds = {type(module) for module in network.modules()} & set(ACTIVATIONS.values())
    assert kinds == {ACTIVATIONS[activation]}


@pytest.mark.parametrize("architecture", architectures())
def test_a_shared_tower_sees_no_difference_between_first_and_second(architecture: str) -> None:
    pairs = torch.randn(5, 2, 14, 14)
    network = build(architecture).eval()
    _, digits = network(pairs)
    _, swapped = network(pairs.flip(1))
    torch.testing.assert_close(digits, swapped.flip(1))


def test_elu_takes_its_alpha() -> None:
    alphas = [module.alpha for module in build("cnn", "elu").modules() if isinstance(module, nn.ELU)]
    assert alphas
    assert set(alphas) == {0.7}


def test_batch_norm_stands_after_each_convolution_of_cnn_bn_and_nowhere_in_cnn() -> None:
    kinds = [type(module) for module in build("cnn_bn").modules()]
    followers = [after for before, after in pairwise(kinds) if before is nn.Conv2d]
    assert followers == [nn.BatchNorm2d, nn.BatchNorm2d]
    assert nn.BatchNorm2d not in [type(module) for module in build("cnn").modules()]


def test_layers_are_listed_in_order_with_shapes_and_add_up() -> None:
    network = build("simple_cnn")
    layers = list_layers(network)
    assert [layer.shape for layer in layers if layer.kind.startswith(("MaxPool", "Flatten"))] == [
        (2, 10, 6, 6),
        (2, 360),
    ]
    assert layers[-1].shape == (1, 2)
    assert sum(layer.parameters for layer in layers) == count_parameters(network) == 5_082


@pytest.mark.parametrize("name", architectures())
def test_an_architecture_is_listed_by_the_whole_first_paragraph_of_its_docstring(name: str) -> None:
    summary = architectures()[name].summary
    paragraph = " ".join((inspect.getdoc(load_architecture(name)) or "").partition("\n\n")[0].split())
    assert paragraph == f"{summary}."
    assert summary.count("(") == summary.count(")")
