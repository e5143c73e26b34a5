"""The test errors of networks: reduced to a few numbers on their device, and fetched from there at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import vmap

from hpo.study.examples import ExampleOutcomes, joined, summed
from hpo.study.task import Measurement, Metric
from hpo.training.batch import Batch, each, tensors_of
from hpo.training.ensembles import combine, firsts
from hpo.training.network_task import FinalTest, NetworkTask, States


class ErrorMeans:
    """What a measurement says of the errors of R networks.

    Args:
        metrics: the task's.
    """

    def __init__(self, task: NetworkTask, metrics: Sequence[Metric]) -> None:
        self._task, self._metrics = task, metrics

    def numbers(self, output: Any, test: Batch) -> Tensor:
        """Returns (2 M + 1, R) of outputs (R, N, ...): the mean of each metric, whether it is finite; all outputs."""
        examples = vmap(self._task.errors)(output, test)  # metric -> (R, N)
        if set(examples) != {metric.name for metric in self._metrics}:
            known, found = ", ".join(sorted(metric.name for metric in self._metrics)), ", ".join(sorted(examples))
            raise ValueError(f"errors are of {found}, but the metrics are {known}")
        means, finite = [], []
        for metric in self._metrics:
            errors = examples[metric.name].double()
            errors = errors.reshape(len(errors), -1)
            is_finite = errors.isfinite()
            finite.append(is_finite.all(1))
            means.append((errors if metric.worst is None else errors.where(is_finite, metric.worst)).mean(1))
        outputs = [tensor.isfinite().flatten(1).all(1) for tensor in tensors_of(output)]  # (R,) each
        return torch.stack([*means, *(flags.double() for flags in (*finite, torch.stack(outputs).all(0)))])

    def read(self, numbers: Tensor) -> tuple[dict[str, list[float]], list[int]]:
        """Returns metric -> (R,), what is not finite counted as the worst, and the rounds with such an output.

        Raises:
            ValueError: where an error is not finite, and its metric has no worst.
        """
        means, finite = torch.split(numbers, [len(self._metrics), len(self._metrics) + 1])
        for metric, is_finite in zip(self._metrics, finite[:-1], strict=True):
            if metric.worst is None and not bool(is_finite.all()):
                raise ValueError(f"{metric.name} came to something that is not finite, and has no worst to count it as")
        errors = {metric.name: mean.tolist() for metric, mean in zip(self._metrics, means, strict=True)}
        return errors, (finite[-1] == 0).nonzero().flatten().tolist()


MEAN, INFLUENCE, UNKNOWN = range(3)  # what numbers of examples are: errors, by how much they move the error, neither


class ExampleTest(FinalTest):
    """Keeps what became of every test example.

    Args:
        metrics: of the task; an error that is no mean over examples says nothing of them.
        test: the data of all networks.
        members: of which images each round's examples are, (R, N, K).
        size: how many networks a round has.
    """

    def __init__(
        self, task: NetworkTask, metrics: Sequence[Metric], test: Batch, members: npt.NDArray[Any], size: int = 1
    ) -> None:
        is_same = bool((members == members[0]).all())
        self._task, self._metrics, self._inputs, self._size = task, metrics, test[0], size
        self._test = each(test, lambda tensor: firsts(tensor, size))
        self._members = (members[:1] if is_same else members).astype(np.int32)

    def numbers(self, predict: Callable[[Tensor], Any], states: States) -> Tensor:
        """Returns (M (N + 1), R): of each of M metrics how its examples are to be read, and a number of each."""
        output = combine(self._task, predict(self._inputs), self._size)
        errors, find = vmap(self._task.errors)(output, self._test), getattr(self._task, "influences", None)
        moved = vmap(find)(output, self._test) if find else {}
        parts = []
        for metric in self._metrics:
            of_examples = errors[metric.name].double()  # (R, N), or (R,)
            if of_examples.dim() == 2:
                kind, numbers = (
                    MEAN,
                    of_examples if metric.worst is None else of_examples.nan_to_num(*[metric.worst] * 3),
                )
            elif metric.name in moved:
                kind, numbers = INFLUENCE, moved[metric.name].double()
            else:
                kind, numbers = UNKNOWN, of_examples[:, None].expand(-1, self._members.shape[1])
            parts += [torch.full_like(numbers[:, :1], kind).T, numbers.T]
        return torch.cat(parts)

    def read(self, numbers: Tensor) -> tuple[Mapping[str, Sequence[float]], Mapping[str, Any]]:
        """Returns as a detail metric -> examples."""
        kept = {}
        for metric, (kinds, *rows) in zip(self._metrics, numbers.chunk(len(self._metrics)), strict=True):
            of_examples = torch.stack(rows, 1).numpy()  # (R, N)
            if not np.isfinite(of_examples).all() or kinds[0] == UNKNOWN:
                continue
            if kinds[0] == MEAN:
                kept[metric.name] = ExampleOutcomes.of_errors(of_examples, self._members)
            else:
                kept[metric.name] = ExampleOutcomes(summed(of_examples, self._members).astype(np.float32))
        return {}, {"examples": kept}


class Fetched:
    """Numbers on their way from a device, where it was told to; on a CPU they are there at once."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._event: Any = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(numbers.device))

    def is_here(self) -> bool:
        """Says whether they have come."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> Tensor:
        """Returns them, once they have come."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers


def together(each_alone: Sequence[Measurement]) -> Measurement:
    """Returns what rounds that are trained each alone showed after one epoch as one measurement of them all."""
    first = each_alone[0]
    return replace(
        first,
        errors={name: [error for one in each_alone for error in one.errors[name]] for name in first.errors},
        diverged=[r for r, one in enumerate(each_alone) if one.diverged],
        details=_joined([one.details for one in each_alone]),
    )


def _joined(details: Sequence[Any]) -> Any:
    """Returns lists of several rounds one after another, mappings likewise, key by key."""
    if isinstance(details[0], Mapping):
        return {key: _joined([one[key] for one in details]) for key in details[0]}
    if isinstance(details[0], ExampleOutcomes):
        return joined(details)
    if isinstance(details[0], int):  # the same of all
        return details[0]
    return [number for one in details for number in one]
