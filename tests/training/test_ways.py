"""Whatever a network does with its layers, it is trained as its author's plain loop would train it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, weight_norm

from hpo.kernels.stand_in import StandIn
from hpo.tasks.digit_pairs.architectures import load_architecture
from hpo.training.batch import Batch
from hpo.training.preparation import build_networks
from hpo.training.rounds import LoopedRounds, Rounds, StackedRounds
from hpo.training.updates.config import TrainingConfig
from hpo.training.ways import make_rounds

HOW = TrainingConfig(epochs=1, batch_size=10, optimizer="sgd", learning_rate=0.05)
SEEDS = (1, 2, 3)


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised before it is used."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(images, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Net(nn.Module):
    """Convolutions of the shapes that would be fused, and a linear layer; tests change something about it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU())
        self.second = nn.Conv2d(4, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.last = nn.Linear(80, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.second(self.first(images))))
        return self.last(maps.flatten(1))  # type: ignore[no-any-return]


class Subclass(Net):
    def __init__(self) -> None:
        super().__init__()
        self.second = Standardised(4, 5, 3)


class FirstIsSubclass(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first[0] = Standardised(1, 4, 3)


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.second.register_forward_hook(lambda layer, given, made: 3 * made)


class HookedBefore(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_pre_hook(lambda layer, given: (given[0].abs(),))


class HookedWithin(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first[2].register_forward_hook(lambda layer, given, made: made.clamp(max=0.1))


class HookedBackwards(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm.register_full_backward_hook(lambda layer, theirs, ours: (-theirs[0],))  # type: ignore[index]


class Parametrized(Net):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.second)
        parametrizations.spectral_norm(self.first[0])


class OldWeightNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            weight_norm(self.second)


class Pruned(Net):
    def __init__(self) -> None:
        super().__init__()
        prune.l1_unstructured(self.second, "weight", 0.5)  # type: ignore[no-untyped-call]


class ReadsWeights(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * self.norm.weight.mean() + self.second.weight.square().mean()


class ReadsSettings(Net):
    def forward(self, images: Tensor) -> Tensor:
        assert self.second.out_channels == self.norm.num_features == 5
        assert self.first[0].kernel_size == (3, 3)
        return super().forward(images)


class LooksInBetween(Net):
    """Takes what each layer of a sequence makes, as for skip connections."""

    def forward(self, images: Tensor) -> Tensor:
        seen = []
        for layer in self.first:
            images = layer(images)
            seen.append(images.mean())
        logits: Tensor = self.last(torch.relu(self.norm(self.second(images))).flatten(1))
        return logits + torch.stack(seen[1:]).sum()


class Views(Net):
    """As tutorials have it; what a convolution makes with its channels last has no such view."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.second(self.first(images)))
        return self.last(torch.relu(maps).view(-1, 80))  # type: ignore[no-any-return]


class Frozen(Net):
    """Keeps its first batch norm at its running statistics, also in training."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.first[1].eval()
        return self


class Untrained(Net):
    def __init__(self) -> None:
        super().__init__()
        self.second.requires_grad_(False)


class OwnForward(Net):
    def __init__(self) -> None:
        super().__init__()
        plain = self.second.forward
        self.second.forward = lambda images: 2 * plain(images)  # type: ignore[method-assign, assignment]


class Tied(Net):
    """One layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Conv2d(5, 5, 1)
        self.again = self.norm

    def forward(self, images: Tensor) -> Tensor:
        maps = self.again(self.third(self.norm(self.second(self.first(images)))))
        return self.last(torch.relu(maps).flatten(1))  # type: ignore[no-any-return]


def plain_loop(network: nn.Module, batch: Batch, tests: Tensor, steps: int) -> tuple[list[float], Tensor]:
    """Trains one network as its author would; returns the losses, and what it makes of the test examples."""
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=HOW.learning_rate), []
    network.train()
    for _ in range(steps):
        loss = functional.cross_entropy(network(batch[0]), batch[1])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, network.eval()(tests)


def loss(output: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def data(*shape: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(len(SEEDS), 10, *shape, generator=draw, dtype=torch.float64),
        torch.randint(3, (len(SEEDS), 10), generator=draw),
    )


def trained(build: Callable[[], nn.Module], batch: Batch, *, stacked: bool | None = None, steps: int = 6) -> Rounds:
    """Trains three rounds in the way that is chosen, and compares each with its author's plain loop."""
    rounds = make_rounds(
        [one.double() for one in build_networks(build, SEEDS)], HOW, loss, batch, SEEDS, stacked=stacked
    )
    losses = torch.stack([rounds.step(batch) for _ in range(steps)], dim=1)
    outputs = rounds.predict(batch[0])
    for r, network in enumerate(build_networks(build, SEEDS)):
        expected, output = plain_loop(network.double(), (batch[0][r], batch[1][r]), batch[0][r], steps)
        torch.testing.assert_close(losses[r].tolist(), expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(outputs[r], output, rtol=1e-8, atol=1e-8)
    return rounds


@pytest.mark.parametrize(
    "kind",
    [
        *(Net, Subclass, FirstIsSubclass, Hooked, HookedBefore, HookedWithin, HookedBackwards, Parametrized),
        *(OldWeightNorm, Pruned, ReadsWeights, ReadsSettings, LooksInBetween, Views, Frozen, Untrained, OwnForward),
        Tied,
    ],
)
def test_whatever_a_network_does_with_its_layers_it_is_trained_as_a_plain_loop_trains_it(kind: type[Net]) -> None:
    rounds = trained(kind, data(1, 14, 14))
    assert isinstance(rounds, LoopedRounds)
    replaced = [module for module in rounds._adapted[0].modules() if isinstance(module, StandIn)]
    assert bool(replaced) == (kind not in {Views, LooksInBetween, Frozen, OldWeightNorm, Pruned})


class Linear(nn.Module):
    """Linear layers alone, which are stacked on a CPU too; tests change something about it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.between(torch.tanh(self.first(inputs))))  # type: ignore[no-any-return]

    def between(self, hidden: Tensor) -> Tensor:
        return hidden


class AsksForANumber(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden / hidden.abs().max().item()


class Branches(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden if hidden.mean() > 0 else 2 * hidden


class WritesInPlace(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        means = torch.zeros(5, dtype=hidden.dtype)
        means += hidden.mean(0)
        return hidden - means


class NoBatch(Linear):
    """Looks at the other examples of its batch."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0, keepdim=True)


@pytest.mark.parametrize("kind", [Linear, NoBatch])
def test_linear_layers_are_stacked(kind: type[Linear]) -> None:
    assert isinstance(trained(kind, data(7)), StackedRounds)


def test_linear_layers_are_stacked_in_a_lower_precision_too() -> None:
    batch = (8 * data(7)[0].float(), data(7)[1])
    rounds = make_rounds(build_networks(Linear, SEEDS), replace(HOW, precision="bfloat16"), loss, batch, SEEDS)
    assert isinstance(rounds, StackedRounds)


@pytest.mark.parametrize("kind", [AsksForANumber, Branches, WritesInPlace])
def test_what_cannot_be_stacked_is_looped_and_it_is_said_why(kind: type[Linear]) -> None:
    rounds = trained(kind, data(7))
    assert isinstance(rounds, LoopedRounds)
    assert rounds.way.startswith("looped, for it cannot be stacked: ")


class Drops(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        return self.dropout(hidden)  # type: ignore[no-any-return]


class DropsByNumpy(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        kept = np.random.random(hidden.shape) > 0.5 if self.training else np.ones(hidden.shape)
        return hidden * torch.from_numpy(kept)


class DropsAlways(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, 0.5, training=True) * (1 + random.random())


@pytest.mark.parametrize("kind", [Drops, DropsByNumpy, DropsAlways])
def test_a_round_draws_the_same_numbers_whatever_was_drawn_before_and_whoever_trains_beside_it(
    kind: type[Linear],
) -> None:
    batch = data(7)

    def train(chosen: Sequence[int], *, looking: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(random.randrange(10**6))
        ours = tuple(tensor[list(chosen)] for tensor in batch)
        networks = [one.double() for one in build_networks(kind, [SEEDS[r] for r in chosen])]
        rounds = make_rounds(networks, HOW, loss, ours, [SEEDS[r] + 10 for r in chosen])
        assert isinstance(rounds, LoopedRounds)
        assert rounds.way.startswith("looped, for its training draws random numbers")
        orders = torch.arange(7).expand(len(chosen), 7)
        losses = []
        for _ in range(4):
            losses += [rounds.train_epoch(ours, orders, None), rounds.step(ours)]
            if looking:
                assert torch.equal(rounds.predict(ours[0]), rounds.predict(ours[0]))
        return torch.stack(losses, 1), rounds.predict(ours[0])

    losses, outputs = train((0, 1, 2), looking=True)
    again = train((0, 1, 2), looking=False)
    assert torch.equal(losses, again[0])
    assert torch.equal(outputs, again[1])
    for r in range(3):
        alone = train((r,), looking=False)
        assert torch.equal(losses[r], alone[0][0])
        assert torch.equal(outputs[r], alone[1][0])


def test_networks_of_the_same_weights_draw_each_their_own() -> None:
    batch = tuple(tensor[[0, 0]] for tensor in data(7))
    rounds = make_rounds([one.double() for one in build_networks(Drops, (1, 1))], HOW, loss, batch, (1, 2))
    first = rounds.step(batch)
    assert first[0] != first[1]


def test_training_leaves_everybodys_random_numbers_as_they_were() -> None:
    batch = data(7)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    rounds = make_rounds([one.double() for one in build_networks(DropsAlways, SEEDS)], HOW, loss, batch, SEEDS)
    rounds.step(batch)
    rounds.predict(batch[0])
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


class CannotBeCopied(Linear):
    def between(self, hidden: Tensor) -> Tensor:
        self.kept = hidden  # a tensor with a history, which cannot be copied
        return hidden


def test_a_network_that_cannot_be_tried_on_a_copy_is_looped_with_streams_and_it_is_said_why() -> None:
    networks = [one.double() for one in build_networks(CannotBeCopied, SEEDS)]
    batch = data(7)
    networks[0](batch[0][0])
    rounds = make_rounds(networks, HOW, loss, batch, SEEDS)
    assert rounds.way.startswith("looped, for it cannot be tried on a copy, so its training may draw random numbers: ")


@pytest.mark.parametrize("architecture", ["unpooled_cnn", "fully_convolutional"])
def test_rectifiers_and_dropped_maps_do_not_keep_images_from_having_their_channels_last(architecture: str) -> None:
    torch.manual_seed(0)
    config, examples = replace(HOW, precision="bfloat16"), torch.randn(1, 16, 2, 14, 14)
    formats = []
    for seed in (0, 43, 55):  # in float32 an input of a ReLU changed sign with the last two
        torch.manual_seed(seed)
        build = load_architecture(architecture)
        network = build(nn.ReLU, weight_sharing=True, width=16, depth=5, dropout=0.3)
        rounds = make_rounds([network], config, lambda output, batch: output[0].mean(), (examples,), [seed])
        assert rounds.way == "looped, for its training draws random numbers"
        layers = (module for module in network.modules() if isinstance(module, nn.Conv2d) and module.in_channels > 1)
        formats += [layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers]
    assert all(formats)
