"""Rounds whose training step is recorded once, as a CUDA graph, and replayed by a single launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hpo.training.batch import Batch, each
from hpo.training.optimizers import TrainingConfig, make_optimizer
from hpo.training.rounds import Loss, StackedRounds

EAGER_STEPS = 3  # before a step is captured: libraries choose their kernels, optimizers make their state


class Recorder(Protocol):
    """Records what a function has a device do, to be done again by a single call."""

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Runs a function where it is going to be recorded."""
        ...

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Returns what does again, on the same memory, all that the function has the device do; it is not run."""
        ...


class CudaRecorder(Recorder):
    """Records a CUDA graph, on the stream on which the function ran before, as PyTorch asks for.

    Args:
        device: the GPU; streams and graphs belong to one, and would silently be the first's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, function: Callable[[], Tensor]) -> Tensor:  # noqa: D102
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # Optimizers warn where they could be captured and are not; these steps only come before.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            result = function()
        current.wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:  # noqa: D102
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, stream=self._stream):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class CudaGraphRounds(StackedRounds):
    """Stacked rounds whose step is recorded after the first few and replayed from then on, by a single launch.

    A step of these networks is a hundred kernels of some microseconds each: to launch them one by one takes longer than
    to run them. The first steps are ordinary ones, and train; recording runs nothing; a replay trains on a batch that
    was copied to where the recorded step reads it. The graph holds the learning rate as a number and belongs to these
    networks alone, so every trial records its own: simpler than one graph for a structure, into which each
    trial's weights, states and rate would have to be copied. A batch of another size, the last of an epoch, is trained
    by an ordinary step.
    """

    way = "stacked, as a CUDA graph"

    def __init__(self, networks: Sequence[nn.Module], config: TrainingConfig, loss: Loss, recorder: Recorder) -> None:
        super().__init__(networks, config, loss)
        parameters = list(self.parameters.values())
        self.optimizers = [make_optimizer(config, parameters, capturable=parameters[0].is_cuda)]
        self._recorder = recorder
        self._eager_steps = 0
        self._batch: Batch | None = None
        self._replay: Callable[[], Tensor] | None = None

    def step(self, batch: Batch) -> Tensor:  # noqa: D102
        ordinary = super().step
        if batch[0].shape[1] != self.config.batch_size or self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            return self._recorder.run(lambda: ordinary(batch))
        if self._replay is None or self._batch is None:
            read = each(batch, Tensor.clone)
            self._replay, self._batch = self._recorder.record(lambda: ordinary(read)), read
        for where, tensor in zip(self._batch, batch, strict=True):
            where.copy_(tensor)
        return self._replay().clone()  # the next replay writes there again
