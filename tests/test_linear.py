from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hpo import catalog
from hpo.data import Pairs
from hpo.linear import LinearRounds, is_linear
from hpo.recipe import CPU, Recipe
from hpo.rounds import GradientNorms, LoopedRounds, Rounds
from hpo.training import build_networks, make_rounds

SEEDS = [1, 2, 3]


def make_networks(architecture: str = "fnn", activation: str = "leaky_relu", *, shared: bool = True) -> list[nn.Module]:
    make, build = catalog.load_activations()(activation, 0.7), catalog.load_architecture(architecture)
    return build_networks(lambda: build(make, weight_sharing=shared), SEEDS)


def recipe(**changes: object) -> Recipe:
    settings = {"epochs": 3, "batch_size": 30, "optimizer": "adam", "learning_rate": 0.003, "auxiliary_loss": True}
    return Recipe(**{**settings, "main_weight": 0.7, "auxiliary_weight": 0.3, **changes})  # type: ignore[arg-type]


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


@pytest.mark.parametrize("architecture", ["fnn", "fully_connected"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu"])
@pytest.mark.parametrize("shared", [True, False])
def test_linear_rounds_are_what_pytorch_makes_of_them(
    architecture: str, activation: str, shared: bool, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    """In float64: losses, logits, every parameter, and the norms of the gradients, by layer."""
    pairs = [part.to(CPU, torch.float64) for part in digit_pairs]
    ours, theirs = (
        outcome(way([n.double() for n in make_networks(architecture, activation, shared=shared)], recipe()), *pairs)
        for way in (LinearRounds, LoopedRounds)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_without_the_auxiliary_loss_the_weights_do_not_count(digit_pairs: tuple[Pairs, Pairs]) -> None:
    pairs = [part.to(CPU, torch.float64) for part in digit_pairs]
    how = recipe(auxiliary_loss=False, optimizer="sgd", learning_rate=0.05)
    ours, theirs = (
        outcome(way([n.double() for n in make_networks()], how), *pairs) for way in (LinearRounds, LoopedRounds)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_a_round_that_diverges_leaves_the_others_as_they_are(digit_pairs: tuple[Pairs, Pairs]) -> None:
    networks = make_networks()
    with torch.no_grad():
        networks[1].get_parameter("head.0.weight").fill_(float("inf"))
    hurt = outcome(LinearRounds(networks, recipe()), *digit_pairs)
    well = outcome(LinearRounds(make_networks(), recipe()), *digit_pairs)
    assert hurt[0][-1][1].isnan()
    assert not hurt[1][0][1].isfinite().any()
    for r in (0, 2):
        assert hurt[0][-1][r] == well[0][-1][r]
        assert torch.equal(hurt[1][0][r], well[1][0][r])


class Joined(nn.Module):
    """A network of the parts of a digit pair's, joined otherwise where it is told so."""

    def __init__(self, how: str) -> None:
        super().__init__()
        network = make_networks()[0]
        self.towers, self.head = network.get_submodule("towers"), network.get_submodule("head")
        self.how = how
        if how == "scaled":
            self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.towers, nn.ModuleList)
        digits = torch.stack([self.towers[0](pairs[:, i : i + 1]) for i in range(2)], dim=1)
        seen = {"reversed": digits.flip(1), "activated": digits.relu()}.get(self.how, digits)
        return self.head(seen.flatten(1)), digits


@pytest.mark.parametrize("how", ["reversed", "activated", "scaled"])
def test_a_network_of_the_same_parts_that_joins_them_otherwise_is_not_linear(how: str) -> None:
    assert not is_linear(Joined(how))
    assert not isinstance(make_rounds([Joined(how)], recipe(), CPU), LinearRounds)


def test_a_network_of_another_name_that_joins_them_so_is() -> None:
    assert is_linear(Joined("plainly"))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu"])
@pytest.mark.parametrize("shared", [True, False])
def test_only_linear_architectures_are(activation: str, shared: bool) -> None:
    found = {name: is_linear(make_networks(name, activation, shared=shared)[0]) for name in catalog.architectures()}
    assert {name for name, linear in found.items() if linear} == {"fnn", "fully_connected"}
