"""Which kernels a GPU trains a network with: ours, as far as they compute what its layers do, or PyTorch's."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from hpo.errors import WorkError, is_out_of_memory
from hpo.kernels.gpu.fuse import fuse, missing
from hpo.training.batch import Batch, each, tensors_of
from hpo.training.rounds import Loss, StackedRounds
from hpo.training.updates.config import TrainingConfig

ROUNDING = 1e-3  # of the largest number of a tensor
NOISE = 1e-5  # of the largest of all: the gradient of a bias before batch norm is nothing else
PRECISIONS = {"float32": "tf32x3", "tf32": "tf32", "bfloat16": "bf16"}  # of a training, and of the kernels


@dataclass(frozen=True)
class Kernels:
    """What computes in place of a network's layers.

    Attributes:
        fuse: makes what computes in a network's place, see `StackedRounds`; None leaves it as it is.
        why_not: why there is none, as a clause.
        tuning: context manager in which the fastest tiles are found.
        take_alphas: see `layers.take_alphas`.
    """

    fuse: Callable[[nn.Module], nn.Module] | None = None
    why_not: str = ""
    tuning: Callable[[], AbstractContextManager[None]] = nullcontext
    take_alphas: Callable[[nn.Module, nn.Module], bool] = lambda *_: False

    @property
    def described(self) -> str:
        """What to say of them behind the way of training."""
        return f", by PyTorch's kernels, for {self.why_not}" if self.why_not else ""


NO_KERNELS = Kernels()


def find_kernels(networks: Sequence[nn.Module], config: TrainingConfig, loss: Loss, example: Batch) -> Kernels:
    """Returns the kernels for networks on a GPU: ours, where they come to the same in two rounds.

    Args:
        example: the first batch of each round, (R, B, ...): kernels are compiled for these sizes.
    """
    device = example[0].device
    if why_not := missing(device if device.type == "cuda" else None):
        return Kernels(why_not=why_not)
    exact, two = replace(config, precision="float32"), each(example, lambda tensor: tensor[:2])
    try:
        from hpo.kernels.gpu.layers import take_alphas
        from hpo.kernels.gpu.tiles import forgetting, tuning

        with forgetting():
            expected, found = (
                _outcome(StackedRounds(copy.deepcopy(list(networks[:2])), exact, loss, structure), two)
                for structure in (None, fuse(networks[0]))
            )
    except Exception as error:  # whatever a network does with its layers, or a compiler makes of ours
        if is_out_of_memory(error):
            raise
        return Kernels(why_not=f"ours fail: {in_a_line(error)}")
    floor = NOISE * max(_largest(tensor) for tensor in expected)
    if not all(_is_close(*both, floor) for both in zip(expected, found, strict=True)):
        return Kernels(why_not="ours compute something else")
    return Kernels(partial(fuse, precision=PRECISIONS[config.precision]), "", tuning, take_alphas)


def _outcome(rounds: StackedRounds, batch: Batch) -> list[Tensor]:
    """Returns losses, gradients and buffers after a step in training, and the outputs in evaluation."""
    rounds.structure.train()
    losses = rounds.losses(batch)
    torch.autograd.backward(losses.sum())
    gradients = [one.grad for one in rounds.parameters.values() if one.grad is not None]
    return [losses.detach(), *gradients, *rounds.buffers.values(), *tensors_of(rounds.predict(batch[0]))]


def _is_close(expected: Tensor, found: Tensor, floor: float) -> bool:
    """Says whether a tensor is another but for rounding, of which batch norm makes much."""
    within = max(floor, ROUNDING * _largest(expected))
    same = expected.shape == found.shape
    return same and torch.allclose(expected.double(), found.double(), rtol=0, atol=within, equal_nan=True)


def _largest(tensor: Tensor) -> float:
    return tensor.double().nan_to_num(0, 0, 0).abs().max().item() if tensor.numel() else 0.0


@contextmanager
def suppress_failure(device: torch.device) -> Iterator[None]:
    """Context manager for what may fail on a GPU and has another way; not for lack of memory, which says nothing."""
    try:
        yield
    except Exception as error:
        if device.type != "cuda" or is_out_of_memory(error):
            raise
        print(f"{device}: {in_a_line(error)}; another way of training is taken", file=sys.stderr)


@contextmanager
def explain_lost_device(device: torch.device) -> Iterator[None]:
    """Context manager that tells an error of a configuration from one after which a GPU does nothing in this process.

    Raises:
        WorkError: after the latter.
    """
    try:
        yield
    except RuntimeError as error:
        if device.type == "cuda" and not _works(device):
            said = f"{device} fails, and does in all that this process would begin"
            raise WorkError(f"{said}: {in_a_line(error)}") from error
        raise


def _works(device: torch.device) -> bool:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:  # errors of kernels stay with a process
        return False
    return True


def in_a_line(error: Exception) -> str:
    """Returns the first line of what an error says, or its kind."""
    return str(error).partition("\n")[0] or type(error).__name__
