"""What a study is: a protocol, and either a search space or a list of trials; read from one TOML file, validated,
hashed.

The file's format is described in docs/studies.md. A definition is stored with the Optuna study that it created, so a
worker on another machine needs no file.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hpo import limits
from hpo.errors import StudyError
from hpo.study.repetition import can_repeat, count_configurations
from hpo.study.schema import Count, Percent, Rounds, Seconds, Table, Weight, Words, explain, shown
from hpo.study.search import NoPruner, Pruner, Sampler, TpeSampler
from hpo.study.space import (
    RANGE_TEST,
    Choices,
    Configuration,
    GivenParameter,
    ListedConfiguration,
    Parameter,
    Range,
    Value,
    check_space,
)
from hpo.tasks.datasets import DATASETS
from hpo.text.files import NotUtf8, read_text
from hpo.text.formatting import count


class Protocol(Table):
    """How every trial of a study is measured; the same for all, so that their errors can be compared.

    Attributes:
        first_round: the number of the first; other numbers are other weights, shuffles and pairs.
        train_pairs, test_pairs: pairs that each round draws for itself.
        seed: the study's seed, from which the rounds' and the sampler's seeds derive.
        main_weight, auxiliary_weight, precision: see `TrainingConfig` in hpo/training/optimizers.py.
        decision: which test error is the objective; a trial records both.
        evaluate_at: epochs after which the test errors are measured, reported to the pruner and kept; the last always
            is.
    """

    dataset: Literal["mnist", "digits"]
    rounds: Rounds = 10
    first_round: Annotated[int, Field(ge=0, le=limits.ROUND_NUMBER)] = 0
    epochs: Count = 25
    batch_size: Annotated[int, Field(ge=2, le=limits.COUNT)] = 100
    train_pairs: Annotated[int, Field(ge=1)] = 1000
    test_pairs: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0, le=limits.SEED)] = 0
    main_weight: Weight = 1.0
    auxiliary_weight: Weight = 1.0
    decision: Literal["head", "recognition"] = "recognition"
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate_at: Annotated[tuple[Count, ...], Field(strict=False)] = ()

    @property
    def round_numbers(self) -> range:
        """The numbers of the rounds."""
        return range(self.first_round, self.first_round + self.rounds)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        dataset = DATASETS[self.dataset]
        for kind, asked, most in (
            ("train_pairs", self.train_pairs, dataset.train_pairs),
            ("test_pairs", self.test_pairs, dataset.test_pairs),
        ):
            if asked > most:
                raise ValueError(
                    f"{kind} must be at most {most}, all that dataset {self.dataset!r} has, but is {asked}"
                )
        if self.train_pairs % self.batch_size == 1:
            raise ValueError(
                f"batch_size must not leave one of {self.train_pairs} pairs over (batch norm needs two), "
                f"but is {self.batch_size}"
            )
        if self.main_weight == 0 and self.auxiliary_weight == 0:
            raise ValueError("main_weight and auxiliary_weight must not both be 0")
        if any(epoch > self.epochs for epoch in self.evaluate_at):
            raise ValueError(f"evaluate_at must name epochs up to {self.epochs}, but is {shown(self.evaluate_at)}")
        return self


class Published(Table):
    """A published figure: mean and standard deviation of the error in percent, over `rounds` rounds."""

    mean: Percent
    std: Percent
    rounds: Rounds = 10


class ListedTrial(Table):
    """One entry of a study that is a list: a configuration, and the figure published for it."""

    label: Words
    params: ListedConfiguration
    published: Published | None = None


class Run(Table):
    """How a study's workers behave; nothing here changes a result, so it is outside the hash.

    Attributes:
        max_failed_trials: after so many trials failed by an error in training, the run ends.
        trial_timeout_seconds: a trial that takes longer is ended, and counts as failed; no limit unless given.
        heartbeat_seconds: how often a worker says that its trial lives.
        grace_seconds: a trial that was not heard of for so long is given up for dead. An outage of the database that
            lasts longer costs the trials that were running.
        repeat_configurations: whether a configuration is measured again that is measured already.
        keep: what else a trial keeps of its training: each round's loss after every epoch, every layer's gradient norm.
    """

    max_failed_trials: Count = 20
    trial_timeout_seconds: Seconds | None = None
    heartbeat_seconds: Seconds = 30.0
    grace_seconds: Seconds = 300.0
    repeat_configurations: bool = False
    keep: Annotated[tuple[Literal["losses", "gradient_norms"], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Run:
        if self.grace_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"grace_seconds must be at least twice heartbeat_seconds, but is {self.grace_seconds:g} "
                f"with {self.heartbeat_seconds:g}"
            )
        return self


class StudyDefinition(Table):
    """One study, as its file has it.

    Attributes:
        space: the parameters that a sampler searches, by name; the names are those of `Configuration`.
        trial: or the configurations to be measured, each exactly once.
    """

    title: Words
    protocol: Protocol
    sampler: Sampler = TpeSampler(name="tpe")
    pruner: Pruner = NoPruner(name="none")
    space: dict[str, GivenParameter] = {}
    trial: Annotated[tuple[ListedTrial, ...], Field(strict=False)] = ()
    run: Run = Run()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.space) == bool(self.trial):
            raise ValueError(
                "a study has either a [space] or [[trial]] entries, "
                + ("not both" if self.space else "but this has neither")
            )
        if self.trial and self.pruner.name != "none":
            raise ValueError(f"pruner.name must be 'none' where trials are listed, but is {self.pruner.name!r}")
        needed = {"none": 0, "power_law": 2}.get(self.pruner.name, 1)
        asked = sum(epoch < self.protocol.epochs for epoch in set(self.protocol.evaluate_at))
        if asked < needed:
            raise ValueError(
                f"protocol.evaluate_at must name {count(needed, 'epoch')} before the last, or pruner "
                f"{self.pruner.name!r} has nothing to go by, but is {shown(self.protocol.evaluate_at)}"
            )
        labels = [entry.label for entry in self.trial]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"labels must differ, but {twice[0]!r} stands twice")
        check_space(self.space)
        return self

    @property
    def search_space(self) -> dict[str, Parameter]:
        """The space; for a list of trials, the smallest one that holds them all."""
        if self.space:
            return dict(self.space)
        configurations = [entry.params.model_dump(exclude_none=True) for entry in self.trial]
        space: dict[str, Parameter] = {}
        for name in Configuration.model_fields:
            when: dict[str, Value] = {"activation": "elu"} if name == "elu_alpha" else {}
            listed = {c.get(name) for c in configurations if all(c[key] == value for key, value in when.items())}
            values = sorted(value for value in listed if value not in (None, RANGE_TEST))
            if values and isinstance(values[0], float):
                space[name] = Range(low=values[0], high=values[-1], when=when)
            elif values:
                space[name] = Choices(choices=tuple(values))
        return space

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures that its trials may name."""
        return tuple(str(value) for value in self.search_space["architecture"].values)

    @property
    def avoids_repetition(self) -> bool:
        """Whether a configuration could be proposed again, and is not to be: its rounds would give the same numbers."""
        return bool(self.space) and not self.run.repeat_configurations and can_repeat(self.space)

    @property
    def configurations(self) -> int | None:
        """How many trials a search can make without a repetition; None where there is no end to them."""
        return count_configurations(self.space) if self.avoids_repetition else None

    @property
    def sha256(self) -> str:
        """The hash of all that a result depends on."""
        return hashlib.sha256(json.dumps(self._hashed(), sort_keys=True).encode()).hexdigest()

    def differences(self, other: StudyDefinition) -> list[str]:
        """Names the hashed settings in which `other` differs, each as `key is A, but B there`."""
        ours, theirs = _flat(self._hashed()), _flat(other._hashed())
        absent = "absent"
        return [
            f"{key} is {ours.get(key, absent)}, but {theirs.get(key, absent)} there"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key, absent) != theirs.get(key, absent)
        ]

    def _hashed(self) -> dict[str, Any]:
        described: Any = {"title": True, "run": True, "trial": {"__all__": {"label", "published"}}}
        return self.model_dump(mode="json", exclude=described)


def read_study(path: Path) -> StudyDefinition:
    """Reads a study's file.

    Raises:
        StudyError: where the file cannot be read, is no TOML, or breaks a rule.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise StudyError(f"study file {path} is no regular file")
    try:
        table = parse(read_text(path))
    except (OSError, NotUtf8, ValueError, RecursionError) as error:
        raise StudyError(f"study file {path} cannot be read: {error}") from error
    return define_study(table, name=path.stem)


def parse(text: str) -> dict[str, Any]:
    """Returns what a text in TOML says.

    Raises:
        ValueError: where it is none, or has an integer of over 4300 digits.
        RecursionError: where it has lists within lists within lists …
    """
    table = tomllib.loads(text)
    json.dumps(table, default=str)  # such an integer can be read, if its digits are hexadecimal, but never written
    return table


def define_study(table: dict[str, Any], *, name: str) -> StudyDefinition:
    """Validates a study's definition; `name` stands in the error.

    Raises:
        StudyError: where the definition breaks a rule.
    """
    try:
        return StudyDefinition.model_validate(table)
    except ValidationError as error:
        raise StudyError(f"study {name!r}: {explain(error)}") from error


def _flat(table: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(table, dict | list) or not table:
        return {prefix: table}
    if isinstance(table, list) and not any(isinstance(item, dict | list) for item in table):
        return {prefix: table}
    pairs = table.items() if isinstance(table, dict) else enumerate(table)
    return {
        key: value
        for name, item in pairs
        for key, value in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }
