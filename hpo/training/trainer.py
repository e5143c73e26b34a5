"""Makes a task of a network task: trains the rounds of a configuration together, and measures their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from hpo.study.definition import Training
from hpo.study.task import Measurement, Metric, Params, Round, metrics_of
from hpo.training.batch import Batch, each, tensors_of
from hpo.training.data import RoundData
from hpo.training.device import CPU, describe_device, find_device
from hpo.training.lr_curve import HIGH, LOW, STEPS, Floats, LRCurve, describe_curve, spaced_rates
from hpo.training.lr_range_test import run_range_test
from hpo.training.network_task import NetworkTask, Split, named_in
from hpo.training.optimizers import TrainingConfig
from hpo.training.randomness import RandomStream
from hpo.training.rounds import GradientNorms, Loss, Rounds
from hpo.training.ways import make_rounds

EXAMPLES = 16  # of each round, on which ways of training are tried


@dataclass(frozen=True)
class Epoch:
    """What one epoch of R rounds showed.

    Attributes:
        number: from 1.
        losses: (R,), mean training loss over the epoch; not finite for a round that diverged.
        output: of the networks on the test data after the epoch, (R, N, ...); None where it was not evaluated.
        gradient_norms: layer -> (R,), the gradient's norm, mean over the epoch's batches; empty unless asked for.
    """

    number: int
    losses: Tensor
    output: Any
    gradient_norms: Mapping[str, Tensor]


class Trainer:
    """Trains networks, one a round, and measures their errors; a `Task`.

    Args:
        keep: what measurements hold besides errors: `losses`, `gradient_norms`.
        stacked: which of the two ways of training; None chooses the faster.
        dtype: of the networks and their data; tests compare ways of training in float64.
    """

    def __init__(
        self,
        task: NetworkTask,
        training: Training,
        device: torch.device = CPU,
        *,
        keep: Collection[str] = (),
        stacked: bool | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.task, self.training = task, training
        self._device, self._keep, self._stacked, self._dtype = device, keep, stacked, dtype
        self._data = RoundData(task, device, dtype)

    @property
    def metrics(self) -> Sequence[Metric]:
        """The task's own."""
        return metrics_of(self.task)

    @property
    def device(self) -> str:
        """The device and its model."""
        return describe_device(self._device)

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Trains a configuration, and yields after every epoch; a round that diverges goes on with what it has."""
        groups = self._data.groups(rounds)
        measured = [self.train(self.prepare(params, group), group) for group in groups]
        yield from measured[0] if len(groups) == 1 else map(_together, zip(*measured, strict=True))

    def prepare(self, params: Params, rounds: Sequence[Round]) -> Rounds:
        """Returns fresh networks of a configuration, each seeded by its round."""
        return self._make_rounds(params, rounds, "weights", captured=not self._keeps_norms)

    def train(self, networks: Rounds, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Trains prepared networks on their rounds' data, and yields after every epoch."""
        split, epochs = self.data(rounds), self.training.epochs
        shuffles = [one.seed("shuffle") for one in rounds]
        evaluate_at = {*self.training.evaluate_at, epochs}
        for epoch in train_epochs(networks, split, epochs, shuffles, evaluate_at, norms=self._keeps_norms):
            details: dict[str, Any] = {}
            if "losses" in self._keep:
                details["losses"] = epoch.losses.tolist()
            if epoch.gradient_norms:
                details["gradient_norms"] = {layer: norms.tolist() for layer, norms in epoch.gradient_norms.items()}
            errors, diverged = self._errors(epoch.output, split.test)
            yield Measurement(epoch.number, epoch.number / epochs, errors, diverged, details)

    def rehearse(self, params: Params, rounds: Sequence[Round]) -> str:
        """Takes a step with the first round's first examples, and measures it; returns how a trial's are trained.

        Raises:
            ValueError: where networks, loss and errors do not fit each other.
        """
        groups = self._data.groups(rounds)
        networks, split = self.prepare(params, groups[0]), self.data(groups[0])
        one, first = self.prepare(params, rounds[:1]), each(split.train, lambda tensor: tensor[:1])
        count, size = first[0].shape[1], self.training.batch_size
        sizes = {min(size, count), count % size or size}  # the last batch of an epoch may be smaller
        for examples in sorted(sizes, reverse=True):
            loss = one.step(each(first, lambda tensor, n=examples: tensor[:, :n]))  # type: ignore[misc]
            if loss.shape != (1,):
                raise ValueError(f"a loss must be one number, but is of shape {tuple(loss.shape[1:])}")
        tests = each(split.test, lambda tensor: tensor[:1])
        errors, _ = self._errors(one.predict(tests[0]), tests)
        known = {metric.name for metric in self.metrics}
        if set(errors) != known:
            raise ValueError(
                f"errors are of {', '.join(sorted(errors))}, but the metrics are {', '.join(sorted(known))}"
            )
        return networks.way if len(groups) == 1 else f"{networks.way}, each round for itself, for their sizes differ"

    def range_test(
        self, params: Params, rounds: Sequence[Round], rates: Floats, watch: Callable[..., Iterable[float]] = iter
    ) -> LRCurve:
        """Makes a learning-rate range test on every round's training data, with networks of its own.

        Args:
            params: a configuration; its learning rate is not used.
            rates: (S,).
            watch: goes through the rates one by one, as a progress bar does.
        """
        known = {**params, "learning_rate": float(rates[0])}
        networks = self._make_rounds(known, rounds, "range test weights", captured=False)
        shuffles = [one.seed("range test shuffle") for one in rounds]
        return run_range_test(networks, self.data(rounds).train, rates, self.training.batch_size, shuffles, watch)

    def find_rate(self, params: Params, rounds: Sequence[Round]) -> dict[str, Any]:
        """Makes the range test that a listed trial leaves its rate to; returns it as JSON has it, `mean` its optimum.

        Raises:
            ValueError: where every round diverged at once.
        """
        curve = self.range_test(params, rounds, spaced_rates(LOW, HIGH, STEPS))
        if math.isnan(curve.mean):
            raise ValueError(f"range test: every round diverged at its first rates, from {LOW:g}")
        return describe_curve(curve, str(params["optimizer"]))

    def data(self, rounds: Sequence[Round]) -> Split:
        """Returns the data of R rounds of one size, (R, N, ...) each, on the device.

        Raises:
            ValueError: where they differ in size.
        """
        return self._data.of(rounds)

    @property
    def _keeps_norms(self) -> bool:
        return "gradient_norms" in self._keep

    def _make_rounds(self, params: Params, rounds: Sequence[Round], stream: str, *, captured: bool) -> Rounds:
        build = partial(self.task.network, **named_in(self.task.network, params))
        config = TrainingConfig(
            epochs=self.training.epochs,
            batch_size=self.training.batch_size,
            optimizer=str(params["optimizer"]),
            learning_rate=float(params["learning_rate"]),
            precision=self.training.precision,
        )
        seeds = [one.seed(stream) for one in rounds]
        networks = [network.to(self._device, self._dtype) for network in build_networks(build, seeds)]
        fast_rounds = getattr(self.task, "fast_rounds", None)
        if fast_rounds is not None and self._stacked is not False:
            fast: Rounds | None = fast_rounds(networks, params, config)
            if fast is not None:
                return fast
        loss: Loss = partial(self.task.loss, **named_in(self.task.loss, params, skip=2))
        example = each(self.data(rounds).train, lambda tensor: tensor[:, :EXAMPLES])
        draws = [one.seed(f"{stream} draws") for one in rounds]
        return make_rounds(networks, config, loss, example, draws, stacked=self._stacked, captured=captured)

    def _errors(self, output: Any, test: Batch) -> tuple[dict[str, list[float]], list[int]]:
        """Returns metric -> (R,), and the rounds with an output that is not finite."""
        if output is None:
            return {}, []
        metrics = {metric.name: metric for metric in self.metrics}
        examples = vmap(self.task.errors)(output, test)  # metric -> (R, N)
        finite = [tensor.isfinite().flatten(1).all(1) for tensor in tensors_of(output)]  # (R,) each
        return (
            {name: _means(errors, metrics[name]) for name, errors in examples.items()},
            torch.stack(finite).all(0).logical_not().nonzero().flatten().tolist(),
        )


def open_trainer(
    task: NetworkTask,
    training: Training,
    device: str,
    rounds: Sequence[Round],
    *,
    keep: Collection[str] = (),
    stacked: bool | None = None,
    is_exact: bool = False,
) -> Trainer:
    """Returns a trainer on the device of a name, the data of its rounds drawn; see `find_device` and `Trainer`.

    Args:
        is_exact: whether it computes in float64.

    Raises:
        RequestError: where this machine has no such device, or the data cannot be read.
    """
    dtype = torch.float64 if is_exact else torch.float32
    trainer = Trainer(task, training, find_device(device), keep=keep, stacked=stacked, dtype=dtype)
    trainer.data(rounds)
    return trainer


def train_epochs(
    networks: Rounds,
    split: Split,
    epochs: int,
    shuffle_seeds: Sequence[int],
    evaluate_at: Collection[int],
    *,
    norms: bool = False,
) -> Iterator[Epoch]:
    """Trains R rounds on their data, all on one device, and yields after every epoch.

    Args:
        shuffle_seeds: R seeds of the order in which a round sees its examples.
        evaluate_at: the epochs after which to look at the test data.
        norms: whether to measure the gradient of every layer.
    """
    inputs = split.train[0]
    shuffles = [torch.Generator().manual_seed(seed) for seed in shuffle_seeds]
    for number in range(1, epochs + 1):
        orders = torch.stack([torch.randperm(inputs.shape[1], generator=g) for g in shuffles])  # (R, N)
        gradient_norms = GradientNorms() if norms else None
        losses = networks.train_epoch(split.train, orders.to(inputs.device), gradient_norms)
        output = networks.predict(split.test[0]) if number in evaluate_at else None
        yield Epoch(number, losses.cpu(), output, gradient_norms.mean() if gradient_norms else {})


def build_networks(build: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """Returns a network for each seed, the same on every device; the global random state stays as it was."""
    networks = []
    for seed in seeds:
        with RandomStream(seed, CPU).drawing():
            networks.append(build())
    return networks


def _together(each_alone: Sequence[Measurement]) -> Measurement:
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
    return [number for one in details for number in one]


def _means(examples: Tensor, metric: Metric) -> list[float]:
    """Returns the rounds' means (R,) of examples' errors (R, ...), what is not finite counted as the worst.

    Raises:
        ValueError: where something is not finite, and the metric has no worst.
    """
    errors = examples.double().reshape(len(examples), -1)
    if metric.worst is None:
        if not bool(errors.isfinite().all()):
            raise ValueError(f"{metric.name} came to something that is not finite, and has no worst to count it as")
        return errors.mean(1).tolist()
    return errors.where(errors.isfinite(), metric.worst).mean(1).tolist()
