from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from textwrap import dedent

import pytest
import torch
from torch import Tensor, nn

from hpo.tasks.digit_pairs.architectures import architectures, load_activations, load_architecture
from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds, is_two_tower_mlp
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.batch import to_device
from hpo.training.device import CPU
from hpo.training.preparation import build_networks
from hpo.training.rounds import GradientNorms, LoopedRounds, Rounds
from hpo.training.updates.config import TrainingConfig

SEEDS = [1, 2, 3]


def make_networks(architecture: str = "fnn", activation: str = "leaky_relu", *, shared: bool = True) -> list[nn.Module]:
    make, build = load_activations()(activation, 0.7), load_architecture(architecture)
    return build_networks(lambda: build(make, weight_sharing=shared), SEEDS)


def config(optimizer: str = "adam", learning_rate: float = 0.003) -> TrainingConfig:
    return TrainingConfig(epochs=3, batch_size=30, optimizer=optimizer, learning_rate=learning_rate)


def both_ways(make: Callable[[], list[nn.Module]], how: TrainingConfig, auxiliary_loss: bool = True) -> list[Rounds]:
    """Returns the loops of our own, and PyTorch's."""
    task = DigitPairs(dataset="digits", main_weight=0.7, auxiliary_weight=0.3)
    ours = MLPRounds(make(), how, (0.7, 0.3) if auxiliary_loss else (1.0, 0.0))
    return [ours, LoopedRounds(make(), how, partial(task.loss, auxiliary_loss=auxiliary_loss))]


def outcome(
    rounds: Rounds, train_pairs: Pairs, test_pairs: Pairs
) -> tuple[list[Tensor], tuple[Tensor, Tensor], list[dict[str, Tensor]], dict[str, Tensor]]:
    """Trains three epochs, whose last batches are short, and a step; returns all that rounds have to show."""
    norms, shuffle = GradientNorms(), torch.Generator().manual_seed(0)
    orders = [torch.stack([torch.randperm(200, generator=shuffle) for _ in SEEDS]) for _ in range(3)]
    losses = [rounds.train_epoch(train_pairs, order, norms) for order in orders]
    batch = Pairs(train_pairs.images[:, :20], train_pairs.classes[:, :20], train_pairs.targets[:, :20])
    losses.append(rounds.step(batch))
    return losses, rounds.predict(test_pairs.images), rounds.states(), norms.mean()


@pytest.mark.parametrize(
    ("architecture", "activation", "shared"),
    [  # any two of these values occur together
        (architecture, activation, (number + place) % 2 == 0)
        for number, architecture in enumerate(("fnn", "fully_connected"))
        for place, activation in enumerate(("relu", "leaky_relu", "elu", "selu"))
    ],
)
def test_linear_rounds_are_what_pytorch_makes_of_them(
    architecture: str, activation: str, shared: bool, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    """In float64: losses, logits, every parameter, and the norms of the gradients, by layer."""
    pairs = [to_device(part, CPU, torch.float64) for part in digit_pairs]

    def make() -> list[nn.Module]:
        return [network.double() for network in make_networks(architecture, activation, shared=shared)]

    ours, theirs = (outcome(way, *pairs) for way in both_ways(make, config()))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_without_the_auxiliary_loss_the_weights_do_not_count(digit_pairs: tuple[Pairs, Pairs]) -> None:
    pairs = [to_device(part, CPU, torch.float64) for part in digit_pairs]
    ways = both_ways(lambda: [n.double() for n in make_networks()], config("sgd", 0.05), auxiliary_loss=False)
    ours, theirs = (outcome(way, *pairs) for way in ways)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_a_round_that_diverges_leaves_the_others_as_they_are(digit_pairs: tuple[Pairs, Pairs]) -> None:
    networks = make_networks()
    with torch.no_grad():
        networks[1].get_parameter("head.0.weight").fill_(float("inf"))
    hurt = outcome(MLPRounds(networks, config(), (0.7, 0.3)), *digit_pairs)
    well = outcome(MLPRounds(make_networks(), config(), (0.7, 0.3)), *digit_pairs)
    assert hurt[0][-1][1].isnan()
    assert not hurt[1][0][1].isfinite().any()
    for r in (0, 2):
        assert hurt[0][-1][r] == well[0][-1][r]
        assert torch.equal(hurt[1][0][r], well[1][0][r])


def test_as_many_rounds_as_networks_or_none_are_trained(digit_pairs: tuple[Pairs, Pairs]) -> None:
    """Nothing else looks where the loops read."""
    train_pairs, test_pairs = digit_pairs
    rounds, order = MLPRounds(make_networks()[:2], config(), (0.7, 0.3)), torch.arange(200)
    before = rounds.states()
    with pytest.raises(ValueError, match=r"2 networks, but pairs or orders of \[3, 3\] rounds"):
        rounds.train_epoch(train_pairs, order.repeat(3, 1), None)
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        rounds.train_epoch(train_pairs, order.repeat(2, 1), None)
    with pytest.raises(ValueError, match=r"\[3\]"):
        rounds.predict(test_pairs.images)
    torch.testing.assert_close(rounds.states(), before, rtol=0, atol=0)


def test_layers_come_in_the_order_of_the_network(digit_pairs: tuple[Pairs, Pairs]) -> None:
    (_, _, ours, our_norms), (_, _, theirs, their_norms) = (
        outcome(way, *digit_pairs) for way in both_ways(make_networks, config())
    )
    assert list(ours[0]) == list(theirs[0])
    assert list(our_norms) == list(their_norms)


def test_a_network_that_joins_the_same_parts_otherwise_is_not_linear() -> None:
    network = make_networks()[0]

    class Reversed(type(network)):  # type: ignore[misc]
        def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
            comparison, digits = super().forward(pairs)
            return comparison.flip(1), digits

    assert is_two_tower_mlp(network)
    network.__class__ = Reversed
    assert not is_two_tower_mlp(network)
    params = {"auxiliary_loss": True}
    assert DigitPairs(dataset="digits").fast_rounds([network], params, config()) is None


def test_a_network_that_is_not_trained_whole_is_not_linear() -> None:
    network = make_networks()[0]
    network.get_parameter("towers.0.1.weight").requires_grad_(False)
    assert not is_two_tower_mlp(network)


def test_a_network_whose_towers_differ_is_not_linear() -> None:
    network, other = make_networks(shared=False)[0], make_networks(activation="selu", shared=False)[0]
    network.set_submodule("towers.1", other.get_submodule("towers.1"))
    assert not is_two_tower_mlp(network)


def test_a_worker_keeps_every_blas_to_one_thread() -> None:
    """In a process of its own, as a worker is; the one that Numba calls must be there when threads are limited."""
    program = """
        from pathlib import Path
        from threadpoolctl import threadpool_info
        from hpo.study import catalog
        from hpo.study.loading import load_task, open_task

        definition = catalog.load_study("cnn", [("task.dataset", "digits"), ("protocol.rounds", 1)])[1]
        loaded = load_task(definition, study="cnn")
        loaded.prepare(Path())
        task = open_task(definition, loaded, "cpu")
        params = {"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu"}
        next(task.measure({**params, "optimizer": "sgd", "learning_rate": 0.1}, definition.rounds))
        print(*(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"))
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"1"}


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu"])
@pytest.mark.parametrize("shared", [True, False])
def test_only_linear_architectures_are(activation: str, shared: bool) -> None:
    found = {name: is_two_tower_mlp(make_networks(name, activation, shared=shared)[0]) for name in architectures()}
    assert {name for name, linear in found.items() if linear} == {"fnn", "fully_connected"}
