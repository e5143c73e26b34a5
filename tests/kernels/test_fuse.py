from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.kernels.batch_norm import Norm
from hpo.kernels.conv_pool import ConvolutionAndPool
from hpo.kernels.cross_entropy import cross_entropy
from hpo.kernels.fuse import fuse
from hpo.kernels.jit import Array, compiled
from hpo.kernels.winograd import Convolution, convolve
from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture


def disturbed(network: nn.Module, seed: int = 0) -> nn.Module:
    """Returns the network in float64, no parameter at its start: batch norm's scales of either sign, and one zero."""
    torch.manual_seed(seed)
    network = network.double().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            if norm.affine:
                norm.weight[::3].neg_()
                norm.weight[1] = 0
    return network


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outcome(network: nn.Module, shared: nn.Module, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Returns what a network gives in training, twice, and then; and the gradients of the network that shares them."""
    results: list[Tensor] = []
    gradients: list[Tensor] = []
    for part in inputs.chunk(2):
        made = flat(network.train()(part))
        objective = torch.stack([(one.sin() * one.detach().cos()).sum() for one in made]).sum()
        gradients += torch.autograd.grad(
            objective, list(shared.parameters()), allow_unused=True, materialize_grads=True
        )
        results += made
    with torch.no_grad():
        return [*results, *flat(network.eval()(inputs))], gradients


def flat(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def assert_fused_is_the_same(network: nn.Module, inputs: Tensor) -> nn.Module:
    """Compares a network with its fused one: results, gradients, running statistics; returns the latter."""
    network = disturbed(network)
    other = copy.deepcopy(network)
    fused = fuse(other)
    expected, found = outcome(network, network, inputs), outcome(fused, other, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dict(other.named_buffers()), dict(network.named_buffers()), rtol=1e-12, atol=1e-12)
    return fused


@pytest.mark.parametrize("weight_sharing", [True, False])
@pytest.mark.parametrize(
    ("architecture", "kinds"),
    [
        ("fnn", set()),
        ("cnn", {ConvolutionAndPool, Convolution}),
        ("cnn_bn", {ConvolutionAndPool, Convolution, Norm}),
        ("simple_cnn", set()),
        ("residual", {Convolution, Norm}),
    ],
)
def test_a_fused_architecture_computes_the_same(
    architecture: str, kinds: set[type[nn.Module]], weight_sharing: bool
) -> None:
    build = load_architecture(architecture)
    network = build(load_activations()("elu"), weight_sharing=weight_sharing)
    fused = assert_fused_is_the_same(network, images(14, 2, 14, 14))
    assert {type(m) for m in fused.modules()} & {ConvolutionAndPool, Convolution, Norm} == kinds


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([nn.Conv2d(1, 5, 2), nn.MaxPool2d(2)], id="other kernel, an odd map"),
        pytest.param([nn.Conv2d(1, 5, 5, bias=False), nn.MaxPool2d(2)], id="no bias"),
        pytest.param([nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.MaxPool2d(2)], id="a bias before a norm"),
        pytest.param([nn.Conv2d(1, 5, 3, padding=1), nn.MaxPool2d(2)], id="padding"),
        pytest.param([nn.Conv2d(1, 5, 3, stride=2), nn.MaxPool2d(2)], id="stride"),
        pytest.param([nn.Conv2d(1, 5, 3), nn.MaxPool2d(3)], id="another pool"),
        pytest.param([nn.Conv2d(1, 5, 3), nn.MaxPool2d(2, ceil_mode=True)], id="a pool that rounds up"),
        pytest.param([nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5, affine=False), nn.MaxPool2d(2)], id="a norm of no scale"),
        pytest.param([nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5, momentum=None), nn.MaxPool2d(2)], id="a cumulative norm"),
        pytest.param([nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)], id="no pool"),
        pytest.param([nn.Conv2d(1, 1, 3), nn.Conv2d(1, 5, 3), nn.MaxPool2d(2)], id="not of the images"),
        pytest.param([nn.Conv2d(1, 5, 5), nn.Conv2d(5, 3, 5), nn.Conv2d(3, 2, 3, bias=False)], id="6x6"),
        pytest.param([nn.Conv2d(1, 4, 9), nn.Conv2d(4, 4, 3, groups=2)], id="6x6 in groups"),
        pytest.param([nn.Conv2d(1, 4, 9), nn.Conv2d(4, 4, (3, 1))], id="6x6, not square"),
    ],
)
def test_what_is_not_quite_such_a_layer_computes_the_same_too(layers: list[nn.Module]) -> None:
    assert_fused_is_the_same(nn.Sequential(*layers), images(12, 1, 14, 14))


def test_a_fused_network_has_the_parameters_of_the_other_and_leaves_it_as_it_was() -> None:
    network = load_architecture("cnn_bn")(load_activations()("relu"), weight_sharing=True)
    before = str(network)
    fused = fuse(network)
    assert [id(p) for p in fused.parameters()] == [id(p) for p in network.parameters()]
    assert [id(b) for b in fused.buffers()] == [id(b) for b in network.buffers()]
    assert str(network) == before != str(fused)


def test_of_equal_maxima_the_first_takes_the_gradient_as_in_pytorch() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)).double()
    inputs = images(3, 1, 14, 14).round()  # many equal windows
    weight = next(network.parameters()).data
    weight.mul_(2).round_()
    wanted = torch.autograd.grad(network(inputs).sin().sum(), list(network.parameters()))
    found = torch.autograd.grad(fuse(network)(inputs).sin().sum(), list(network.parameters()))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("architecture", ["cnn", "cnn_bn", "residual"])
def test_what_is_not_finite_stays_so(architecture: str, bad: float) -> None:
    network = load_architecture(architecture)(load_activations()("relu"), weight_sharing=True)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.weight.data[0, 0, 0, 0] = bad
    inputs = images(4, 2, 14, 14).float()
    wanted, found = network(inputs), fuse(network)(inputs)
    for one, other in zip(wanted, found, strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())
        assert not other.isfinite().all()


def test_winograds_convolution_has_the_gradients_of_its_result() -> None:
    maps, weight, bias = images(2, 3, 6, 6), images(4, 3, 3, 3), images(4)
    inputs = tuple(tensor.requires_grad_() for tensor in (maps, weight, bias))
    assert torch.autograd.gradcheck(convolve, inputs)
    torch.testing.assert_close(convolve(maps, weight, bias), functional.conv2d(maps, weight, bias))


def test_winograds_convolution_rounds_little_in_float32() -> None:
    maps, weight, bias = images(200, 32, 6, 6), 0.1 * images(64, 32, 3, 3), images(64)
    exact = functional.conv2d(maps, weight, bias)
    found = convolve(maps.float(), weight.float(), bias.float())
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("make", [lambda logits: logits, lambda logits: 1e3 * logits, lambda logits: logits.t().t()])
def test_cross_entropy_is_pytorchs(make: Callable[[Tensor], Tensor]) -> None:
    logits, labels = make(images(30, 10)).requires_grad_(), torch.arange(30) % 10
    torch.testing.assert_close(
        cross_entropy(logits, labels), functional.cross_entropy(logits, labels, reduction="none")
    )
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels), (images(30, 10).requires_grad_(),))


def test_cross_entropy_of_what_is_not_finite_is_not_finite() -> None:
    logits = torch.zeros(3, 10)
    logits[0, 3], logits[1, 4] = torch.nan, torch.inf
    assert cross_entropy(logits, torch.tensor([0, 4, 0])).isfinite().tolist() == [False, False, True]


def test_where_no_folder_takes_what_was_compiled_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise RuntimeError("cannot cache function 'doubled': no locator available")

    def doubled(numbers: Array) -> None:
        numbers *= 2

    monkeypatch.setattr("numba.core.dispatcher.Dispatcher.enable_caching", nowhere)
    numbers = np.ones(3)
    compiled(doubled)(numbers)
    assert numbers.tolist() == [2, 2, 2]
