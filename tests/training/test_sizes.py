"""Networks of other widths and depths, and with dropout; without, they are what they were before these were there."""

from __future__ import annotations

import hashlib
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpo.errors import StudyError
from hpo.study.references import Sources
from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture, takers_of
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.batch import each, of_round
from hpo.training.network_summary import count_parameters
from hpo.training.preparation import build_networks
from hpo.training.rounds import LoopedRounds, StackedRounds
from hpo.training.updates.config import TrainingConfig
from hpo.training.ways import fused
from hpo.workers.checking import check_study
from hpo.workers.messages import Check
from tests.conftest import LISTED_STUDY, SMALL_STUDY, defined
from tests.study.test_definition import changed
from tests.training.test_rounds import SEEDS, exactly, loss_of, plain_loop
from tests.training.test_trainer import ROUNDS, measure, params, task, trainer

HEAD = 20 * 20 + 20 + 20 * 2 + 2
SIZED = ("cnn", "cnn_bn", "deep_cnn", "fnn", "fully_convolutional", "residual", "unpooled_cnn")

BEFORE = {  # of networks with a shared tower, and with two: names and shapes, sum of absolute weights, and of outputs
    ("cnn", True): ("b4d48d70637e", 2326.236098, 7.491762),
    ("cnn", False): ("b155e101e661", 4602.424404, 7.52027),
    ("cnn_bn", True): ("a03efbbfb61b", 2510.172894, 7.385901),
    ("cnn_bn", False): ("cfd679d65a07", 4971.09592, 6.358251),
    ("fnn", True): ("a2abd72e284c", 1045.136814, 11.852265),
    ("fnn", False): ("0304e4e85e98", 2039.511448, 10.840958),
    ("fully_connected", True): ("96da57b7b4b9", 443.521518, 19.224002),
    ("fully_connected", False): ("e80cd301d43d", 830.781382, 19.766201),
    ("residual", True): ("1e1fec72d369", 1383.757096, 16.983274),
    ("residual", False): ("0567d67617b0", 2715.881316, 22.061711),
    ("simple_cnn", True): ("d9f452c322cf", 211.691288, 11.517139),
    ("simple_cnn", False): ("6c4f36722b66", 371.946013, 14.493924),
}


def build(architecture: str, *, weight_sharing: bool = True, **sizes: Any) -> nn.Module:
    network: nn.Module = load_architecture(architecture)(
        load_activations()("elu", 0.7), weight_sharing=weight_sharing, **sizes
    )
    return network


@pytest.mark.parametrize(("architecture", "weight_sharing"), BEFORE)
def test_without_sizes_networks_are_what_they_were(architecture: str, weight_sharing: bool) -> None:
    """Sums over weights and outputs of a seed, by the code before there were sizes; to rounding, for it may differ."""
    torch.manual_seed(7)
    network = build(architecture, weight_sharing=weight_sharing)
    shapes, weights, outputs = BEFORE[architecture, weight_sharing]
    state = network.state_dict()
    named = repr([(name, tuple(tensor.shape)) for name, tensor in state.items()])
    assert hashlib.sha256(named.encode()).hexdigest()[:12] == shapes
    assert sum(float(tensor.double().abs().sum()) for tensor in state.values()) == pytest.approx(weights, rel=1e-7)
    torch.manual_seed(8)
    with torch.no_grad():
        comparison, digits = network.double().eval()(torch.randn(4, 2, 14, 14).double())
    assert float(comparison.abs().sum() + digits.abs().sum()) == pytest.approx(outputs, rel=1e-5)


def convolutions(width: int, depth: int) -> int:
    """How many parameters the convolutions of the deep networks have, none biased, with their batch norms."""
    count, inputs = 0, 1
    for layer in range(depth):
        outputs = width if layer < 2 else 2 * width
        count, inputs = count + 9 * inputs * outputs + 2 * outputs, outputs
    return count


def unpooled(*channels: int) -> int:
    """How many the unpooled network's have."""
    return sum(9 * inputs * outputs + 2 * outputs for inputs, outputs in pairwise([1, *channels]))


def hidden(*widths: int) -> int:
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))


def of_residual(width: int, depth: int) -> int:
    return 10 * width + depth * 2 * (9 * width**2 + width + 2 * width) + hidden(width, 10)


COUNTS: list[tuple[str, dict[str, int], int]] = [
    ("deep_cnn", {}, convolutions(24, 5) + hidden(18 * 24, 10)),
    ("deep_cnn", {"width": 5}, convolutions(5, 5) + hidden(18 * 5, 10)),
    ("deep_cnn", {"depth": 3}, convolutions(24, 3) + hidden(18 * 24, 10)),
    ("deep_cnn", {"width": 1, "depth": 9}, convolutions(1, 9) + hidden(18, 10)),
    ("fully_convolutional", {}, convolutions(24, 5) + hidden(48, 10)),
    ("fully_convolutional", {"width": 7, "depth": 4}, convolutions(7, 4) + hidden(14, 10)),
    ("unpooled_cnn", {}, unpooled(32, 48, 64, 80, 96) + hidden(16 * 96, 10)),
    ("unpooled_cnn", {"width": 5, "depth": 3}, unpooled(5, 7, 9) + hidden(64 * 9, 10)),
    ("unpooled_cnn", {"width": 4, "depth": 6}, unpooled(4, 6, 8, 10, 12, 14) + hidden(4 * 14, 10)),
    ("residual", {}, of_residual(14, 6)),
    ("residual", {"width": 5}, of_residual(5, 6)),
    ("residual", {"depth": 1}, of_residual(14, 1)),
    ("fnn", {"width": 64}, hidden(196, 64, 32, 10)),
    ("fnn", {"width": 40, "depth": 3}, hidden(196, 40, 20, 10, 10)),
    ("fnn", {"depth": 1}, hidden(196, 100, 10)),
    ("fnn", {"width": 3, "depth": 4}, hidden(196, 3, 1, 1, 1, 10)),
    ("cnn", {"width": 6}, 10 * 6 + 9 * 6 * 12 + 12 + hidden(8 * 6, 200, 10)),
    ("cnn_bn", {"width": 6}, 11 * 6 + 9 * 6 * 12 + 24 + hidden(8 * 6, 200, 10)),
]


@pytest.mark.parametrize(("architecture", "sizes", "tower"), COUNTS)
def test_sizes_make_networks_of_so_many_parameters(architecture: str, sizes: dict[str, Any], tower: int) -> None:
    assert count_parameters(build(architecture, **sizes)) == tower + HEAD
    assert count_parameters(build(architecture, weight_sharing=False, **sizes)) == 2 * tower + HEAD
    assert count_parameters(build(architecture, **sizes, dropout=0.4)) == tower + HEAD
    made = task().network(architecture, "relu", True, **sizes)
    assert count_parameters(made) == tower + HEAD
    comparison, digits = made(torch.randn(3, 2, 14, 14))
    assert (comparison.shape, digits.shape) == ((3, 2), (3, 2, 10))


DROPPED = {"cnn": 2, "cnn_bn": 2, "deep_cnn": 1, "fnn": 2, "fully_convolutional": 1, "residual": 1, "unpooled_cnn": 1}


@pytest.mark.parametrize(("architecture", "layers"), DROPPED.items())
def test_dropout_stands_before_the_last_layers_and_drops_in_training_alone(architecture: str, layers: int) -> None:
    plain, dropping = build(architecture, dropout=0.0), build(architecture, dropout=0.4)
    assert not [module for module in plain.modules() if isinstance(module, nn.Dropout)]
    assert [m.p for m in dropping.modules() if isinstance(m, nn.Dropout)] == [0.4] * layers
    with torch.no_grad():
        for own, given in zip(dropping.parameters(), plain.parameters(), strict=True):
            own.copy_(given)
    pairs = torch.randn(6, 2, 14, 14)
    for ours, theirs in zip(dropping.eval()(pairs), plain.eval()(pairs), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(dropping.train()(pairs)[1], dropping(pairs)[1])


@pytest.mark.parametrize("architecture", ["fnn", "deep_cnn"])
def test_dropout_trains_looped_and_the_same_each_time(architecture: str) -> None:
    sizes = {"width": 4, **({"depth": 3} if architecture == "deep_cnn" else {})}
    chosen, one = params(architecture, dropout=0.3, **sizes), task(train_pairs=60, test_pairs=50)
    made = trainer(one, epochs=2, keep=("losses",), evaluate_at=(1,))
    prepared = made.prepare(chosen, ROUNDS)
    assert type(prepared) is LoopedRounds
    assert prepared.way.startswith("looped, for its training draws random numbers")
    first, again = (list(made.measure(chosen, ROUNDS)) for _ in range(2))
    assert first == again
    alone = list(made.measure(chosen, ROUNDS[1:2]))
    assert [step.details["losses"][1] for step in first] == [step.details["losses"][0] for step in alone]
    assert first[-1] == measure(chosen, measured=one, epochs=2)[-1]  # which is not measured in between
    without, none = (
        measure(params(architecture, **sizes, **more), measured=one, epochs=2) for more in ({"dropout": 0.0}, {})
    )
    assert without == none
    assert first[-1].details != none[-1].details


SHALLOW = "depth must be at least 3, two convolutions at 14x14 and one at 7x7, but is 2"
DEEP = "depth must be at most 6, as each convolution takes two pixels of 14, but is 7"


@pytest.mark.parametrize(
    ("architecture", "depth", "said"),
    [("deep_cnn", 2, SHALLOW), ("fully_convolutional", 2, SHALLOW), ("unpooled_cnn", 7, DEEP)],
)
def test_a_network_of_an_impossible_depth_is_refused_in_a_line(architecture: str, depth: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(architecture, depth=depth)
    searched = {"choices": [depth]}
    table = changed(changed(SMALL_STUDY, "space.architecture", [architecture]), "space.depth", searched)
    order = Check("small", defined(table, "small"), "cpu", Sources(Path()))
    with pytest.raises(StudyError) as raised:
        check_study(order, lambda said: None)
    assert str(raised.value).startswith("study 'small': with architecture = ")
    assert f"ValueError: {said} (" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sizes_are_there_only_where_an_architecture_takes_them() -> None:
    assert set(takers_of("width")) == set(takers_of("dropout")) == set(SIZED)
    assert set(takers_of("depth")) == {*SIZED} - {"cnn", "cnn_bn"}
    space = defined(changed(SMALL_STUDY, "space.width", {"low": 8, "high": 64, "log": True}), "small").space
    assert space["width"].when == {"architecture": "fnn"}  # of the two that the study has
    several = changed(changed(SMALL_STUDY, "space.width", [8]), "space.architecture", ["cnn", "simple_cnn", "fnn"])
    assert defined(several, "small").space["width"].when == {"architecture": ("cnn", "fnn")}


@pytest.mark.parametrize(
    ("name", "value", "architecture"),
    [("width", 8, "fully_connected"), ("depth", 3, "cnn"), ("dropout", 0.1, "simple_cnn")],
)
def test_a_size_of_a_network_that_has_none_is_refused_in_a_line(name: str, value: Any, architecture: str) -> None:
    listed = changed(
        changed(LISTED_STUDY, "trial.0.params.architecture", architecture), f"trial.0.params.{name}", value
    )
    searched = changed(changed(SMALL_STUDY, "space.architecture", [architecture]), f"space.{name}", [value])
    for table, where in ((listed, "trial 'FNN': "), (searched, "space.")):
        with pytest.raises(StudyError) as raised:
            defined(table, "some")
        assert str(raised.value).startswith(f"study 'some': {where}{name} is there only where architecture is '")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("depth", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_a_size_that_is_none_is_refused_in_a_line(name: str, value: Any) -> None:
    with pytest.raises(StudyError, match=rf"study 'some': space\.{name} must be .*, but is {value}$"):
        defined(changed(SMALL_STUDY, f"space.{name}", [value]), "some")


@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
@pytest.mark.parametrize("architecture", ["deep_cnn", "fully_convolutional", "residual", "cnn_bn", "unpooled_cnn"])
def test_networks_of_any_size_are_trained_as_a_plain_loop_trains_each(
    architecture: str, activation: str, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    """Stacked, and looped with layers fused, in float64."""
    sizes = {"width": 3, **({} if architecture == "cnn_bn" else {"depth": 4})}
    train = each(exactly(digit_pairs)[0], lambda tensor: tensor[:2, :60].contiguous())
    how = TrainingConfig(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05)

    def fresh() -> list[nn.Module]:
        make = partial(load_architecture(architecture), load_activations()(activation), weight_sharing=True, **sizes)
        return [network.double() for network in build_networks(make, SEEDS[:2])]

    plain = [plain_loop(network, of_round(train, r), True, how, SEEDS[r]) for r, network in enumerate(fresh())]
    for rounds in (StackedRounds(fresh(), how, loss_of()), LoopedRounds(fresh(), how, loss_of(), fused)):
        orders = [torch.Generator().manual_seed(seed) for seed in SEEDS[:2]]
        for epoch in range(2):
            order = torch.stack([torch.randperm(60, generator=one) for one in orders])
            losses = rounds.train_epoch(train, order, None)
            assert losses.tolist() == pytest.approx([one[epoch] for one in plain], abs=1e-8)
