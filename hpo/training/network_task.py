"""What a task brings that trains networks: four functions for one round; `Trainer` makes R rounds of them.

The network is given the first tensor of a batch, loss and errors all of it. Parameters go by name: network and loss are
each given those that their signature names, training takes `optimizer` and `learning_rate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from hpo.study.task import Metric, Params, Round
from hpo.training.batch import Batch


class Split(NamedTuple):
    """The data of one round, tensors of (N, ...) each."""

    train: Batch
    test: Batch
    validation: Batch | None = None


class NetworkTask(Protocol):
    """Networks that are trained, and their errors."""

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


def named_in(function: Callable[..., Any], params: Params, *, skip: int = 0) -> dict[str, Any]:
    """Returns the parameters that a function's signature names.

    Args:
        skip: so many of its first arguments are no parameters.
    """
    names = list(inspect.signature(function).parameters)[skip:]
    return {name: params[name] for name in names if name in params}
