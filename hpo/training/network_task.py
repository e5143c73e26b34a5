"""What a task brings that trains networks: four functions for one round; `Trainer` makes R rounds of them.

The network is given the first tensor of a batch, loss and errors all of it. Parameters go by name: network and loss are
each given those that their signature names, training takes `optimizer` and `learning_rate`.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hpo.study.task import Metric, Params, Round
from hpo.training.batch import Batch
from hpo.training.randomness import EpochNumbers


class Split(NamedTuple):
    """The data of one round, tensors of (N, ...) each."""

    train: Batch
    test: Batch


States = Callable[[], list[dict[str, Tensor]]]
"""Gives the parameters and buffers of each round's network, by name."""


class FinalTest(Protocol):
    """Measures trained networks of R rounds once, after their last epoch, by more than their test data.

    What it computes depends on a configuration but for its training; on a GPU it is recorded, so nothing may wait.
    """

    @abstractmethod
    def numbers(self, predict: Callable[[Tensor], Any], states: States) -> Tensor:
        """Returns numbers (K, R), on the networks' device, which nobody waits for yet.

        Args:
            predict: maps inputs (R, N, ...) to the networks' outputs, (R, N, ...); of ensembles of M there are R M.
            states: gives the weights of each.
        """

    @abstractmethod
    def read(self, numbers: Tensor) -> tuple[Mapping[str, Sequence[float]], Mapping[str, Any]]:
        """Returns what the numbers say: metric -> (R,), and what else a measurement is to keep."""


class NetworkTask(Protocol):
    """Networks that are trained, and their errors.

    One that has more to look at than its test data brings a method `final_test`, as `DigitPairs` does: its errors are
    those of a trial. One that has validation examples brings `validation`, which returns those of a round as `data`
    returns the test's, and `validation_metrics`. One whose rounds are tested on examples of one set brings
    `test_members`, which returns which of it those of a round are, (N, K), K images each; unless it does, all rounds
    are taken to be tested on different ones. One with an error that is no mean over examples brings `influences`, which
    maps output and batch to metric -> by how much the error grows with each example, per unit of its weight, (N,).

    One that varies its training data from epoch to epoch brings `vary`, which maps the data of R rounds, (R, N, ...)
    each, and the epoch's `EpochNumbers` to data of the same shapes; its further arguments are parameters by name, and
    it is called where a trial has one of them. One whose networks' predictions are not to be averaged as they are
    brings `average`, which maps the outputs of M networks, (M, N, ...), to one of (N, ...). One that has a page to try
    a network on brings `page`, see `pages.make_page`.
    """

    @property
    def network(self) -> Callable[..., nn.Module]:
        """Builds a network of parameters, by name."""

    @property
    def loss(self) -> Callable[..., Tensor]:
        """Maps a network's output, a batch, and parameters by name to the mean loss ()."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The errors that it measures, the objective first."""

    def data(self, round_: Round) -> Split:
        """Returns the data of a round."""

    def errors(self, output: Any, batch: Any) -> Mapping[str, Tensor]:
        """Returns metric -> each example's error (N,), or () for what is no mean of them; NaN counts as the worst."""


def final_test_of(
    task: NetworkTask,
    params: Params,
    rounds: Sequence[Round],
    device: torch.device,
    dtype: torch.dtype,
    *,
    keeps_examples: bool = False,
) -> FinalTest | None:
    """Returns what a task measures of trained networks at the end; None where that is their test data.

    Args:
        keeps_examples: whether what became of each test example is a part of it.
    """
    make: Callable[..., FinalTest | None] | None = getattr(task, "final_test", None)
    return make(params, rounds, device, dtype, keeps_examples=keeps_examples) if make else None


def variation_of(task: NetworkTask, params: Params) -> Callable[[Batch, EpochNumbers], Batch] | None:
    """Returns what varies training data in each epoch of a configuration; None where nothing does."""
    vary: Callable[..., Batch] | None = getattr(task, "vary", None)
    named = named_in(vary, params, skip=2) if vary else {}
    return partial(vary, **named) if vary and named else None


def named_in(function: Callable[..., Any], params: Params, *, skip: int = 0) -> dict[str, Any]:
    """Returns the parameters that a function's signature names.

    Args:
        skip: so many of its first arguments are no parameters.
    """
    names = list(inspect.signature(function).parameters)[skip:]
    return {name: params[name] for name in names if name in params}
