"""Ensembles: M networks of a round, each trained for itself, whose predictions are averaged.

They are trained as R M rounds are, on the data of R; what is measured is the mean prediction of each M. The first
member of a round is the network that would be trained alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from hpo.study.task import Params, Round
from hpo.training.batch import join, map_output
from hpo.training.network_task import NetworkTask

ENSEMBLE = "ensemble"  # the parameter: how many networks there are


@dataclass(frozen=True)
class Member(Round):
    """A network of a round: its data are the round's, and what is drawn in its training is its own."""

    member: int = 0

    def training_seed(self, stream: str) -> int:
        """Returns the seed of a stream of its training."""
        return self.seed(f"{stream}, member {self.member}" if self.member else stream)


def size_of(params: Params) -> int:
    """Returns how many networks a round of a configuration has."""
    return int(params.get(ENSEMBLE, 1))


def members_of(rounds: Sequence[Round], size: int) -> Sequence[Round]:
    """Returns the networks of R rounds, those of a round one after another; where each has one, the rounds."""
    if size == 1:
        return rounds
    return [Member(one.number, one.study_seed, member) for one in rounds for member in range(size)]


def by_round(tensor: Tensor, size: int) -> Tensor:
    """Returns what belongs to each round's members: (R M, ...) -> (R, M, ...)."""
    return tensor.reshape(-1, size, *tensor.shape[1:])


def firsts(tensor: Tensor, size: int) -> Tensor:
    """Returns what belongs to each round of what belongs to its members: (R M, ...) -> (R, ...)."""
    return tensor[::size]


def mean_of_members(tensor: Tensor, size: int) -> Tensor:
    """Returns the mean over each round's members: (R M, ...) -> (R, ...)."""
    return by_round(tensor, size).mean(1) if size > 1 else tensor


def combine(task: NetworkTask, output: Any, size: int) -> Any:
    """Returns the predictions of ensembles, by the task's `average` or as means: outputs (R M, ...) -> (R, ...)."""
    if size == 1:
        return output
    return vmap(average_of(task))(map_output(output, lambda tensor: by_round(tensor, size)))


def average_of(task: object) -> Callable[[Any], Any]:
    """Returns what makes one prediction of those of M networks, (M, N, ...) each: the task's, or their mean."""
    own: Callable[[Any], Any] = getattr(task, "average", partial(map_output, function=_mean))
    return own


def _mean(tensor: Tensor) -> Tensor:
    return tensor.mean(0)


class Averaged(nn.Module):
    """Networks whose predictions are averaged."""

    def __init__(self, networks: Sequence[nn.Module], average: Callable[[Any], Any]) -> None:
        super().__init__()
        self.networks, self._average = nn.ModuleList(networks), average

    def forward(self, inputs: Tensor) -> Any:
        """Maps inputs to the mean prediction."""
        return self._average(join([network(inputs) for network in self.networks], torch.stack))


def average_logits(logits: Tensor, dim: int = 0) -> Tensor:
    """Returns the logarithms of the mean probabilities of M members, up to a constant: (M, ..., K) -> (..., K).

    Where a logit of one is infinite, the mean is not a number.
    """
    return torch.logsumexp(torch.log_softmax(logits + 0 * logits, -1), dim)
