"""Momentum, decay, schedules, clipping and averages: what `torch.optim` makes of each network alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, OneCycleLR

from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.batch import each, of_round
from hpo.training.recording.recorded import RecordedRounds
from hpo.training.rounds import GradientNorms, LoopedRounds, Rounds, StackedRounds
from hpo.training.updates.config import TrainingConfig
from hpo.training.updates.schedules import rate_factors
from hpo.training.updates.steps import Steps
from hpo.training.ways import fused
from tests.training.test_rounds import SEEDS, Tape, exactly, loss_of, make_networks

PAIRS, BATCH, STEPS = 70, 20, 12  # in each of three epochs three batches, and a half of one
ROUNDS = 2
RATE = 0.05
LONGEST = 0.4  # of a gradient: some are longer, and some are not


def warmed_up(optimizer: Optimizer) -> LRScheduler:
    """A quarter of 12 steps, in which the rate rises to its own."""
    return LinearLR(optimizer, start_factor=1 / 3, total_iters=2)


def warmed_up_cosine(optimizer: Optimizer) -> LRScheduler:
    """The same, and then half a cosine over the nine that are left; PyTorch's scheduler knows its factors."""
    other = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    falling, factors = CosineAnnealingLR(other, T_max=9), [1 / 3, 2 / 3, 1.0]
    for _ in range(9):
        factors.append(float(falling.get_last_lr()[0]))
        other.step()
        falling.step()
    return LambdaLR(optimizer, lambda step: factors[min(step, STEPS - 1)])


class Case(NamedTuple):
    """What a configuration says, and what PyTorch is told for it."""

    says: Mapping[str, Any]
    optimizer: Callable[..., Optimizer] = partial(SGD, lr=RATE)
    schedule: Callable[[Optimizer], LRScheduler] = partial(LambdaLR, lr_lambda=lambda step: 1.0)


SLOW = {"learning_rate": 0.003}
CASES = {
    "momentum": Case({"momentum": 0.8}, partial(SGD, lr=RATE, momentum=0.8)),
    "nesterov": Case({"momentum": 0.8, "nesterov": True}, partial(SGD, lr=RATE, momentum=0.8, nesterov=True)),
    "rmsprop with momentum": Case(
        {"optimizer": "rmsprop", "momentum": 0.5, **SLOW}, partial(RMSprop, lr=0.003, momentum=0.5)
    ),
    "weight decay": Case({"weight_decay": 0.3}, partial(SGD, lr=RATE, weight_decay=0.3)),
    "adam's weight decay": Case(
        {"optimizer": "adam", "weight_decay": 0.3, **SLOW}, partial(Adam, lr=0.003, weight_decay=0.3)
    ),
    "adamw": Case({"optimizer": "adamw", **SLOW}, partial(AdamW, lr=0.003)),  # whose decay is 0.01
    "adamw without decay": Case({"optimizer": "adamw", "weight_decay": 0.0, **SLOW}, partial(Adam, lr=0.003)),
    "warm-up": Case({"warmup": 0.25}, schedule=warmed_up),
    "cosine": Case({"schedule": "cosine"}, schedule=partial(CosineAnnealingLR, T_max=STEPS)),
    "cosine with warm-up": Case({"schedule": "cosine", "warmup": 0.25}, schedule=warmed_up_cosine),
    "one cycle": Case(
        {"schedule": "one_cycle"},
        schedule=partial(OneCycleLR, max_lr=RATE, total_steps=STEPS, cycle_momentum=False),
    ),
    "one cycle, rising for half": Case(
        {"schedule": "one_cycle", "warmup": 0.5, "optimizer": "adam", **SLOW},
        partial(Adam, lr=0.003),
        partial(OneCycleLR, max_lr=0.003, total_steps=STEPS, pct_start=0.5, cycle_momentum=False),
    ),
    "clipping": Case({"gradient_clipping": LONGEST}),
    "averages": Case({"ema_decay": 0.6}),
    "all of it": Case(
        {
            **{"optimizer": "adamw", "schedule": "cosine", "warmup": 0.25, "weight_decay": 0.2, **SLOW},
            **{"gradient_clipping": LONGEST, "ema_decay": 0.95},
        },
        partial(AdamW, lr=0.003, weight_decay=0.2),
        warmed_up_cosine,
    ),
}


def config(case: Case) -> TrainingConfig:
    how = {"optimizer": "sgd", "learning_rate": RATE, **case.says}
    return TrainingConfig(epochs=3, batch_size=BATCH, steps=STEPS, **how)


class Textbook:
    """One network in training: PyTorch's optimizer and scheduler, the average written out."""

    def __init__(self, network: nn.Module, case: Case) -> None:
        self.network, self.case = network, case
        self.optimizer = case.optimizer(network.parameters())
        self.schedule = case.schedule(self.optimizer)
        self.average = copy.deepcopy(network)
        self.done, self.norms = 0, list[float]()

    def epoch(self, pairs: Pairs, order: Tensor) -> float:
        """Trains on pairs in an order; returns the mean loss."""
        total = 0.0
        self.network.train()
        for chosen in torch.split(order, BATCH):
            batch = Pairs(*(tensor[chosen] for tensor in pairs))
            loss = loss_of()(self.network(batch.images), batch)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            if "gradient_clipping" in self.case.says:
                self.norms.append(float(nn.utils.clip_grad_norm_(self.network.parameters(), LONGEST)))
            self.optimizer.step()
            if self.done < STEPS - 1:
                self.schedule.step()
            self._average()
            self.done += 1
            total += loss.item() * len(chosen) / len(order)
        return total

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.case.says.get("ema_decay", 0.0), (1 + self.done) / (10 + self.done))
        own = self.network.state_dict()
        for name, average in self.average.state_dict().items():
            floats = average.is_floating_point()
            average.copy_(decay * average + (1 - decay) * own[name] if floats else own[name])


def fresh(architecture: str) -> list[nn.Module]:
    return [network.double() for network in make_networks(architecture, seeds=SEEDS[:ROUNDS])]


def small(pairs: tuple[Pairs, Pairs]) -> tuple[Pairs, Pairs]:
    train, test = (each(part, lambda tensor: tensor[:ROUNDS, :PAIRS].contiguous()) for part in exactly(pairs))
    return train, test


def read(output: Any, batch: Any) -> Tensor:
    """The outputs of networks as one tensor, (R, N, 22)."""
    comparison, digits = output
    return torch.cat([comparison, digits.flatten(2)], -1)


def ways(architecture: str, how: TrainingConfig, pairs: tuple[Pairs, Pairs]) -> dict[str, Rounds]:
    """All the ways of training; the recorded one has trained another trial before."""
    made: dict[str, Rounds] = {
        "stacked": StackedRounds(fresh(architecture), how, loss_of()),
        "looped": LoopedRounds(fresh(architecture), how, loss_of(), fused),
    }
    if architecture == "fnn":
        made["mlp"] = MLPRounds(fresh(architecture), how, (0.8, 0.2))
    told: dict[str, Any] = {"train": pairs[0], "test": pairs[1], "evaluate": read, "recorder": Tape()}
    recorded = RecordedRounds(fresh(architecture), how, loss_of(), **told)
    recorded.begin(0.02)
    recorded.train_epoch(pairs[0], torch.arange(PAIRS).repeat(ROUNDS, 1), None)
    recorded.evaluate(pairs[1], read)
    recorded.begin(how.learning_rate)
    return {**made, "recorded": recorded}


def close(ours: Tensor, theirs: Tensor, said: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8, msg=lambda text: f"{said}: {text}")


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
@pytest.mark.parametrize("name", CASES)
def test_every_way_of_training_does_what_pytorch_does_to_each_network(
    name: str, architecture: str, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    """In float64; all but the textbook are measured after each epoch, which changes nothing of their training."""
    case, pairs = CASES[name], small(digit_pairs)
    books = [Textbook(network, case) for network in fresh(architecture)]
    draw = torch.Generator().manual_seed(0)
    orders = [torch.stack([torch.randperm(PAIRS, generator=draw) for _ in range(ROUNDS)]) for _ in range(3)]
    losses = torch.tensor(
        [[book.epoch(of_round(pairs[0], r), order[r]) for r, book in enumerate(books)] for order in orders],
        dtype=torch.float64,
    )
    norms = [norm for book in books for norm in book.norms]
    assert not norms or min(norms) < 0.99 * LONGEST < 1.01 * LONGEST < max(norms)  # or clipping would show nothing
    with torch.no_grad():
        outputs = [book.average.eval()(pairs[1].images[r]) for r, book in enumerate(books)]
    expected = read([torch.stack(parts) for parts in zip(*outputs, strict=True)], None)
    for way, rounds in ways(architecture, config(case), pairs).items():
        for epoch, order in enumerate(orders):
            close(rounds.train_epoch(pairs[0], order, None), losses[epoch], f"losses, {way}")
            measured = rounds.evaluate(pairs[1], read)
        close(measured, expected, f"outputs, {way}")
        for state, book in zip(rounds.states(), books, strict=True):
            theirs = book.average.state_dict()
            assert state.keys() == theirs.keys()
            for key, tensor in state.items():
                close(tensor, theirs[key], f"{key}, {way}")


def test_a_network_is_clipped_by_its_own_norm_whatever_shape_its_parameters_have() -> None:
    """Two networks of a matrix and a number each; the norms of the gradients are 5 and 0.5."""
    gradients = [torch.tensor([[[3.0]], [[0.3]]]), torch.tensor([4.0, 0.4])]
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    how = TrainingConfig(epochs=1, batch_size=2, optimizer="sgd", learning_rate=1.0, gradient_clipping=1.0)
    Steps(how, parameters, is_stacked=True).take()
    assert (-parameters[0]).flatten().tolist() == pytest.approx([0.6, 0.3], abs=1e-6)
    assert (-parameters[1]).tolist() == pytest.approx([0.8, 0.4], abs=1e-6)


def test_the_norm_of_a_layer_is_shown_whatever_shape_its_parameters_have() -> None:
    norms = GradientNorms()
    norms.add({"own.weight": torch.tensor([[[3.0]], [[0.3]]]), "own.scale": torch.tensor([4.0, 0.4])})
    assert norms.mean()["own"].tolist() == pytest.approx([5.0, 0.5])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("warmup", [None, 0.0, 0.01, 0.3, 0.999])
def test_a_schedule_has_a_factor_for_each_step_and_none_is_above_one(schedule: str, warmup: float | None) -> None:
    for steps in (*range(1, 30), 1000):
        factors = rate_factors(schedule, steps, warmup)
        if factors is None:
            assert schedule == "constant"
            assert round(steps * (warmup or 0)) == 0
            continue
        assert len(factors) == steps
        assert 0 < max(factors) <= 1
        assert min(factors) >= 0


@pytest.mark.parametrize(("steps", "share"), [(50, 0.3), (47, 0.3), (47, 0.41), (10, 0.9)])
def test_one_cycle_is_pytorchs(steps: int, share: float) -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cycle = OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=share, cycle_momentum=False)
    expected: list[float] = []
    for _ in range(steps):
        expected += map(float, cycle.get_last_lr())
        optimizer.step()
        if len(expected) < steps:
            cycle.step()
    assert rate_factors("one_cycle", steps, share) == pytest.approx(expected, abs=1e-12)


def test_averages_are_put_back_whatever_happens_while_they_are_looked_at() -> None:
    weight = nn.Parameter(torch.zeros(2))
    how = TrainingConfig(epochs=1, batch_size=2, steps=2, optimizer="sgd", learning_rate=1.0, ema_decay=0.5)
    steps = Steps(how, [weight])
    weight.grad = torch.tensor([1.0, 2.0])
    steps.take()
    with suppress(ZeroDivisionError), steps.averaged():
        assert weight.tolist() == pytest.approx([-0.9, -1.8])  # a tenth of what was, for it is the first step
        raise ZeroDivisionError
    assert weight.tolist() == [-1.0, -2.0]
