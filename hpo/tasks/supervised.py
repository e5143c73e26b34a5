"""A network on your examples: what a classification and a regression share. Importing this does not import torch.

    [task]
    name = "classification"
    network = "tiny.py:TinyNet"
    data = "digits.npz"

Every round draws its own examples from those that there are, for training and for testing; where the data has a test
set of its own, that stays as it is. Inputs, and targets of a regression, are standardised by the training examples of
the round: mean 0 and deviation 1, each feature for itself, or each channel of an image.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hpo.errors import DatasetError, StudyError
from hpo.study.code import load
from hpo.study.references import NETWORKS, Reference, Sources, find_model, parse_reference
from hpo.study.schema import Count, Table, Words
from hpo.study.task import Metric, Round
from hpo.tasks.arrays import Examples, read_examples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hpo.training.batch import Batch
    from hpo.training.network_task import Split

TEST_SHARE = 0.2  # of the examples, unless the study says how many
GIVEN = ("input_shape", "outputs")  # keywords of a network that the task gives it, where it asks for them


class SupervisedSettings(Table):
    """What a study says of a classification or a regression.

    Attributes:
        network: a class, or a function that builds networks, as `tiny.py:TinyNet`; a name of `models/`, or of ours.
        data: see arrays.py.
        target: the column of a CSV file that is to be told from the others.
        train_examples, test_examples: that each round draws for itself; by default a fifth tests, and the rest trains.
        validation_examples: that it draws besides, of what it neither trains nor is tested on.
        standardize: whether inputs are.
    """

    network: Words
    data: Words
    target: Words | None = None
    train_examples: Count | None = None
    test_examples: Count | None = None
    validation_examples: Count | None = None
    standardize: bool = True


class Supervised:
    """A network that is trained on examples; a `NetworkTask` but for its loss and its errors."""

    def __init__(self, settings: SupervisedSettings, build: Callable[..., Any], sources: Sources) -> None:
        self.settings = settings
        self._examples = read_examples(settings.data, settings.target, sources)
        self.dataset, self.data_sha256 = settings.data, self._examples.sha256
        self.train_examples, self.test_examples = _sizes(settings, self._examples)
        self._y = self.targets(self._examples)
        self._kept: Split | None = None  # where it is the same in every round
        self.given = {"input_shape": list(self._examples.x.shape[1:]), "outputs": self.outputs}
        self.network = NetworkOf(build, self.given)

    @classmethod
    def configure(cls, settings: Mapping[str, Any], sources: Sources) -> tuple[Self, dict[str, Any], list[Reference]]:
        """Returns a task of these settings, its settings with every default, and the code that it is made of.

        Raises:
            ValidationError: where a setting breaks a rule.
            RequestError: where the network may not be opened, or the data cannot be read.
        """
        chosen = SupervisedSettings.model_validate(dict(settings))
        build, reference = _load_network(chosen, sources)
        settings = {**chosen.model_dump(mode="json"), "network": str(reference or chosen.network)}
        if chosen.validation_examples is None:
            del settings["validation_examples"]
        return cls(chosen, build, sources), settings, [reference] if reference else []

    @classmethod
    def rebuild(cls, settings: Mapping[str, Any], given: Mapping[str, Any], sources: Sources) -> NetworkOf:
        """Returns what builds networks of these settings, without the data."""
        build, _ = _load_network(SupervisedSettings.model_validate(dict(settings)), sources)
        return NetworkOf(build, given, getattr(cls, "average", None))

    @property
    def outputs(self) -> int:
        """How many numbers a network is to give for each example."""
        raise NotImplementedError

    @property
    def metrics(self) -> Sequence[Metric]:
        """The errors that it measures, the objective first."""
        raise NotImplementedError

    @property
    def validation_metrics(self) -> Sequence[Metric]:
        """The same of examples that are not the test's.

        Raises:
            ValueError: where there are none.
        """
        count = self.settings.validation_examples
        if count is None:
            raise ValueError("select_on = 'validation' needs validation_examples, how many each round draws")
        return [
            replace(one, title=one.title.replace("test", "validation"), resolution=one.resolution and 100 / count)
            for one in self.metrics
        ]

    def targets(self, examples: Examples) -> Any:
        """Returns the targets (N, ...) as the loss takes them."""
        raise NotImplementedError

    def data(self, round_: Round) -> Split:
        """Draws a round's examples; standardised."""
        if not self._is_same_in_every_round:
            return self._split(*self._draw(round_))
        self._kept = self._kept or self._split(*self._draw(round_))
        return self._kept

    def validation(self, round_: Round) -> Batch:
        """Draws a round's validation examples, standardised as the others are."""
        chosen, _ = self._draw(round_)
        first = self.train_examples + (0 if self._examples.tests else self.test_examples)
        others = self._permuted(round_)[first : first + (self.settings.validation_examples or 0)]
        return self._split(chosen, others).test

    def test_members(self, round_: Round) -> Any:
        """Returns which of all examples a round is tested on, (N, 1)."""
        _, tests = self._draw(round_)
        return tests[:, None]

    @property
    def _is_same_in_every_round(self) -> bool:
        fixed = self._examples.tests
        return bool(fixed) and self.train_examples == len(self._examples.x) - fixed

    def _draw(self, round_: Round) -> tuple[Any, Any]:
        """Returns which examples a round trains on, and tests on."""
        fixed, whole = self._examples.tests, len(self._examples.x)
        drawn = self._permuted(round_)
        if fixed:
            tests = np.arange(whole - fixed, whole)
            if self.test_examples < fixed:  # the same in every round
                tests = np.sort(np.random.default_rng(0).permutation(tests)[: self.test_examples])
        else:
            drawn, tests = drawn[self.test_examples :], drawn[: self.test_examples]
        return np.sort(drawn) if self._is_same_in_every_round else drawn[: self.train_examples], tests

    def _permuted(self, round_: Round) -> Any:
        """Returns the examples that are not always the test's, in the order in which a round draws them."""
        return np.random.default_rng(round_.seed("examples")).permutation(len(self._examples.x) - self._examples.tests)

    def normalisation(self, round_: Round) -> tuple[Any, Any]:
        """Returns by what a round's inputs are standardised: mean and deviation, each a feature's, or a channel's."""
        if not self.settings.standardize:
            return 0.0, 1.0
        chosen, _ = self._draw(round_)
        mean, deviation = _moments(self._examples.x[chosen])
        return mean[0].tolist(), deviation[0].tolist()

    def _split(self, chosen: Any, tests: Any) -> Split:
        import torch

        from hpo.training.network_task import Split

        x = self._examples.x
        train, test = (np.asarray(x[rows], dtype=np.float64) for rows in (chosen, tests))
        if self.settings.standardize:
            mean, deviation = _moments(train)
            train, test = (train - mean) / deviation, (test - mean) / deviation
        inputs = [torch.from_numpy(part.astype(np.float32)) for part in (train, test)]
        targets = self.target_tensors(self._y[chosen], self._y[tests])
        return Split((inputs[0], *targets[0]), (inputs[1], *targets[1]))

    def target_tensors(self, train: Any, test: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns what stands beside the inputs in a batch, of training and of test examples."""
        raise NotImplementedError

    def _check_shape(self, output: Any, *shape: int) -> None:
        if tuple(getattr(output, "shape", ())) != shape:
            wanted, found = (
                f"({', '.join(['N', *map(str, one[1:])])})" for one in (shape, getattr(output, "shape", ()))
            )
            raise ValueError(f"{self.settings.network} must map examples to {wanted}, but gives {found}")


class NetworkOf:
    """Builds networks of somebody's class, or by a function; tells it what it asks for of the data.

    Args:
        known: `input_shape` of an example, and how many `outputs` there are to be.
        average: see `NetworkTask`.
    """

    def __init__(
        self,
        build: Callable[..., nn.Module],
        known: Mapping[str, Any],
        average: Callable[[Any], Any] | None = None,
    ) -> None:
        self._build = build
        if average is not None:
            self.average = average
        try:
            signature = inspect.signature(build, eval_str=True)
        except NameError:  # of an annotation
            signature = inspect.signature(build)
        except (TypeError, ValueError) as error:
            raise ValueError(f"what its network takes cannot be read: {error}") from error
        self._given = {name: known[name] for name in GIVEN if name in signature.parameters}
        own = [keyword for name, keyword in signature.parameters.items() if name not in GIVEN]
        self.__signature__ = signature.replace(parameters=own)

    def __call__(self, **params: Any) -> nn.Module:
        """Returns a network of parameters."""
        return self._build(**params, **self._given)


def _load_network(settings: SupervisedSettings, sources: Sources) -> tuple[Callable[..., Any], Reference | None]:
    """Returns what builds the networks, and the code that it is; None where it is shipped with hpo."""
    reference = parse_reference(settings.network) or find_model(settings.network, sources.code, NETWORKS)
    if reference is None:
        shipped: Callable[..., Any] = getattr(importlib.import_module("hpo.tasks.networks"), settings.network)
        return shipped, None
    build = load(reference, sources)
    if not callable(build):
        raise StudyError(f"{reference} must be a class or a function that builds networks")
    return build, reference


def _moments(x: Any) -> tuple[Any, Any]:
    """Returns mean and deviation of examples (N, ...), (1, ...): each feature's, or each channel's of images."""
    axes = (0, *range(2, x.ndim)) if x.ndim > 2 else (0,)
    mean, deviation = x.mean(axes, keepdims=True), x.std(axes, keepdims=True)
    deviation[deviation == 0] = 1.0
    return mean, deviation


def _sizes(settings: SupervisedSettings, examples: Examples) -> tuple[int, int]:
    """Returns how many examples train, and how many test.

    Raises:
        DatasetError: where there are not so many.
    """
    whole, fixed = len(examples.x), examples.tests
    most = fixed or whole - 1
    test = settings.test_examples or fixed or max(1, int(TEST_SHARE * whole))
    if test > most:
        raise DatasetError(f"test_examples must be at most {most}, all that {settings.data} has, but is {test}")
    left = (whole - fixed if fixed else whole - test) - (settings.validation_examples or 0)
    if left < 1:
        raise DatasetError(f"validation_examples is {settings.validation_examples}, which leaves none to train on")
    train = settings.train_examples or left
    if train > left:
        raise DatasetError(f"train_examples must be at most {left}, all that {settings.data} has, but is {train}")
    return train, test
