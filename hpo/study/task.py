"""What a trial measures, in plain numbers: the protocol between who runs trials and who measures them.

A *task* is opened once, for a device, and asked again and again for the errors of a configuration. It is repeated in
*rounds*, each with random streams of its own, so that every configuration is measured over the same rounds. Neither
optuna nor torch is known here; a task may use any library. What a task may say of itself besides, as which values its
parameters can have, is listed at `LoadedTask`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hpo.seeding import derive_seed

Value = bool | int | float | str
Params = Mapping[str, Value]


@dataclass(frozen=True)
class Round:
    """One repetition of a measurement.

    Its random streams have names, so round r is the same in every trial of a study, and fresh rounds are new numbers.
    """

    number: int
    study_seed: int

    def seed(self, stream: str) -> int:
        """Returns the seed of one of its random streams, an integer in [0, 2**32)."""
        return derive_seed(self.study_seed, "round", self.number, stream)

    def training_seed(self, stream: str) -> int:
        """Returns the seed of a stream of its training, which each member of an ensemble has for itself."""
        return self.seed(stream)


@dataclass(frozen=True)
class Metric:
    """An error, to be minimised; or an accuracy or the like, to be maximised.

    Attributes:
        title: what it is called in a sentence, as in "the lowest test error"; its name, unless given.
        description: what it is, in a clause.
        low, high: what it can be, None for no bound; intervals stay within.
        worst: what stands in for a number that is not finite, so that no value is ever NaN; with None a trial fails
            that comes to one.
        maximize: whether more is better.
        resolution: the smallest difference that it can show, 100 / N percent of N examples; None where there is none.
    """

    name: str = "error"
    title: str = ""
    description: str = ""
    unit: str = "%"
    low: float | None = 0.0
    high: float | None = 100.0
    worst: float | None = 100.0
    maximize: bool = False
    resolution: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What is known of all R rounds after a step: an epoch of training, or the one step of a function.

    Attributes:
        step: what a pruner sees.
        fraction: how much of the whole is done, in (0, 1]; 1 ends it. None where that is not known, but not at the end.
        errors: metric -> (R,); empty after a step at which nothing was evaluated.
        diverged: the rounds that came to something that is not finite, the first being 0.
        details: what else may be kept: `losses`, (R,), `gradient_norms`, layer -> (R,), and of the digit pairs
            `confusion_matrices`, (R, T, 10, 11), see `AllPairs`; `examples`, metric -> `ExampleOutcomes`; `parameters`,
            how many numbers of a round's networks are trained.
    """

    step: int
    fraction: float | None
    errors: Mapping[str, Sequence[float]]
    diverged: Sequence[int] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def ready(self) -> bool:
        """Says whether the task can go on without waiting."""
        return True


@dataclass(frozen=True)
class Launched(Measurement):
    """Says that a device has been told what to do, and measures nothing: what it came to follows.

    Whoever runs several trials at once has something else to do until it is ready; others just go on, and wait.
    """

    is_done: Callable[[], bool] = bool

    def ready(self) -> bool:
        """Says whether the device has done what it was told."""
        return self.is_done()


class Task(Protocol):
    """What measures configurations.

    Attributes:
        metrics: the errors that it measures; the first is a study's objective, unless its protocol names another.
        device: where it measures, for people.
    """

    metrics: Sequence[Metric]
    device: str

    def measure(self, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
        """Measures a configuration in some rounds, step after step; it may be closed early.

        A task that can do so for several trials at once says how many by a method `at_once`, as `Trainer` does, and
        yields `Launched` before it would wait.

        Args:
            params: by name.
        """
        ...


def measure_in_turn(task: Task, params: Params, rounds: Sequence[Round]) -> Iterator[Measurement]:
    """Measures round after round, as a pruner asks that compares rounds.

    Yields after each: the errors of the rounds so far, the step their number; details are of the last round alone.
    """
    errors: dict[str, list[float]] = {}
    diverged: list[int] = []
    for r, one in enumerate(rounds):
        *_, last = task.measure(params, [one])
        for name, (error,) in last.errors.items():
            errors.setdefault(name, []).append(error)
        if last.diverged:
            diverged.append(r)
        yield Measurement(r + 1, (r + 1) / len(rounds), errors, diverged, last.details)


def metrics_of(task: object, select_on: str = "test") -> Sequence[Metric]:
    """Returns a task's metrics; one that names none measures `error`, in percent.

    Args:
        select_on: `test`, or `validation`, for those of a task that has validation examples.

    Raises:
        ValueError: where they are none, or there are no such examples.
    """
    name = "metrics" if select_on == "test" else "validation_metrics"
    if select_on != "test" and not hasattr(task, name):
        raise ValueError("it has no validation examples, so protocol.select_on must be 'test'")
    metrics = getattr(task, name, None) or (Metric(),)
    if not isinstance(metrics, Sequence) or not all(isinstance(metric, Metric) for metric in metrics):
        raise ValueError(f"metrics must be a list of hpo.study.task.Metric, but are {metrics!r}")
    for metric in metrics:
        if metric.maximize and metric.worst is not None and metric.worst == metric.high:
            raise ValueError(
                f"metric {metric.name!r} is to be maximised, so its worst cannot be its highest; set worst"
            )
    return tuple(metrics)
