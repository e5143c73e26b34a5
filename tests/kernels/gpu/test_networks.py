from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hpo.kernels.gpu.fuse import fuse
from hpo.kernels.gpu.layers import AveragePool, Convolution, Fused, Linear, MaxPool, Norm, Residual
from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture
from tests.kernels.gpu.comparison import DEVICE
from tests.kernels.gpu.networks import assert_trains_alike, drawn, narrowed, trained

pytestmark = pytest.mark.usefixtures("large_tiles")

KINDS = {
    "fnn": {Linear},
    "fully_connected": {Linear},
    "cnn": {Convolution, MaxPool, Linear},
    "cnn_bn": {Convolution, Norm, Linear},
    "simple_cnn": {Convolution, MaxPool, Linear},
    "residual": {Convolution, Norm, AveragePool, Residual, Linear},
}


def build(architecture: str, activation: str, weight_sharing: bool = True, rounds: int = 2) -> list[nn.Module]:
    """Returns networks of an architecture, but narrow, and residual ones of one block: kernels are interpreted."""
    torch.manual_seed(0)
    make_network, make_activation = load_architecture(architecture), load_activations()(activation, 0.7)
    few = {"depth": 1} if architecture == "residual" else {}
    return [narrowed(make_network(make_activation, weight_sharing=weight_sharing, **few)) for _ in range(rounds)]


def kinds_of(network: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in network.modules() if isinstance(module, Fused | Residual)}


@pytest.mark.parametrize(
    ("architecture", "activation", "weight_sharing"),
    [
        ("fnn", "elu", True),
        ("fnn", "relu", False),
        ("fully_connected", "leaky_relu", True),
        ("fully_connected", "selu", False),
        ("cnn", "selu", True),
        ("cnn", "relu", False),
        ("cnn_bn", "leaky_relu", True),
        ("cnn_bn", "selu", True),
        ("cnn_bn", "elu", False),
        ("simple_cnn", "leaky_relu", True),
        ("simple_cnn", "elu", False),
        ("residual", "relu", True),
        ("residual", "selu", False),
    ],
)
def test_a_fused_architecture_trains_as_the_other(architecture: str, activation: str, weight_sharing: bool) -> None:
    networks = build(architecture, activation, weight_sharing)
    assert kinds_of(fuse(networks[0])) == KINDS[architecture]
    assert_trains_alike(networks, drawn(2, 2, 2, 2, 14, 14), steps=1)


@pytest.mark.parametrize("architecture", KINDS)
def test_parameters_and_buffers_are_the_others_by_their_names(architecture: str) -> None:
    (network,) = build(architecture, "relu", rounds=1)
    before = str(network)
    fused = fuse(network)
    for found, wanted in (
        (fused.named_parameters(), network.named_parameters()),
        (fused.named_buffers(), network.named_buffers()),
    ):
        assert {name: id(one) for name, one in found} == {name: id(one) for name, one in wanted}
    assert fused.state_dict().keys() == network.state_dict().keys()
    assert str(network) == before


def test_a_fused_network_trains_alone_too() -> None:
    (network,) = build("cnn_bn", "leaky_relu", rounds=1)
    other = copy.deepcopy(network)
    fused = fuse(other)
    inputs = drawn(3, 2, 14, 14)
    for ours, theirs in ((fused, network), (fused.eval(), network.eval())):
        found, wanted = ours(inputs), theirs(inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        gradients = torch.autograd.grad(found[0].sin().sum(), list(other.parameters()))
        expected = torch.autograd.grad(wanted[0].sin().sum(), list(network.parameters()))
        torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dict(other.named_buffers()), dict(network.named_buffers()))


@pytest.mark.parametrize("architecture", ["cnn_bn", "residual"])
def test_what_the_kernels_are_not_for_is_left_to_the_layers(architecture: str) -> None:
    (network,) = build(architecture, "selu", rounds=1)
    other = copy.deepcopy(network.double())
    fused = fuse(other)
    inputs = drawn(3, 2, 14, 14).double()
    for ours, theirs in ((fused, network), (fused.eval(), network.eval())):
        torch.testing.assert_close(ours(inputs), theirs(inputs))
    torch.testing.assert_close(dict(other.named_buffers()), dict(network.named_buffers()))
    new = {name: torch.zeros_like(one) for name, one in network.named_parameters()}
    assert functional_call(fused, new, (inputs,))[0].eq(0).all()  # what is called with is what the layers see


def test_what_the_kernels_are_not_for_is_left_to_the_layers_under_vmap_too() -> None:
    networks, inputs = build("residual", "selu"), drawn(2, 2, 2, 2, 14, 14).double()
    found, wanted = (trained(networks, inputs, 1, precision).tensors for precision in ("tf32x3", None))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_errors_are_pytorchs() -> None:
    norm = fuse(nn.BatchNorm2d(3).to(DEVICE))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(drawn(1, 3, 1, 1))
    assert norm.eval()(drawn(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    convolution = fuse(nn.Conv2d(3, 2, 3).to(DEVICE))
    with pytest.raises(RuntimeError, match="channels"):
        convolution(drawn(1, 4, 5, 5))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        convolution(drawn(1, 3, 2, 5))


class Twice(nn.Module):
    """One tower reads one image after the other."""

    def __init__(self) -> None:
        super().__init__()
        tower = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.first, self.second = tower, tower

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images[:, :1]) + self.second(images[:, 1:])  # type: ignore[no-any-return]


def test_what_stands_in_a_network_twice_stays_one_and_is_updated_twice() -> None:
    networks: list[nn.Module] = [Twice().to(DEVICE) for _ in range(2)]
    fused = fuse(networks[0])
    assert fused.first is fused.second
    inputs = drawn(2, 2, 3, 2, 6, 6)
    assert_trains_alike(networks, inputs, steps=1)
    assert trained(networks, inputs, 1, "tf32x3").tensors["first.1.num_batches_tracked"].tolist() == [2, 2]


def test_training_twice_is_the_same_to_the_last_bit() -> None:
    networks, inputs = build("cnn_bn", "elu"), drawn(2, 2, 2, 2, 14, 14)
    first, second = (trained(networks, inputs, 1, "tf32").tensors for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(("architecture", "bad"), [("simple_cnn", torch.nan), ("cnn_bn", torch.inf)])
def test_a_round_that_is_not_finite_stays_so_and_alone(architecture: str, bad: float) -> None:
    networks, inputs = build(architecture, "relu"), drawn(2, 2, 2, 2, 14, 14)
    layer = next(module for module in networks[1].modules() if isinstance(module, nn.Conv2d))
    layer.weight.data[0] = bad
    tensors = trained(networks, inputs, 1, "tf32x3").tensors
    plain = trained(networks, inputs, 1, None).tensors
    for name, one in tensors.items():
        both = (tensor.reshape(-1, 2).t() if name == "losses" else tensor for tensor in (one, plain[name]))
        found, wanted = (tensor.isfinite().reshape(2, -1).all(1).tolist() for tensor in both)
        assert found == wanted, name
    assert tensors["losses"].isfinite().tolist() == [[True, False]]
