from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
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
from hpo.training.device import find_device
from hpo.training.preparation import build_networks
from hpo.training.recording.recorded import RecordedRounds, Store
from hpo.training.recording.recorder import CudaRecorder, Recorder, Streams
from hpo.training.rounds import LoopedRounds, Loss, Rounds, StackedRounds
from hpo.training.updates.config import TrainingConfig
from hpo.training.updates.optimizers import OPTIMIZERS
from hpo.training.ways import fused
from tests.training.narrow import narrowed

SEEDS = [1, 2, 3]
TASK = DigitPairs(dataset="digits", main_weight=0.8, auxiliary_weight=0.2)


def make_networks(architecture: str, *, weight_sharing: bool = True, seeds: Sequence[int] = SEEDS) -> list[nn.Module]:
    """Networks of an architecture; convolutions are of four channels."""
    activation, build = load_activations()("leaky_relu"), load_architecture(architecture)

    def make() -> nn.Module:
        network = build(activation, weight_sharing=weight_sharing)
        return network if architecture == "fnn" else narrowed(network, channels=4)

    return build_networks(make, seeds)


def config(optimizer: str = "sgd", learning_rate: float = 0.05, batch_size: int = 20) -> TrainingConfig:
    return TrainingConfig(epochs=3, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate)


def loss_of(auxiliary_loss: bool = True) -> Loss:
    return partial(TASK.loss, auxiliary_loss=auxiliary_loss)


def plain_loop(network: nn.Module, pairs: Pairs, auxiliary_loss: bool, how: TrainingConfig, seed: int) -> list[float]:
    """One round as a textbook has it: `torch.optim`, one network, the reports' losses written out."""
    kinds = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
    optimizer = getattr(torch.optim, kinds[how.optimizer])(network.parameters(), lr=how.learning_rate)
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

    def __init__(self, held_bytes: int = 0) -> None:
        self.recorded = self.replayed = 0
        self.held_bytes = held_bytes
        self.told: list[str] = []

    def begin(self) -> None:
        pass

    def end(self) -> None:
        self.told.append("end")

    def reads(self, tensor: Tensor) -> None:
        pass

    def on_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        result = function().clone()  # a graph would only take note; a trial begins anew anyway

        def replay() -> None:
            self.replayed += 1
            result.copy_(function())  # always to the same place

        return replay, result

    def wait(self) -> None:
        self.told.append("wait")


def exactly(pairs: tuple[Pairs, Pairs]) -> tuple[Pairs, Pairs]:
    train, test = (to_device(part, torch.device("cpu"), torch.float64) for part in pairs)
    return train, test


def recorded_rounds(
    how: TrainingConfig, pairs: tuple[Pairs, Pairs], tape: Tape, *, varies: bool = False
) -> RecordedRounds:
    networks = [network.double() for network in make_networks("cnn_bn")]
    return RecordedRounds(
        networks,
        how,
        loss_of(),
        train=pairs[0],
        test=pairs[1],
        evaluate=lambda output, test: output[0],
        recorder=tape,
        varies=varies,
    )


def test_recorded_rounds_hold_their_averages_too_and_data_that_vary(digit_pairs: tuple[Pairs, Pairs]) -> None:
    pairs, how = exactly(digit_pairs), config("sgd", 0.01)
    plain = recorded_rounds(how, pairs, Tape(100))
    assert recorded_rounds(how, pairs, Tape(200)).held_bytes == plain.held_bytes + 100
    data = sum(tensor.nbytes for tensor in pairs[0])
    assert recorded_rounds(how, pairs, Tape(100), varies=True).held_bytes == plain.held_bytes + data
    averaged = recorded_rounds(replace(how, ema_decay=0.9), pairs, Tape(100))
    states = sum(tensor.nbytes for state in plain.states() for tensor in state.values() if tensor.is_floating_point())
    assert averaged.held_bytes == plain.held_bytes + states


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_trial_is_an_ordinary_one_whatever_was_trained_before(
    optimizer: str, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    pairs = exactly(digit_pairs)
    how, tape = config(optimizer, 0.003, batch_size=30), Tape()  # 200 pairs: six batches and a third of one
    recorded = recorded_rounds(replace(how, learning_rate=0.01), pairs, tape)
    orders = [torch.stack([torch.randperm(200) for _ in SEEDS]) for _ in range(3)]
    for rate in (0.03, 0.003):
        recorded.begin(rate)
        ordinary = StackedRounds(
            [network.double() for network in make_networks("cnn_bn")], replace(how, learning_rate=rate), loss_of()
        )
        for order in orders:
            ours, theirs = (rounds.train_epoch(pairs[0], order, None).clone() for rounds in (recorded, ordinary))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        ours = recorded.evaluate(pairs[1], lambda output, test: output[0])
        torch.testing.assert_close(ours, ordinary.predict(pairs[1].images)[0], rtol=0, atol=1e-9)
        for state, expected in zip(recorded.states(), ordinary.states(), strict=True):
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-9)
    assert (tape.recorded, tape.replayed) == (3, 2 * (3 * 7 + 1))


def test_recorded_steps_are_of_one_set_of_data(digit_pairs: tuple[Pairs, Pairs]) -> None:
    pairs = exactly(digit_pairs)
    recorded = recorded_rounds(config("sgd", 0.1, batch_size=100), pairs, Tape())
    with pytest.raises(ValueError, match="the data that they were recorded with"):
        recorded.train_epoch(pairs[1], torch.zeros(len(SEEDS), 200, dtype=torch.long), None)
    with pytest.raises(ValueError, match="the data that it was recorded with"):
        recorded.evaluate(pairs[0], lambda output, test: output[0])


def test_a_store_keeps_what_was_used_last_within_its_bound(digit_pairs: tuple[Pairs, Pairs]) -> None:
    pairs = exactly(digit_pairs)
    made = [recorded_rounds(config("sgd", 0.1, batch_size=200), pairs, Tape(10**9)) for _ in range(4)]
    for key, one in zip("abca", made, strict=True):
        one.key = key
    store = Store(int(3.5e9))
    for one in made[:3]:
        store.give_back(one)
    assert store.take("a", {}) is made[0]
    assert store.take("a", {}) is None  # it is in use
    store.give_back(made[0])
    store.give_back(made[3])  # a second of its kind, and the fourth: the oldest goes
    assert store.take("b", {}) is None
    assert store.take("a", {}) is made[3]  # the one that was used last
    assert store.take("a", {}) is made[0]
    assert (store.take("c", {}), len(store)) == (made[2], 0)
    small = Store(1)
    small.give_back(made[0])
    assert small.take("a", {}) is made[0]  # one may always stay
    for one, alpha in zip(made[:3], (0.1, 0.2, 0.3), strict=True):
        one.key, one.numbers = "a", {"alpha": alpha}
        store.give_back(one)
    assert [store.take("a", {"alpha": alpha}) for alpha in (0.2, 0.7, 0.1)] == [made[1], made[2], made[0]]
    store.give_back(made[0])
    store.clear()
    assert len(store) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cuda_graph_trains_as_ordinary_steps(optimizer: str, digit_pairs: tuple[Pairs, Pairs]) -> None:
    """On the last GPU, where a stream of the first would leave the graph empty; an epoch's last batch is short.

    What rounding makes of so many steps is seen between float32 and float64: recorded steps are as near to the latter
    as ordinary ones, but for a factor that leaves room for another order of sums.
    """
    device = find_device(f"cuda:{torch.cuda.device_count() - 1}")  # deterministic
    how, orders = config(optimizer, 0.003, batch_size=30), torch.stack([torch.randperm(200) for _ in SEEDS]).to(device)

    def trained(dtype: torch.dtype, *, is_recorded: bool = False) -> Tensor:
        train, test = (to_device(part, device, dtype) for part in digit_pairs)
        networks = [network.to(device, dtype) for network in make_networks("cnn_bn")]
        rounds: StackedRounds = StackedRounds(networks, how, loss_of())
        if is_recorded:
            rounds = RecordedRounds(
                *(networks, how, loss_of()),
                train=train,
                test=test,
                evaluate=lambda output, test: output[1],
                recorder=CudaRecorder(Streams(device)),
            )
            rounds.begin(how.learning_rate)
        with rounds.launching():
            losses = [rounds.train_epoch(train, orders, None).clone() for _ in range(3)]
            digits = rounds.evaluate(test, lambda output, test: output[1]).clone()
        torch.cuda.synchronize(device)
        return torch.cat([*losses, digits.flatten()]).double()

    exact, ordinary, recorded = (
        trained(torch.float64), trained(torch.float32), trained(torch.float32, is_recorded=True)
    )  # fmt: skip
    assert (recorded - exact).abs().max() <= 4 * (ordinary - exact).abs().max()
    assert torch.equal(recorded, trained(torch.float32, is_recorded=True))
