"""Networks of one structure whose step and evaluation are recorded once, and replayed for every trial that shares it.

A step of these networks is a hundred kernels of some microseconds each: to launch them one by one takes longer than to
run them. So the step is recorded as a CUDA graph, and so is the evaluation. The step finds its batch itself, counts,
and adds up its loss; the learning rate is a tensor. Nothing is copied to the device in an epoch but the order of its
examples, and nothing is waited for. A trial begins with the structure's first weights copied in, which are the same in
every trial, for seeds belong to rounds, and with the optimizer's state at zero. Trials may even differ in the alphas of
activations that kernels read from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from hpo.kernels.plain_state import plain_state
from hpo.training.batch import Batch, each, join, rows_of, take_rows
from hpo.training.network_task import FinalTest, Split
from hpo.training.recording.gpu_kernels import NO_KERNELS, Kernels, suppress_failure
from hpo.training.recording.recorder import Recorder
from hpo.training.rounds import GradientNorms, Loss, StackedRounds
from hpo.training.updates.config import TrainingConfig
from hpo.training.updates.steps import Steps

NO_NUMBERS: Mapping[str, float] = MappingProxyType({})
WARM_UP_STEPS = 3  # before a step is recorded: libraries choose their kernels, optimizers make their state

STORE_BYTES = 4 * 1024**3
SHARE = 0.25  # of what is free on a GPU: other processes have stores of their own

Evaluate = Callable[[Any, Batch], Tensor]
"""Reduces the networks' outputs on the test data to the numbers that a measurement is made of."""


class RecordedRounds(StackedRounds):
    """Stacked rounds whose step and evaluation are recorded when they are made, and replayed from then on.

    Args:
        train, test: the data of every trial to come, (R, N, ...) each.
        evaluate: what is made of the outputs on the test data, (…, R), while they are on the device.
        key: what trials must share to be trained by these.
        kernels: what to compute with in place of PyTorch's layers.
        varies: whether each epoch brings training data of its own, of the shapes of `train`.
        numbers: parameters of the network in which trials may differ, see `take_over`; name -> value.

    Raises:
        ValueError: where a network changes in Python with each step, which a recorded one would not.
    """

    way = "stacked, as CUDA graphs"

    def __init__(
        self,
        networks: Sequence[nn.Module],
        config: TrainingConfig,
        loss: Loss,
        *,
        train: Batch,
        test: Batch,
        evaluate: Evaluate,
        recorder: Recorder,
        key: Hashable = None,
        kernels: Kernels = NO_KERNELS,
        varies: bool = False,
        numbers: Mapping[str, float] = NO_NUMBERS,
    ) -> None:
        super().__init__(networks, config, loss, kernels.fuse(networks[0]) if kernels.fuse else None)
        self.way = f"{RecordedRounds.way}{kernels.described}"
        self.key, self.numbers, self._kernels = key, numbers, kernels
        self._given, self._test, self._evaluate, self._recorder = train, test, evaluate, recorder
        self._train = each(train, Tensor.clone) if varies else train
        tensors = {**self.parameters, **self.buffers}
        self._first = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        device, (self._count, size) = train[0].device, (train[0].shape[1], config.batch_size)
        dtype = next(iter(self.parameters.values())).dtype
        whole, rest = divmod(self._count, size)
        self._orders = [  # rows of batches, (steps, R, examples), of the whole ones and of the one that is left
            torch.zeros(steps, self.rounds, examples, dtype=torch.long, device=device)
            for steps, examples in ((whole, size), (1, rest))
            if steps and examples
        ]
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._total = torch.zeros(self.rounds, device=device, dtype=dtype)
        with recorder.on_stream(), kernels.tuning():
            self._warm_up(1)
            state = plain_state(self.structure)
            self._warm_up(WARM_UP_STEPS - 1)
        if plain_state(self.structure) != state:
            raise ValueError("the network changes in Python with each step, so a step cannot be recorded")
        self._replay_steps = [self._record_steps(order) for order in self._orders]
        self._replay_evaluation, self._numbers = recorder.record(self._measure)
        self._final: tuple[Callable[[], None], Tensor, FinalTest] | None = None

    def _make_steps(self) -> Steps:
        first = next(iter(self.parameters.values()))
        rate = torch.full((), self.config.learning_rate, device=first.device, dtype=first.dtype)
        return Steps(self.config, self.parameters.values(), self.buffers.values(), is_stacked=True, rate=rate)

    @property
    def held_bytes(self) -> int:
        """How much of the device's memory they hold."""
        optimizer = [tensor for state in self.optimizers[0].state.values() for tensor in state.values()]
        varied = self._train if self._train is not self._given else ()
        own = [*self.parameters.values(), *self.buffers.values(), *self._first.values(), *self._orders, *optimizer]
        own += [*self.steps.averages, *varied]
        return self._recorder.held_bytes + sum(t.numel() * t.element_size() for t in own if isinstance(t, Tensor))

    def wait(self) -> None:
        """Waits until the device has done all that it was told of these."""
        self._recorder.wait()

    def is_of(self, split: Split) -> bool:
        """Says whether these train and measure on the very data of a split."""
        return split.train is self._given and split.test is self._test

    def end(self) -> None:
        """Ends a trial: others may use its stream."""
        self._recorder.end()

    @torch.no_grad()
    def take_over(self, build: Callable[[], Sequence[nn.Module]], numbers: Mapping[str, float]) -> bool:
        """Takes over the networks of another configuration for the trials to come, and says whether that can be.

        It can where they differ from the recorded ones in weights alone, and in alphas that kernels read.
        """
        if self._kernels.fuse is None:
            return False
        self._recorder.begin()
        with self.launching():  # also while they are made: their memory is the stream's
            networks = build()
            parameters, buffers = stack_module_state(list(networks))
            state = parameters | buffers
            if state.keys() != self._first.keys():  # as where two layers share a weight
                return False
            if not self._kernels.take_alphas(self.structure, self._kernels.fuse(networks[0])):
                return False
            for name, tensor in state.items():
                self._first[name].copy_(tensor)
        self.numbers, self._final = numbers, None  # a final test may compute with the numbers themselves
        return True

    def launching(self) -> AbstractContextManager[Any]:  # noqa: D102
        return self._recorder.on_stream()

    @torch.no_grad()
    def begin(self, learning_rate: float) -> None:
        """Begins a trial: the first weights and statistics again, the optimizer's state at zero, and its rate."""
        self._recorder.begin()
        with self.launching():
            for name, tensor in (*self.parameters.items(), *self.buffers.items()):
                tensor.copy_(self._first[name])
            self.steps.begin(learning_rate)
        self.config = replace(self.config, learning_rate=learning_rate)

    def train_epoch(self, data: Batch, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        varies = self._train is not self._given
        if not (varies or data is self._train) or norms is not None:
            raise ValueError("recorded steps train on the data that they were recorded with, and show no gradients")
        for own, new in zip(self._train, data, strict=True) if varies else ():
            self._recorder.reads(new)
            own.copy_(new)
        self._recorder.reads(orders)
        self._total.zero_()
        rows, first = rows_of(data, orders), 0
        for order, replay in zip(self._orders, self._replay_steps, strict=True):
            steps, rounds, examples = order.shape
            part = rows[:, first : first + steps * examples].view(rounds, steps, examples)
            order.copy_(part.transpose(0, 1))
            self._at.zero_()
            for _ in range(steps):
                replay()
            first += steps * examples
        return self._total

    def evaluate(self, test: Batch, evaluate: Evaluate) -> Tensor:  # noqa: D102
        if test is not self._test:
            raise ValueError("a recorded evaluation is of the data that it was recorded with")
        self._replay_evaluation()
        return self._numbers

    @torch.no_grad()
    def test_finally(self, test: FinalTest) -> Tensor:
        """Returns the numbers of a final test, which is the same for all trials of a structure, and recorded once."""
        if self._final is None:
            found = test.numbers(self._predict_in_parts, self.states)  # also a warm-up
            with suppress_failure(self._total.device):
                replay, numbers = self._recorder.record(lambda: test.numbers(self._predict_in_parts, self.states))
                self._final = replay, numbers, test  # whose tensors the graph reads
            return found
        replay, numbers, _ = self._final
        replay()
        return numbers

    def _warm_up(self, times: int) -> None:
        for order in self._orders:
            for _ in range(times):
                self._step(order)
                self._at.zero_()
        self._measure()

    def _record_steps(self, order: Tensor) -> Callable[[], None]:
        replay, _ = self._recorder.record(lambda: self._step(order))
        self._at.zero_()  # which a stand-in has counted on
        return replay

    def _step(self, order: Tensor) -> Tensor:
        """Takes the step whose number is counted on the device."""
        rows = order.index_select(0, self._at)[0]  # (R, B)
        losses = self.step(take_rows(self._train, rows))
        self._total.add_(losses, alpha=rows.shape[1] / self._count)
        self._at += 1
        return self._total

    def _measure(self) -> Tensor:
        return self._evaluate(self._predict_in_parts(self._test[0]), self._test)

    @torch.no_grad()
    def _predict_in_parts(self, inputs: Tensor) -> Any:
        """Maps inputs to outputs in parts as large as a batch: so large are the steps' kernels, and less is held."""
        self.structure.eval()
        parts = torch.split(inputs, self.config.batch_size, dim=1)
        with self.steps.averaged():
            output = join([self._forward(part) for part in parts], lambda tensors: torch.cat(tensors, dim=1))
        self.structure.train()
        return output


def most_bytes(device: torch.device) -> int:
    """Returns how much of a device's memory idle structures may hold in this process."""
    return min(STORE_BYTES, int(SHARE * torch.cuda.mem_get_info(device)[0])) if device.type == "cuda" else STORE_BYTES


class Store:
    """Recorded structures that no trial uses now, the one that was used last at the end.

    A trial takes one and gives it back: no two trials can share its memory at a time, so that there may be several of
    one structure.

    Args:
        most_bytes: of the device's memory that they may hold together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._idle: list[RecordedRounds] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, key: Hashable, numbers: Mapping[str, float]) -> RecordedRounds | None:
        """Takes out a structure of this key, one of these numbers rather than of others; None where there is none."""
        places = [place for place, one in enumerate(self._idle) if one.key == key]
        return self._idle.pop(max(places, key=lambda at: (self._idle[at].numbers == numbers, at))) if places else None

    def give_back(self, recorded: RecordedRounds) -> None:
        """Takes a structure in, and lets the oldest go while all together hold too much; the last stays."""
        recorded.end()
        self._idle.append(recorded)
        while len(self._idle) > 1 and sum(one.held_bytes for one in self._idle) > self._most_bytes:
            self._drop_oldest()

    def discard(self, recorded: RecordedRounds) -> None:
        """Lets one go that was taken."""
        recorded.wait()
        recorded.end()

    def clear(self) -> None:
        """Lets all go."""
        while self._idle:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with suppress(RuntimeError):  # of a device that does nothing any more
            self._idle[0].wait()  # a trial that was ended early may have left it at work
        del self._idle[0]
