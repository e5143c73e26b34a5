from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hpo.kernels.gpu.fuse import fuse, missing
from hpo.kernels.gpu.layers import AveragePool, Convolution, Fused, Linear, MaxPool, Norm, Residual
from tests.kernels.gpu.comparison import DEVICE
from tests.kernels.gpu.networks import assert_trains_alike, drawn

pytestmark = pytest.mark.usefixtures("large_tiles")


class OwnConvolution(nn.Conv2d):
    pass


class OwnSequence(nn.Sequential):
    pass


class Block(nn.Module):
    computes = "activation(maps + residue(maps))"

    def __init__(self, *residue: nn.Module) -> None:
        super().__init__()
        self.residue, self.activation = nn.Sequential(*residue), nn.ELU(0.5)

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(maps + self.residue(maps))  # type: ignore[no-any-return]


class OwnBlock(Block):
    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(maps - self.residue(maps))  # type: ignore[no-any-return]


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def replaced(layer: nn.Module) -> nn.Module:
    layer.forward = lambda inputs: inputs
    return layer


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in network.modules() if isinstance(module, Fused | Residual)]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param(
            [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.ReLU()], [Convolution, Norm], id="pool"
        ),
        pytest.param([nn.BatchNorm2d(2, momentum=0.5), nn.ReLU(inplace=True), nn.MaxPool2d(2)], [Norm], id="inplace"),
        pytest.param([nn.BatchNorm2d(2), nn.MaxPool2d(3, 2), nn.SELU()], [Norm, MaxPool], id="a pool of its own"),
        pytest.param([nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Tanh()], [Norm, Norm], id="another activation"),
        pytest.param(
            [nn.BatchNorm2d(2), nn.Tanh(), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()], [Norm, MaxPool], id="twice"
        ),
        pytest.param([nn.Conv2d(2, 1, 1), nn.AvgPool2d(2), nn.LeakyReLU(0.2)], [Convolution, AveragePool], id="mean"),
        pytest.param([nn.Sequential(nn.Flatten(), nn.Linear(98, 4)), nn.ReLU()], [Linear], id="nested"),
        pytest.param([OwnSequence(nn.Conv2d(2, 2, 3), nn.ReLU())], [Convolution], id="in a subclass"),
        pytest.param([Block(nn.Conv2d(2, 2, 3, padding=1))], [Residual, Convolution], id="a sum without norm"),
        pytest.param([Block(nn.BatchNorm2d(2))], [Residual, Norm], id="a residual block"),
        pytest.param([Block(nn.BatchNorm2d(2), nn.ReLU())], [Residual, Norm], id="an activation inside"),
        pytest.param([Block(nn.BatchNorm2d(2), nn.AvgPool2d(7))], [Residual, Norm, AveragePool], id="a sum of others"),
    ],
)
def test_recognised_layers_train_as_pytorchs(layers: list[nn.Module], expected: list[type[nn.Module]]) -> None:
    networks: list[nn.Module] = [nn.Sequential(*layers).to(DEVICE) for _ in range(1)]
    assert kinds(fuse(networks[0])) == expected
    assert_trains_alike([networks[0], networks[0]], drawn(2, 2, 2, 2, 7, 7), steps=1)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(OwnConvolution(2, 2, 3), id="a subclass"),
        pytest.param(hooked(nn.Conv2d(2, 2, 3)), id="a hook"),
        pytest.param(replaced(nn.Linear(2, 2)), id="a forward of its own"),
        pytest.param(nn.Conv2d(2, 2, 3, stride=2), id="stride"),
        pytest.param(nn.Conv2d(2, 2, 3, dilation=2), id="dilation"),
        pytest.param(nn.Conv2d(2, 2, 3, groups=2), id="groups"),
        pytest.param(nn.Conv2d(2, 2, 3, padding="same"), id="padding by its name"),
        pytest.param(nn.Conv2d(2, 2, 3, padding="valid"), id="no padding by its name"),
        pytest.param(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), id="padding mode"),
        pytest.param(nn.BatchNorm2d(2, affine=False), id="a norm without scale"),
        pytest.param(nn.BatchNorm2d(2, momentum=None), id="a cumulative norm"),
        pytest.param(nn.BatchNorm2d(2, track_running_stats=False), id="a norm without statistics"),
        pytest.param(nn.BatchNorm1d(2), id="a norm of vectors"),
        pytest.param(nn.MaxPool2d(3, padding=1), id="a padded pool"),
        pytest.param(nn.MaxPool2d((2, 3)), id="a pool that is not square"),
        pytest.param(nn.MaxPool2d(2, ceil_mode=True), id="a pool that rounds up"),
        pytest.param(nn.MaxPool2d(2, return_indices=True), id="a pool with indices"),
        pytest.param(nn.AvgPool2d(3, stride=2), id="overlapping means"),
        pytest.param(nn.ReLU(), id="an activation alone"),
        pytest.param(nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2)), id="a change that others may see"),
        pytest.param(nn.Sequential(nn.LeakyReLU(-0.1), nn.MaxPool2d(2, padding=1)), id="not increasing"),
        pytest.param(OwnBlock(nn.Tanh()), id="a block that inherits"),
        pytest.param(hooked(Block(nn.Tanh())), id="a block with a hook"),
    ],
)
def test_other_layers_are_left_alone(layer: nn.Module) -> None:
    fused = fuse(nn.Sequential(layer))
    found = [kind for kind in kinds(fused) if not (isinstance(layer, nn.Sequential) and kind is MaxPool)]
    assert found == []
    assert type(fused.get_submodule("0")) is type(layer)


def test_activations_whose_result_does_not_tell_the_branch_stay_apart() -> None:
    for activation in (nn.LeakyReLU(-0.1), nn.ELU(-1.0), nn.GELU(), nn.ReLU6()):
        fused = fuse(nn.Sequential(nn.Linear(2, 2), activation))
        assert type(fused.get_submodule("1")) is type(activation)


def test_a_layer_alone_is_fused_and_has_what_the_other_has() -> None:
    fused = fuse(nn.Linear(3, 2).to(DEVICE))
    assert isinstance(fused, Linear)
    assert (fused.in_features, fused.weight.shape) == (3, (2, 3))
    assert fused(torch.ones(4, 5, 3, device=DEVICE)).shape == (4, 5, 2)  # by the layer itself
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fused.no_such_name


def test_a_copy_of_a_fused_network_is_whole() -> None:
    fused = fuse(nn.Sequential(nn.Linear(3, 2).double()))
    copied = copy.deepcopy(fused)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    inputs = torch.ones(4, 3, dtype=torch.float64)
    assert copied(inputs).eq(0).all()  # by its own layer, which has the copy's parameters
    assert fused(inputs).ne(0).all()


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of tf32x3, ieee, tf32, bf16, but is 'half'"):
        fuse(nn.Linear(1, 1), "half")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() is None
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert missing() == "there is no NVIDIA GPU"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (7, 5))
    assert missing() == "Tesla T4 has compute capability 7.5, and the kernels need 8.0"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
    assert missing() is None
    monkeypatch.setattr("hpo.kernels.gpu.fuse.find_spec", lambda name: None)
    assert missing() == "Triton is not installed"
