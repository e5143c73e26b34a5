"""Recorded rounds that compute with the kernels: a trial is what it is with PyTorch's layers, but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.training.preparation import build_networks
from hpo.training.recording.gpu_kernels import NO_KERNELS, Kernels, find_kernels
from hpo.training.recording.recorded import RecordedRounds
from hpo.training.updates.config import TrainingConfig
from tests.kernels.gpu.comparison import DEVICE
from tests.training.test_rounds import Tape

SEEDS = [1, 2]
HOW = TrainingConfig(epochs=1, batch_size=3, optimizer="sgd", learning_rate=0.05)
Pair = tuple[Tensor, Tensor]


def small(slope: float = 0.1) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.LeakyReLU(slope)),
        *(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)),
    )


def built(make: Callable[[], nn.Module] = small, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    return [network.to(DEVICE, dtype) for network in build_networks(make, SEEDS)]


def loss(output: Tensor, batch: Pair) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def examples(dtype: torch.dtype) -> tuple[Pair, Pair]:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (5, 3):  # five in batches of three: the last is short
        images = torch.randn(len(SEEDS), count, 1, 8, 8, generator=generator)
        labels = torch.randint(3, (len(SEEDS), count), generator=generator)
        parts.append((images.to(DEVICE, dtype), labels.to(DEVICE)))
    return parts[0], parts[1]


def trained(dtype: torch.dtype, *, by_kernels: bool) -> Tensor:
    train, test = examples(dtype)
    networks = built(dtype=dtype)
    kernels = find_kernels(networks, HOW, loss, train) if by_kernels else NO_KERNELS
    assert by_kernels == (kernels.fuse is not None), kernels.why_not
    rounds = recorded(networks, (train, test), kernels)
    assert rounds.way == RecordedRounds.way
    trial(rounds, 0.2, (train, test))
    return trial(rounds, 0.05, (train, test))


def recorded(networks: list[nn.Module], data: tuple[Pair, Pair], kernels: Kernels) -> RecordedRounds:
    how: dict[str, Any] = {"evaluate": lambda output, batch: output, "recorder": Tape(), "kernels": kernels}
    return RecordedRounds(networks, HOW, loss, train=data[0], test=data[1], **how)


def trial(rounds: RecordedRounds, rate: float, data: tuple[Pair, Pair]) -> Tensor:
    """Returns all numbers of a trial, in float64."""
    rounds.begin(rate)
    orders = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(r)) for r in SEEDS]).to(DEVICE)
    told = [rounds.train_epoch(data[0], orders, None).clone()]
    told.append(rounds.evaluate(data[1], lambda output, batch: output).clone())
    states = [tensor for state in rounds.states() for tensor in state.values()]
    return torch.cat([tensor.flatten().double() for tensor in (*told, *states)])


class Doubled(nn.Module):
    """Calls a layer on what it is not made for: by itself, not by the kernels."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ELU(slope)), nn.Linear(3, 3)
        self.twice = nn.Sequential(nn.Linear(3, 3), nn.ELU(slope))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.twice(self.first(images)[None])[0])  # type: ignore[no-any-return]


class Looks(nn.Module):
    """Computes with its activation's slope itself: the pool, which stands for both layers, has it."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.LeakyReLU(slope), nn.MaxPool2d(2))
        self.last = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        slope: Any = self.pool[0].negative_slope
        return slope * self.last(self.pool(images).flatten(1))  # type: ignore[no-any-return]


class Ties(nn.Module):
    """Two layers, which share a weight or do not."""

    def __init__(self, *, are_tied: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        if are_tied:
            self.third.weight = self.second.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.third(self.second(self.first(images.flatten(1))))  # type: ignore[no-any-return]


@pytest.mark.usefixtures("large_tiles")
def test_networks_that_differ_in_an_alpha_share_what_was_recorded() -> None:
    data = examples(torch.float32)
    kernels = find_kernels(built(), HOW, loss, data[0])
    rounds = recorded(built(), data, kernels)
    trial(rounds, 0.2, data)
    others = built(partial(small, 0.6))
    assert rounds.take_over(lambda: others, {"slope": 0.6})
    assert torch.equal(trial(rounds, 0.05, data), trial(recorded(others, data, kernels), 0.05, data))


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize(
    ("make", "other"),
    [
        pytest.param(partial(Doubled, 0.1), partial(Doubled, 0.6), id="a layer that computes by itself"),
        pytest.param(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.ELU(0.1)),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.ELU(0.6)),
            id="an activation of PyTorch's",
        ),
        pytest.param(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh()),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Sigmoid()),
            id="a layer",
        ),
        pytest.param(
            lambda: nn.Sequential(nn.BatchNorm2d(1, eps=0.1), nn.Flatten(), nn.Linear(64, 3)),
            lambda: nn.Sequential(nn.BatchNorm2d(1, eps=0.2), nn.Flatten(), nn.Linear(64, 3)),
            id="another number",
        ),
        pytest.param(partial(Looks, 0.1), partial(Looks, 0.6), id="a slope that the network reads"),
        pytest.param(partial(Ties, are_tied=False), partial(Ties, are_tied=True), id="a shared weight"),
        pytest.param(partial(Ties, are_tied=True), partial(Ties, are_tied=False), id="no shared weight"),
    ],
)
def test_networks_that_differ_in_something_else_do_not(
    make: Callable[[], nn.Module], other: Callable[[], nn.Module]
) -> None:
    data = examples(torch.float32)
    kernels = find_kernels(built(make), HOW, loss, data[0])
    assert kernels.fuse is not None, kernels.why_not
    rounds = recorded(built(make), data, kernels)
    before = trial(rounds, 0.05, data)
    assert not rounds.take_over(partial(built, other), {})
    assert torch.equal(trial(rounds, 0.05, data), before)


class Counts(nn.Module):
    """Changes with every step, as an annealed network does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = small(), [0]

    def forward(self, images: Tensor) -> Tensor:
        self.calls[0] += 1
        return self.inner(images) / self.calls[0]  # type: ignore[no-any-return]


def test_a_network_that_changes_in_python_is_not_recorded() -> None:
    with pytest.raises(ValueError, match="changes in Python with each step"):
        recorded(built(Counts), examples(torch.float32), NO_KERNELS)


@pytest.mark.usefixtures("large_tiles")
def test_a_trial_by_the_kernels_is_that_of_pytorch_but_for_rounding() -> None:
    exact, ordinary, ours = (
        trained(torch.float64, by_kernels=False),
        trained(torch.float32, by_kernels=False),
        trained(torch.float32, by_kernels=True),
    )
    assert (ours - exact).abs().max() <= 8 * (ordinary - exact).abs().max()  # sums in another order round differently


def test_where_kernels_compute_something_else_pytorchs_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = built()
    train, _ = examples(torch.float32)
    monkeypatch.setattr(
        "hpo.training.recording.gpu_kernels.fuse", lambda network, precision="": nn.Sequential(network, nn.Tanh())[0:1]
    )
    assert "ours" in find_kernels(networks, HOW, loss, train).why_not
    monkeypatch.setattr("hpo.training.recording.gpu_kernels.missing", lambda device: "Triton is not installed")
    found = find_kernels(networks, HOW, loss, train)
    assert found.fuse is None
    assert found.described == ", by PyTorch's kernels, for Triton is not installed"


class Told:
    """A final test that computes with a number of the network's itself."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def numbers(self, predict: Any, states: Any) -> Tensor:
        return self.slope * torch.stack([next(iter(state.values())).sum() for state in states()])[None]

    def read(self, numbers: Tensor) -> Any:
        return {}, {}


@pytest.mark.usefixtures("large_tiles")
def test_a_final_test_is_of_the_network_that_was_taken_over() -> None:
    data = examples(torch.float32)
    rounds = recorded(built(), data, find_kernels(built(), HOW, loss, data[0]))
    rounds.begin(0.05)
    first = rounds.test_finally(Told(0.1)).clone()
    assert torch.equal(rounds.test_finally(Told(0.1)), first)
    assert rounds.take_over(partial(built, partial(small, 0.6)), {"slope": 0.6})
    rounds.begin(0.05)
    assert torch.allclose(rounds.test_finally(Told(0.6)), 6 * first)
