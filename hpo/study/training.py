"""How networks are trained: a study's `[training]` table, and the parameters that training takes, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hpo import limits
from hpo.study.schema import Count, Factor, Table, Weight, shown
from hpo.study.space import LEARNING_RATE, RANGE_TEST, Space, is_within
from hpo.study.task import Params
from hpo.text.formatting import count

Optimizer = Literal["sgd", "rmsprop", "adam", "adamw"]
BatchSize = Annotated[int, Field(ge=2, le=limits.COUNT)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

TRAINED_BY: Mapping[str, Any] = {"optimizer": Optimizer, LEARNING_RATE: Factor}
"""The parameters that training takes in every trial, whatever the network: name -> rule."""

MAY_BE_TRAINED_BY: Mapping[str, Any] = {
    "momentum": BelowOne,
    "nesterov": bool,
    "weight_decay": Weight,
    "schedule": Literal["constant", "cosine", "one_cycle"],
    "warmup": BelowOne,
    "gradient_clipping": Factor,
    "ema_decay": BelowOne,
    "epochs": Count,
    "batch_size": BatchSize,
    "ensemble": Count,
}
"""Those that a trial may have besides: name -> rule. hpo/training/updates/config.py says what each does, but for
`ensemble`, which hpo/training/ensembles.py does."""

NOT_OF_RANGE_TESTS = ("schedule", "warmup", "ema_decay", "epochs", "ensemble")
"""Those that a range test does without: it moves the rate itself, looks at losses, and goes by batches. It does without
what changes data from epoch to epoch, too."""

CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "momentum": {"optimizer": ("sgd", "rmsprop")},
    "nesterov": {"optimizer": "sgd"},
}
"""Where they are there at all: parameter -> the values that others must have."""


def leaves_rate(training: Training | None, params: Params) -> bool:
    """Says whether a listed configuration leaves its networks' learning rate to a range test."""
    return training is not None and params.get(LEARNING_RATE) == RANGE_TEST


def without_open_rate(training: Training | None, params: Params) -> Params:
    """Returns a listed configuration, less a rate that it leaves to a range test."""
    return {name: params[name] for name in params if name != LEARNING_RATE or not leaves_rate(training, params)}


def check_nesterov(spaces: Iterable[Space]) -> None:
    """Makes sure that there is a momentum wherever it is to be Nesterov's; else nothing would be.

    Raises:
        ValueError: where there is none.
    """
    for space in spaces:
        nesterov, momentum = space.get("nesterov"), space.get("momentum")
        if not nesterov or not any(nesterov.values):
            continue
        where = {"optimizer": CONDITIONS["nesterov"]["optimizer"], **nesterov.when}
        if not momentum or not all(momentum.values):
            raise ValueError("parameter nesterov has an effect only beside a momentum above 0")
        if not all(key in where and is_within(where[key], wanted) for key, wanted in momentum.when.items()):
            raise ValueError(
                "parameter momentum must be there wherever nesterov is, which has an effect only beside it"
            )


class Training(Table):
    """How networks are trained; the same in every trial, but for what is a parameter.

    Attributes:
        epochs: of a trial. Where `epochs` is a parameter too, a trial has its own number: it is evaluated after the
            same shares of these, and they count as these, so that a pruner holds equal shares against each other.
        precision: see `TrainingConfig` in hpo/training/updates/config.py.
        evaluate_at: epochs after which the test errors are measured, reported to the pruner and kept; the last always
            is.
    """

    epochs: Count = 25
    batch_size: BatchSize = 100
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    evaluate_at: Annotated[tuple[Count, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(epoch > self.epochs for epoch in self.evaluate_at):
            raise ValueError(f"evaluate_at must name epochs up to {self.epochs}, but is {shown(self.evaluate_at)}")
        return self

    def text(self, parameters: Collection[str], always: Collection[str]) -> str:
        """Returns `25 epochs, in batches of 100`, but for what is a parameter.

        Args:
            parameters: those that trials of a study may have.
            always: those of them that all have.
        """

        def said(name: str, own: str, usual: str) -> str:
            if name not in parameters:
                return usual
            return own if name in always else f"{own}, else {usual}"

        epochs = said("epochs", "its own number of epochs", count(self.epochs, "epoch"))
        return f"{epochs}, in batches of {said('batch_size', 'its own size', str(self.batch_size))}"

    def steps_of(self, epochs: int) -> dict[int, int]:
        """Returns after which of a trial's own epochs it is evaluated, and as which of the study's each counts.

        Args:
            epochs: how many the trial has.
        """
        asked = sorted({*self.evaluate_at, self.epochs})
        return {max(1, round(one * epochs / self.epochs)): one for one in asked}
