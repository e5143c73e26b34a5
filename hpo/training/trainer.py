"""Makes a task of a network task: trains the rounds of a configuration together, and measures their errors."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpo.provenance import time_text, versions
from hpo.study.task import Launched, Measurement, Metric, Params, Round, metrics_of
from hpo.study.training import NOT_OF_RANGE_TESTS, Training
from hpo.training.batch import Batch, each
from hpo.training.data import KeptOrders, RoundData
from hpo.training.device import CPU, describe_device, find_device
from hpo.training.ensembles import combine, firsts, mean_of_members, members_of, size_of
from hpo.training.lr_curve import HIGH, LOW, STEPS, Floats, LRCurve, describe_curve, spaced_rates
from hpo.training.lr_range_test import run_range_test
from hpo.training.measured import ErrorMeans, ExampleTest, Fetched, together
from hpo.training.network_task import FinalTest, NetworkTask, Split, final_test_of, variation_of
from hpo.training.preparation import Preparation
from hpo.training.randomness import EpochNumbers
from hpo.training.recording.gpu_kernels import explain_lost_device, in_a_line
from hpo.training.recording.recorded import RecordedRounds
from hpo.training.recording.recorder import Recorder
from hpo.training.rounds import GradientNorms, Rounds
from hpo.training.together import most_together

RATE_TO_TRY = 0.01  # with which it is found out how many train fastest together: any will do


class Trainer:
    """Trains networks, one a round, and measures their errors; a `Task`.

    Args:
        keep: what measurements hold besides errors: `losses`, `gradient_norms`, `examples`.
        select_on: which examples trials are measured on, see `Protocol`.
        stacked: which of the two ways of training; None chooses the faster.
        dtype: of the networks and their data; tests compare ways of training in float64.
        recorder: makes what records steps; None takes CUDA graphs on a GPU, and none on a CPU.
    """

    def __init__(
        self,
        task: NetworkTask,
        training: Training,
        device: torch.device = CPU,
        *,
        keep: Collection[str] = (),
        select_on: str = "test",
        stacked: bool | None = None,
        dtype: torch.dtype = torch.float32,
        recorder: Callable[[], Recorder] | None = None,
    ) -> None:
        self.task, self.training = task, training
        self._device, self._keep = device, keep
        self._select_on = select_on
        self._data = RoundData(task, device, dtype, select_on)
        self._means = ErrorMeans(task, self.metrics)
        self._orders = KeptOrders(device)
        self._networks = Preparation(
            *(task, training, self._data, self._evaluate_by),
            stacked=stacked,
            recorder=recorder,
            can_record=not self._keeps_norms,
        )

    @property
    def metrics(self) -> Sequence[Metric]:
        """The task's own."""
        return metrics_of(self.task, self._select_on)

    @property
    def device(self) -> str:
        """The device and its model."""
        return describe_device(self._device)

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Trains a configuration, and yields after every epoch; a round that diverges goes on with what it has.

        On a GPU it yields `Launched`, too, before it would wait for the errors.
        """
        with explain_lost_device(self._device):
            groups = self._data.groups(rounds)
            if len(groups) == 1:
                yield from self._train(self.prepare(params, groups[0]), params, groups[0])
                return
            yield from map(together, zip(*(self._alone(params, group) for group in groups), strict=True))

    def _alone(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        yield from self.train(self.prepare(params, rounds), params, rounds)

    def at_once(self, asked: int | None, params: Params, rounds: Sequence[Round]) -> int:
        """Returns how many trials to run at once: on a GPU as many as are asked for, or as train fastest together.

        Args:
            params: a configuration to try that with.
        """
        if not self._networks.can_record or len(self._data.groups(rounds)) > 1:
            return 1
        known = {**params, "learning_rate": RATE_TO_TRY}
        several: list[RecordedRounds] = []
        try:
            first = self.prepare(known, rounds)
            if not isinstance(first, RecordedRounds):
                return 1
            several.append(first)
            train = self.data(members_of(rounds, size_of(params))).train
            return asked or most_together(several, lambda: self.prepare(known, rounds), train)
        except Exception as error:  # whatever it is, a trial shows it, as its own
            print(f"{self._device}: one trial at once, for {in_a_line(error)}", file=sys.stderr)
            return 1
        finally:
            for one in several:
                self._networks.give_back(one)

    def prepare(self, params: Params, rounds: Sequence[Round]) -> Rounds:
        """Returns networks of a configuration at the beginning of a trial, each seeded by its round.

        Those of an ensemble are rounds of their own, see `members_of`.
        """
        return self._networks.prepare(params, members_of(rounds, size_of(params)))

    def train(self, networks: Rounds, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Trains networks that were prepared for a configuration, and yields after every epoch."""
        return (one for one in self._train(networks, params, rounds) if not isinstance(one, Launched))

    def _train(self, networks: Rounds, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        size, config = size_of(params), networks.config
        members = members_of(rounds, size)
        split = self.data(members)
        orders = self._orders.of(members, split.train[0].shape[1], config.epochs)
        steps, vary = self.training.steps_of(config.epochs), variation_of(self.task, params)
        try:
            for epoch in range(1, config.epochs + 1):
                norms = GradientNorms() if self._keeps_norms else None
                order = orders.of(epoch)
                with networks.launching():
                    train = vary(split.train, self._numbers(members, epoch)) if vary else split.train
                    losses = mean_of_members(networks.train_epoch(train, order, norms).double(), size)
                    parts = [networks.evaluate(split.test, self._evaluate_by(params))] if epoch in steps else []
                    wanted = [losses[None], *parts] if "losses" in self._keep else parts
                    fetched = Fetched(torch.cat(wanted)) if wanted else None
                step = steps.get(epoch, max(1, epoch * self.training.epochs // config.epochs))
                if fetched and not fetched.is_here():
                    yield Launched(step, None, {}, is_done=fetched.is_here)
                details, errors, diverged = self._read(fetched, norms, size, is_evaluated=epoch in steps)
                measured = Measurement(step, epoch / config.epochs, errors, diverged, details)
                is_last = epoch == config.epochs
                yield (yield from self._finally(networks, params, rounds, measured)) if is_last else measured
        finally:
            self._networks.give_back(networks)

    def _evaluate_by(self, params: Params) -> Callable[[Any, Batch], Tensor]:
        """Returns what makes numbers of a configuration's outputs: for an ensemble, of its mean predictions."""
        size = size_of(params)
        return lambda output, test: self._means.numbers(
            combine(self.task, output, size), each(test, lambda tensor: firsts(tensor, size))
        )

    def _numbers(self, rounds: Sequence[Round], epoch: int) -> EpochNumbers:
        return EpochNumbers(rounds, epoch, self._data.device, self._data.dtype)

    def _finally(
        self, networks: Rounds, params: Params, rounds: Sequence[Round], measured: Measurement
    ) -> Generator[Measurement, None, Measurement]:
        """Returns what is known after the last epoch, with the errors of the task's final test, if any."""
        count = {"parameters": size_of(params) * networks.parameter_count}
        measured = replace(measured, details={**measured.details, **count})
        if self._select_on != "test" or (test := self._final_test(params, rounds)) is None:
            return measured
        with networks.launching():
            fetched = Fetched(networks.test_finally(test))
        if not fetched.is_here():
            yield Launched(measured.step, None, {}, is_done=fetched.is_here)
        errors, details = test.read(fetched.wait())
        return replace(measured, errors={**measured.errors, **errors}, details={**measured.details, **details})

    def _final_test(self, params: Params, rounds: Sequence[Round]) -> FinalTest | None:
        """Returns what is measured after the last epoch besides the errors on test data, if anything is."""
        keeps_examples, size = "examples" in self._keep, size_of(params)
        device, dtype = self._data.device, self._data.dtype
        own = final_test_of(self.task, params, rounds, device, dtype, keeps_examples=keeps_examples)
        find_members: Callable[[Round], Any] | None = getattr(self.task, "test_members", None)
        if own is None and keeps_examples and find_members is not None:
            test = self.data(members_of(rounds, size)).test
            own = ExampleTest(self.task, self.metrics, test, np.stack([*map(find_members, rounds)]), size)
        return own

    def _read(
        self, fetched: Fetched | None, norms: GradientNorms | None, size: int, *, is_evaluated: bool
    ) -> tuple[dict[str, Any], Mapping[str, Sequence[float]], Sequence[int]]:
        """Returns what an epoch has shown: details, errors, and the rounds that diverged."""
        numbers = fetched.wait() if fetched else torch.empty(0)
        details: dict[str, Any] = {}
        if "losses" in self._keep:
            details["losses"], numbers = numbers[0].tolist(), numbers[1:]
        if norms:
            means = norms.mean().items()
            details["gradient_norms"] = {layer: mean_of_members(mean, size).tolist() for layer, mean in means}
        errors, diverged = self._means.read(numbers) if is_evaluated else ({}, [])
        return details, errors, diverged

    def rehearse(self, params: Params, rounds: Sequence[Round]) -> str:
        """Takes a step with the first round's first examples, and measures it; returns how a trial's are trained.

        Raises:
            ValueError: where networks, loss and errors do not fit each other.
        """
        groups = self._data.groups(rounds)
        networks, split = self._networks.fresh(params, groups[0]), self.data(groups[0])
        one, first = self._networks.fresh(params, rounds[:1]), each(split.train, lambda tensor: tensor[:1])
        if vary := variation_of(self.task, params):
            varied = vary(first, self._numbers(rounds[:1], 1))
            if [one.shape for one in varied] != [one.shape for one in first]:
                raise ValueError("vary must leave the shapes of its data as they are")
        count, size = first[0].shape[1], one.config.batch_size
        sizes = {min(size, count), count % size or size}  # the last batch of an epoch may be smaller
        for examples in sorted(sizes, reverse=True):
            loss = one.step(each(first, lambda tensor, n=examples: tensor[:, :n]))  # type: ignore[misc]
            if loss.shape != (1,):
                raise ValueError(f"a loss must be one number, but is of shape {tuple(loss.shape[1:])}")
        tests = each(split.test, lambda tensor: tensor[:1])
        self._means.read(one.evaluate(tests, self._means.numbers).cpu())
        way = self._networks.way_of(networks)
        return way if len(groups) == 1 else f"{way}, each round for itself, for their sizes differ"

    def range_test(
        self, params: Params, rounds: Sequence[Round], rates: Floats, watch: Callable[..., Iterable[float]] = iter
    ) -> LRCurve:
        """Makes a learning-rate range test on every round's training data, with networks of its own.

        Args:
            params: a configuration; its learning rate is not used.
            rates: (S,).
            watch: goes through the rates one by one, as a progress bar does.
        """
        known = {name: of for name, of in params.items() if name not in NOT_OF_RANGE_TESTS}
        networks = self._networks.fresh({**known, "learning_rate": float(rates[0])}, rounds, "range test weights")
        shuffles = [one.seed("range test shuffle") for one in rounds]
        return run_range_test(networks, self.data(rounds).train, rates, networks.config.batch_size, shuffles, watch)

    def find_rate(self, params: Params, rounds: Sequence[Round]) -> dict[str, Any]:
        """Makes the range test that a listed trial leaves its rate to; returns it as JSON has it, `mean` its optimum.

        With it stand the device, the versions and the date (UTC) of the measurement.

        Raises:
            ValueError: where every round diverged at once.
        """
        curve = self.range_test(params, rounds, spaced_rates(LOW, HIGH, STEPS))
        if math.isnan(curve.mean):
            raise ValueError(f"range test: every round diverged at its first rates, from {LOW:g}")
        described = describe_curve(curve, str(params["optimizer"]))
        return {**described, "device": self.device, "versions": versions(), "measured": time_text()}

    def data(self, rounds: Sequence[Round]) -> Split:
        """Returns the data of R rounds of one size, (R, N, ...) each, on the device.

        Raises:
            ValueError: where they differ in size.
        """
        return self._data.of(rounds)

    @property
    def _keeps_norms(self) -> bool:
        return "gradient_norms" in self._keep


def open_trainer(
    task: NetworkTask,
    training: Training,
    device: str,
    rounds: Sequence[Round],
    *,
    keep: Collection[str] = (),
    select_on: str = "test",
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
    how: dict[str, Any] = {"keep": keep, "select_on": select_on, "stacked": stacked, "dtype": dtype}
    trainer = Trainer(task, training, find_device(device), **how)
    trainer.data(rounds)
    return trainer
