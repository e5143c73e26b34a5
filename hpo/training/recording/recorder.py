"""Records what a device is told, to be done again by a single call: CUDA graphs, and the streams that they run on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor

MADE_AT_ONCE = 8  # streams, of the 32 that PyTorch has


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
    def reads(self, tensor: Tensor) -> None:
        """Keeps the memory of a tensor, made elsewhere, until the device has done what it was told so far."""

    @abstractmethod
    def on_stream(self) -> AbstractContextManager[Any]:
        """Context manager in which the device is told things on the recorder's stream."""

    @abstractmethod
    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Returns what does again, on the same memory, all that a function has the device do, and what that gives."""

    @abstractmethod
    def wait(self) -> None:
        """Waits until the device has done all that it was told on the stream."""


FAILED: list[Any] = []  # graphs whose recording failed; PyTorch's allocator may look at them for good


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
        if not self._idle:  # several, before others are made that would come between them
            self._idle = [torch.cuda.Stream(self.device) for _ in range(MADE_AT_ONCE)]  # type: ignore[no-untyped-call]
        return self._idle.pop()

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

    def reads(self, tensor: Tensor) -> None:  # noqa: D102
        tensor.record_stream(self._stream)

    def record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:  # noqa: D102
        with _cublas_workspace_of_its_own():
            return self._record(function)

    def _record(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        fault: Exception | None = None
        try:
            # In `here`, which is the stream again afterwards.
            with torch.cuda.stream(here), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                before = torch.cuda.memory_reserved(self._device)  # by now without what the warm-up has left
                try:
                    result = function()
                except Exception as error:
                    fault = error
                    raise
                held = torch.cuda.memory_reserved(self._device) - before
        except Exception:
            FAILED.append(graph)
            if fault is not None:  # in place of what the end of a recording says that has failed
                raise fault from None
            raise
        self.held_bytes += held
        return graph.replay, result

    def wait(self) -> None:  # noqa: D102
        self._stream.synchronize()


@contextmanager
def _cublas_workspace_of_its_own() -> Iterator[None]:
    """Context manager in which what is recorded has a cuBLAS workspace in its own memory.

    PyTorch keeps one for each stream: graphs that were recorded on the same stream would share it, and be replayed on
    others beside each other.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def ended_if_it_fails(recorder: Recorder) -> Iterator[None]:
    """Context manager that ends what was begun on a recorder, where something fails in it."""
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # of a device that does nothing any more
            recorder.wait()
        recorder.end()
        raise
