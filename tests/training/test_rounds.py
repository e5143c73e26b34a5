from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture
from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.batch import of_round, to_device
from hpo.training.cuda_graph import EAGER_STEPS, CudaGraphRounds, Recorder
from hpo.training.optimizers import OPTIMIZERS, TrainingConfig
from hpo.training.rounds import LoopedRounds, Loss, Rounds, StackedRounds
from hpo.training.trainer import build_networks
from hpo.training.ways import fused, make_rounds

SEEDS = [1, 2, 3]
TASK = DigitPairs(dataset="digits", main_weight=0.8, auxiliary_weight=0.2)


def make_networks(architecture: str, *, weight_sharing: bool = True, seeds: Sequence[int] = SEEDS) -> list[nn.Module]:
    activation, build = load_activations()("leaky_relu"), load_architecture(architecture)
    return build_networks(lambda: build(activation, weight_sharing=weight_sharing), seeds)


def config(optimizer: str = "sgd", learning_rate: float = 0.05, batch_size: int = 20) -> TrainingConfig:
    return TrainingConfig(epochs=3, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate)


def loss_of(auxiliary_loss: bool = True) -> Loss:
    return partial(TASK.loss, auxiliary_loss=auxiliary_loss)


def plain_loop(network: nn.Module, pairs: Pairs, auxiliary_loss: bool, how: TrainingConfig, seed: int) -> list[float]:
    """One round as a textbook has it: `torch.optim`, one network, the reports' losses written out."""
    optimizer = getattr(torch.optim, {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam"}[how.optimizer])(
        network.parameters(), lr=how.learning_rate
    )
    generator, losses = torch.Generator().manual_seed(seed), []
    network.train()
    for _ in range(how.epochs):
        order, epoch = torch.randperm(len(pairs.targets), generator=generator), []
        for i in range(0, len(order), how.batch_size):
            j = order[i : i + how.batch_size]
            comparison, digits = network(pairs.images[j])
            loss = functional.cross_entropy(comparison, pairs.targets[j])
            if auxiliary_loss:
                first = functional.cross_entropy(digits[:, 0], pairs.classes[j, 0])
                second = functional.cross_entropy(digits[:, 1], pairs.classes[j, 1])
                loss = 0.8 * loss + 0.2 * (first + second)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            epoch.append(loss.item())
        losses.append(sum(epoch) / len(epoch))
    return losses


@pytest.mark.parametrize(
    ("architecture", "optimizer", "auxiliary_loss"),
    [
        *(("fnn", optimizer, True) for optimizer in OPTIMIZERS),  # which has updates of its own
        *(("fnn", "sgd", False), ("cnn", "adam", True), ("cnn", "sgd", False)),
        *(("cnn_bn", "rmsprop", True), ("cnn_bn", "sgd", True), ("cnn_bn", "adam", False)),
    ],
)
def test_stacked_and_looped_rounds_are_what_a_plain_loop_makes_of_each(
    architecture: str, optimizer: str, auxiliary_loss: bool, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    """In float64, to 1e-6, over 30 steps: losses after every epoch, and the logits of the test pairs at the end."""
    train_pairs, test_pairs = (to_device(pairs, torch.device("cpu"), torch.float64) for pairs in digit_pairs)
    how, loss = config(optimizer, 0.05 if optimizer == "sgd" else 0.003), loss_of(auxiliary_loss)

    def fresh() -> list[nn.Module]:
        return [network.double() for network in make_networks(architecture, weight_sharing=architecture == "cnn_bn")]

    orders = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    shuffles = [torch.stack([torch.randperm(200, generator=g) for g in orders]) for _ in range(how.epochs)]
    ways: list[Rounds] = [StackedRounds(fresh(), how, loss), LoopedRounds(fresh(), how, loss, fused)]
    if architecture == "fnn":
        ways.append(MLPRounds(fresh(), how, (0.8, 0.2) if auxiliary_loss else (1.0, 0.0)))
    plain_networks = fresh()
    plain = [
        plain_loop(network, of_round(train_pairs, r), auxiliary_loss, how, SEEDS[r])
        for r, network in enumerate(plain_networks)
    ]
    with torch.no_grad():
        logits = [network.eval()(test_pairs.images[r]) for r, network in enumerate(plain_networks)]
    expected = (torch.tensor(plain, dtype=torch.float64).T, *map(torch.stack, zip(*logits, strict=True)))
    for way in ways:
        losses = torch.stack([way.train_epoch(train_pairs, order, None) for order in shuffles])
        for actual, wanted in zip((losses, *way.predict(test_pairs.images)), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-6)


class Tape(Recorder):
    """What a CUDA graph does, for a CPU: it does again what it was given, and reads what was there when recorded."""

    def __init__(self) -> None:
        self.ran = self.recorded = self.replayed = 0

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        self.ran += 1
        return function()

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        result = torch.zeros(len(SEEDS))

        def replay() -> Tensor:
            self.replayed += 1
            return result.copy_(function())  # always to the same place

        return replay


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_step_trains_as_an_ordinary_one(optimizer: str, digit_pairs: tuple[Pairs, Pairs]) -> None:
    how, tape = config(optimizer, 0.003, batch_size=30), Tape()  # 200 pairs: six batches and a third of one
    ordinary = StackedRounds(make_networks("cnn_bn"), how, loss_of())
    captured = CudaGraphRounds(make_networks("cnn_bn"), how, loss_of(), tape)
    orders = torch.stack([torch.randperm(200) for _ in SEEDS])
    for _ in range(3):
        ours, theirs = (rounds.train_epoch(digit_pairs[0], orders, None) for rounds in (captured, ordinary))
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(
        captured.predict(digit_pairs[1].images), ordinary.predict(digit_pairs[1].images), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert (tape.ran, tape.recorded, tape.replayed) == (EAGER_STEPS + 3, 1, 3 * 6 - EAGER_STEPS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cuda_graph_trains_as_ordinary_steps(optimizer: str, digit_pairs: tuple[Pairs, Pairs]) -> None:
    """On the last GPU, where a stream of the first would leave the graph empty; an epoch's last batch is short."""
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    how = config(optimizer, 0.003, batch_size=30)
    pairs, test = (to_device(part, device) for part in digit_pairs)
    captured, ordinary = (
        make_rounds([n.to(device) for n in make_networks("cnn_bn")], how, loss_of(), test, SEEDS, captured=way)
        for way in (True, False)
    )
    assert isinstance(captured, CudaGraphRounds)
    orders = torch.stack([torch.randperm(200) for _ in SEEDS]).to(device)
    for _ in range(3):
        torch.testing.assert_close(*(rounds.train_epoch(pairs, orders, None) for rounds in (captured, ordinary)))
    for ours, theirs in zip(captured.predict(test.images), ordinary.predict(test.images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
