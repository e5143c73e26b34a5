"""Networks of one structure whose step and evaluation are recorded once, and replayed for every trial that shares it.

A step of these networks is a hundred kernels of some microseconds each: to launch them one by one takes longer than to
run them. So the step is recorded as a CUDA graph, and so is the evaluation. The step finds its batch itself, counts,
and adds up its loss; the learning rate is a tensor. Nothing is copied to the device in an epoch but the order of its
examples, and nothing is waited for. A trial begins with the structure's first weights copied in, which are the same in
every trial, for seeds belong to rounds, and with the optimizer's state at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpo.training.batch import Batch, join, take
from hpo.training.gpu_kernels import Kernels
from hpo.training.network_task import Split
from hpo.training.optimizers import TrainingConfig, make_optimizer
from hpo.training.rounds import GradientNorms, Loss, StackedRounds

WARM_UP_STEPS = 3  # before a step is recorded: libraries choose their kernels, optimizers make their state

Evaluate = Callable[[Any, Batch], Tensor]
"""Reduces the networks' outputs on the test data to the numbers that a measurement is made of."""


class Recorder(Protocol):
    """Records what a function has a device do, to be done again by a single call; everything on one stream.

    Attributes:
        held_bytes: how much of the device's memory the recorded things hold, that nobody else can have.
    """

    held_bytes: int

    def on_stream(self) -> AbstractContextManager[Any]:
        """Context manager in which the device is told things on the recorder's stream."""

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Returns what does again, on the same memory, all that a function has the device do, and what that gives."""

    def wait(self) -> None:
        """Waits until the device has done all that it was told on the stream."""


class CudaRecorder(Recorder):
    """Records CUDA graphs, on a stream and from a pool of memory of their own.

    Args:
        device: the GPU; streams and graphs belong to one, and would silently be the first's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self.held_bytes = 0

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
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__(networks, config, loss, kernels.structure if kernels else None)
        self.way = f"{RecordedRounds.way}{kernels.described if kernels else ''}"
        self.key, self._train, self._test, self._evaluate, self._recorder = key, train, test, evaluate, recorder
        tensors = {**self.parameters, **self.buffers}
        self._first = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        device, (self._count, size) = train[0].device, (train[0].shape[1], config.batch_size)
        dtype = next(iter(self.parameters.values())).dtype
        self._rate = torch.full((), config.learning_rate, device=device, dtype=dtype)
        self.optimizers = [make_optimizer(config, self.parameters.values(), rate=self._rate)]
        whole, rest = divmod(self._count, size)
        self._orders = [  # (steps, R, examples of a batch), of the whole batches and of the one that is left
            torch.zeros(steps, self.rounds, examples, dtype=torch.long, device=device)
            for steps, examples in ((whole, size), (1, rest))
            if steps and examples
        ]
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._total = torch.zeros(self.rounds, device=device, dtype=dtype)
        with recorder.on_stream(), kernels.tuning() if kernels else nullcontext():
            for order in self._orders:
                for _ in range(WARM_UP_STEPS):
                    self._step(order)
                    self._at.zero_()
            self._measure()
        self._steps = [self._record_steps(order) for order in self._orders]
        self._replay_evaluation, self._numbers = recorder.record(self._measure)

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

    def launching(self) -> AbstractContextManager[Any]:  # noqa: D102
        return self._recorder.on_stream()

    @torch.no_grad()
    def begin(self, learning_rate: float) -> None:
        """Begins a trial: the first weights and statistics again, the optimizer's state at zero, and its rate."""
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
        first = 0
        for order, replay in zip(self._orders, self._steps, strict=True):
            steps, rounds, examples = order.shape
            part = orders[:, first : first + steps * examples].view(rounds, steps, examples)
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

    def _record_steps(self, order: Tensor) -> Callable[[], None]:
        replay, _ = self._recorder.record(lambda: self._step(order))
        self._at.zero_()  # which a stand-in has counted on
        return replay

    def _step(self, order: Tensor) -> Tensor:
        """Takes the step whose number is counted on the device."""
        chosen = order.index_select(0, self._at)[0]  # (R, B)
        losses = self.step(take(self._train, chosen))
        self._total.add_(losses, alpha=chosen.shape[1] / self._count)
        self._at += 1
        return self._total

    @torch.no_grad()
    def _measure(self) -> Tensor:
        self.structure.eval()
        # In parts as large as a batch of the training: so large are the steps' kernels, and less memory is held.
        parts = torch.split(self._test[0], self.config.batch_size, dim=1)
        output = join([self._forward(part) for part in parts], lambda tensors: torch.cat(tensors, dim=1))
        self.structure.train()
        return self._evaluate(output, self._test)
