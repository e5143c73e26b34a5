"""A study's card: what its task is, as readers and workers of the study need to know it without loading the task.

It is made once, when the study is created, and stored with it. Names and units of metrics, and who takes which
parameter, come from here; and whether another machine has the same data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from hpo.errors import StudyError
from hpo.study.code import code_hashes
from hpo.study.definition import StudyDefinition
from hpo.study.loading import LoadedTask, load_task
from hpo.study.references import NOWHERE, Sources
from hpo.study.schema import Table, explain
from hpo.study.space import When
from hpo.study.task import Metric, metrics_of
from hpo.study.training import CONDITIONS, MAY_BE_TRAINED_BY, TRAINED_BY


class MetricCard(Table):
    """A metric; see `Metric` in task.py."""

    name: str
    title: str
    description: str
    unit: str
    low: float | None
    high: float | None
    maximize: bool = False
    resolution: float | None

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """What is to be done with it, as Optuna says it: `minimize` or `maximize`."""
        return "maximize" if self.maximize else "minimize"

    @property
    def sign(self) -> int:
        """1, or -1 where more is better: times this, less is better."""
        return -1 if self.maximize else 1

    @property
    def noun(self) -> str:
        """What one of its values is called, in a heading: an error, where its title says so."""
        return "error" if "error" in self.title else self.title

    @property
    def axis_title(self) -> str:
        """What stands at an axis: `test error (%)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def differences(self) -> tuple[float | None, float | None]:
        """What a difference of two can be, at least and at most; None for no bound."""
        width = None if self.low is None or self.high is None else self.high - self.low
        return (None, None) if width is None else (-width, width)

    @property
    def smallest(self) -> float | None:
        """Where an error of zero stands on a logarithmic axis: at half of what it can differ by; None on others."""
        return None if self.resolution is None or self.maximize else self.resolution / 2


class Card(Table):
    """What a study's task is.

    Attributes:
        metrics: all that it measures, the objective first.
        tested: the same as the test has them, where the study selects on validation examples.
        parameters: name -> who takes it: `network`, `loss` or `training`, or `function`.
        dataset: what it measures on, in a word or two; empty where it is the code's affair.
        data_sha256: the hash of that.
        code: path or module -> SHA-256 of each file that was imported for it, but for what is shipped with hpo.
        conditions: name -> the values that others must have for a parameter to be there.
        at_chance: label of a listed trial -> the metrics that no loss trains in its configuration.
    """

    metrics: Annotated[tuple[MetricCard, ...], Field(strict=False, min_length=1)]
    tested: Annotated[tuple[MetricCard, ...], Field(strict=False)] = ()
    parameters: dict[str, str]
    conditions: dict[str, When] = {}
    dataset: str = ""
    data_sha256: str = ""
    code: dict[str, str] = {}
    at_chance: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = {}

    @property
    def metric(self) -> MetricCard:
        """The objective."""
        return self.metrics[0]


def parse_card(stored: Mapping[str, Any], *, study: str) -> Card:
    """Reads a stored card; `study` stands in the error.

    Raises:
        StudyError: where it is none.
    """
    try:
        return Card.model_validate(stored)
    except ValidationError as error:
        raise StudyError(f"study {study!r}: its card: {explain(error)}") from error


def make_card(definition: StudyDefinition, loaded: LoadedTask, sources: Sources = NOWHERE) -> Card:
    """Returns the card of a study that is resolved, its data prepared."""
    protocol = definition.protocol
    return Card(
        metrics=_metric_cards(loaded.metrics, protocol.metric),
        tested=_metric_cards(metrics_of(loaded.task) if protocol.select_on != "test" else (), protocol.metric),
        parameters={name: _taker(name, loaded) for name in definition.parameters},
        conditions={
            name: dict(when)
            for name, when in loaded.conditions.items()
            if name not in CONDITIONS or name in definition.parameters
        },
        dataset=loaded.dataset,
        data_sha256=loaded.data_sha256,
        code=code_hashes(loaded.references, sources) if loaded.references else {},
        at_chance={one.label: tuple(names) for one in definition.trial if (names := loaded.untrained(one.params))},
    )


def light_card(definition: StudyDefinition) -> Card:
    """Returns the card of a study that is resolved, and whose task is light."""
    return make_card(definition, load_task(definition, study=definition.title))


def _taker(name: str, loaded: LoadedTask) -> str:
    if not loaded.trains:
        return "function"
    is_of_training = name in TRAINED_BY or name in MAY_BE_TRAINED_BY
    return "training" if is_of_training else loaded.keywords()[name][0]


def _metric_cards(metrics: Sequence[Metric], objective: str | None) -> tuple[MetricCard, ...]:
    ordered = sorted(metrics, key=lambda metric: metric.name != objective)
    known = [{**asdict(metric), "title": metric.title or metric.name} for metric in ordered]
    return tuple(MetricCard(**{name: one[name] for name in MetricCard.model_fields}) for one in known)
