"""Which kernels a GPU trains a network with: ours, as far as they compute what its layers do, or PyTorch's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from hpo.kernels.gpu.fuse import fuse, missing
from hpo.training.batch import Batch, each
from hpo.training.optimizers import TrainingConfig
from hpo.training.rounds import Loss, StackedRounds
from hpo.training.ways import computes_as, losses_and_gradients_of

PRECISIONS = {"float32": "tf32x3", "tf32": "tf32", "bfloat16": "bf16"}  # of a training, and of the kernels


@dataclass(frozen=True)
class Kernels:
    """What computes in place of a network's layers.

    Attributes:
        structure: see `StackedRounds`; None leaves the network as it is.
        why_not: why there is none, as a clause.
        tuning: context manager in which the fastest tiles are found.
    """

    structure: nn.Module | None
    why_not: str = ""
    tuning: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def described(self) -> str:
        """What to say of them behind the way of training."""
        return f", by PyTorch's kernels, for {self.why_not}" if self.why_not else ""


def find_kernels(networks: Sequence[nn.Module], config: TrainingConfig, loss: Loss, example: Batch) -> Kernels:
    """Returns the kernels for networks on a GPU: ours, where they come to the same on a few examples of two rounds.

    Args:
        example: a few examples of each round, (R, N, ...).
    """
    device = example[0].device
    if why_not := missing(device if device.type == "cuda" else None):
        return Kernels(None, why_not)
    from hpo.kernels.gpu.tiles import tuning

    two, chosen = each(example, lambda tensor: tensor[[0, -1]]), [networks[0], networks[-1]]

    def stacked(structure: nn.Module | None) -> StackedRounds:
        return StackedRounds(copy.deepcopy(chosen), config, loss, structure)

    try:
        with tuning():
            expected, found = (
                losses_and_gradients_of(stacked(structure), two) for structure in (None, fuse(networks[0]))
            )
            same = computes_as(expected, found)
    except Exception as error:  # whatever a network does with its layers, or a compiler makes of ours
        torch.cuda.synchronize(device) if device.type == "cuda" else None
        return Kernels(None, f"ours fail: {str(error).partition(chr(10))[0] or type(error).__name__}")
    if not same:
        return Kernels(None, "ours compute something else")
    return Kernels(fuse(networks[0], PRECISIONS[config.precision]), tuning=tuning)
