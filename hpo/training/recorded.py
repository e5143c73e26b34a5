"""Networks of one structure whose step and evaluation are recorded once, and replayed for every trial that shares it.

A step of these networks is a hundred kernels of some microseconds each: to launch them one by one takes longer than to
run them. So the step is recorded as a CUDA graph, and so is the evaluation. The step finds its batch itself, counts,
and adds up its loss; the learning rate is a tensor. Nothing is copied to the device in an epoch but the order of its
examples, and nothing is waited for. A trial begins with the structure's first weights copied in, which are the same in
every trial, for seeds belong to rounds, and with the optimizer's state at zero. Trials may even differ in the alphas of
activations that kernels read from the device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from hpo.kernels.plain_state import plain_state
from hpo.training.batch import Batch, join, rows_of, take_rows
from hpo.training.gpu_kernels import NO_KERNELS, Kernels
from hpo.training.network_task import FinalTest, Split
from hpo.training.optimizers import TrainingConfig, make_optimizer
from hpo.training.rounds import GradientNorms, Loss, StackedRounds

NO_NUMBERS: Mapping[str, float] = MappingProxyType({})
WARM_UP_STEPS = 3  # before a step is recorded: libraries choose their kernels, optimizers make their state

Evaluate = Callable[[Any, Batch], Tensor]
"""Reduces the networks' outputs on the test data to the numbers that a measurement is made of."""


class Recorder(Protocol):
    """Records what a function has a device do, to be done again by a single call; everything on one stream.

    Attributes:
        held_bytes: how much of the device's memory the recorded things hold, that nobody else can have.
    """

    held_bytes: int

    @abstractmethod
    def begin(self) -> None:
        """Begins a trial on what was recorded."""

    @abstractmethod
    def end(self) -> None:
        """Ends it, though the device may not have done yet all that it was told."""

    @abstractmethod
    def on_stream(self) -> AbstractContextManager[Any]:
        """Context manager in which the device is told things on the recorder's stream."""

    @abstractmethod
    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Returns what does again, on the same memory, all that a function has the device do, and what that gives."""

    @abstractmethod
    def wait(self) -> None:
        """Waits until the device has done all that it was told on the stream."""


class Streams:
    """A GPU's streams, as many as trials run at once. PyTorch's come round again, so that two trials might share one.

    Args:
        device: the GPU; streams and graphs belong to one, and would silently be the first's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._idle: list[torch.cuda.Stream] = []

    def take(self) -> torch.cuda.Stream:
        """Takes out a stream that nobody uses."""
        return self._idle.pop() if self._idle else torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def give_back(self, stream: torch.cuda.Stream) -> None:
        """Takes a stream in; whoever takes it next waits for what it is still at."""
        self._idle.append(stream)


class CudaRecorder(Recorder):
    """Records CUDA graphs, from a pool of memory of their own; each trial replays them on a stream of its own."""

    def __init__(self, streams: Streams) -> None:
        self._device, self._streams = streams.device, streams
        self._stream = streams.take()
        self._is_mine = True
        self._pool = torch.cuda.graph_pool_handle()
        self.held_bytes = 0

    def begin(self) -> None:  # noqa: D102
        if not self._is_mine:
            before, self._stream, self._is_mine = self._stream, self._streams.take(), True
            self._stream.wait_stream(before)  # a trial that was ended early may have left it at work

    def end(self) -> None:  # noqa: D102
        if self._is_mine:
            self._is_mine = False
            self._streams.give_back(self._stream)

    def on_stream(self) -> AbstractContextManager[Any]:  # noqa: D102
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # for what was made there
        return torch.cuda.stream(self._stream)  # the device too becomes the stream's

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:  # noqa: D102
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        with torch.cuda.stream(here), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):  # here again after
            before = torch.cuda.memory_reserved(self._device)  # by now without what the warm-up has left
            result = function()
            held = torch.cuda.memory_reserved(self._device) - before
        self.held_bytes += held
        return graph.replay, result

    def wait(self) -> None:  # noqa: D102
        self._stream.synchronize()


class RecordedRounds(StackedRounds):
    """Stacked rounds whose step and evaluation are recorded when they are made, and replayed from then on.

    Args:
        train, test: the data of every trial to come, (R, N, ...) each.
        evaluate: what is made of the outputs on the test data, (…, R), while they are on the device.
        key: what trials must share to be trained by these.
        kernels: what to compute with in place of PyTorch's layers.
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
        numbers: Mapping[str, float] = NO_NUMBERS,
    ) -> None:
        super().__init__(networks, config, loss, kernels.fuse(networks[0]) if kernels.fuse else None)
        self.way = f"{RecordedRounds.way}{kernels.described}"
        self.key, self.numbers, self._kernels = key, numbers, kernels
        self._train, self._test, self._evaluate, self._recorder = train, test, evaluate, recorder
        tensors = {**self.parameters, **self.buffers}
        self._first = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        device, (self._count, size) = train[0].device, (train[0].shape[1], config.batch_size)
        dtype = next(iter(self.parameters.values())).dtype
        self._rate = torch.full((), config.learning_rate, device=device, dtype=dtype)
        self.optimizers = [make_optimizer(config, self.parameters.values(), rate=self._rate)]
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
        self._steps = [self._record_steps(order) for order in self._orders]
        self._replay_evaluation, self._numbers = recorder.record(self._measure)
        self._final: tuple[Callable[[], None], Tensor] | None = None

    @property
    def held_bytes(self) -> int:
        """How much of the device's memory they hold."""
        optimizer = [tensor for state in self.optimizers[0].state.values() for tensor in state.values()]
        own = [*self.parameters.values(), *self.buffers.values(), *self._first.values(), *self._orders, *optimizer]
        return self._recorder.held_bytes + sum(t.numel() * t.element_size() for t in own if isinstance(t, Tensor))

    def wait(self) -> None:
        """Waits until the device has done all that it was told of these."""
        self._recorder.wait()

    def is_of(self, split: Split) -> bool:
        """Says whether these train and measure on the very data of a split."""
        return split.train is self._train and split.test is self._test

    def end(self) -> None:
        """Ends a trial: others may use its stream."""
        self._recorder.end()

    @torch.no_grad()
    def take_over(self, networks: Sequence[nn.Module], numbers: Mapping[str, float]) -> bool:
        """Takes over networks for the trials to come, and says whether that can be.

        It can where they differ from the recorded ones in weights alone, and in alphas that kernels read.
        """
        with self.launching():
            fused = self._kernels.fuse and self._kernels.fuse(networks[0])
            if fused is None or not self._kernels.take_alphas(self.structure, fused):
                return False
            for state in stack_module_state(list(networks)):
                for name, tensor in state.items():
                    self._first[name].copy_(tensor)
        self.numbers = numbers
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
            for state in self.optimizers[0].state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()
            self._rate.fill_(learning_rate)
        self.config = replace(self.config, learning_rate=learning_rate)

    def train_epoch(self, data: Batch, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        if data is not self._train or norms is not None:
            raise ValueError("recorded steps train on the data that they were recorded with, and show no gradients")
        self._total.zero_()
        rows, first = rows_of(data, orders), 0
        for order, replay in zip(self._orders, self._steps, strict=True):
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
            test.numbers(self._predict_in_parts, self.states)  # warm-up
            self._final = self._recorder.record(lambda: test.numbers(self._predict_in_parts, self.states))
        replay, numbers = self._final
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
        output = join([self._forward(part) for part in parts], lambda tensors: torch.cat(tensors, dim=1))
        self.structure.train()
        return output
