"""What a study is: a task, a protocol, and a search space or a list of trials; read from TOML, validated, hashed.

The file's format is described in docs/studies.md. A definition is stored with the Optuna study that it created, so a
worker on another machine needs no file. Which parameters a task takes is not known here: see loading.py.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from hpo import limits
from hpo.errors import StudyError
from hpo.study.references import Reference, references_in
from hpo.study.repetition import can_repeat, count_configurations
from hpo.study.run import Run
from hpo.study.schema import Rounds, Table, Words, explain, plain
from hpo.study.search import NoPruner, Pruner, Race, Sampler, TpeSampler, check_sampler, space_of
from hpo.study.space import Given, GivenParameter, Parameter, check_conditions, check_names, is_always_there
from hpo.study.task import Round
from hpo.study.training import MAY_BE_TRAINED_BY, Training, check_nesterov, without_open_rate
from hpo.text.files import NotUtf8, read_text

FORMAT: Literal[1] = 1


class TaskTable(Table):
    """The task that a study measures, by name, and its settings: keywords of its class."""

    model_config = ConfigDict(extra="allow")

    name: Words

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, table: Any) -> Any:
        return table  # the task knows

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of the task's class."""
        return dict(self.model_extra or {})


class Protocol(Table):
    """How every trial of a study is measured; the same for all, so that their errors can be compared.

    Attributes:
        first_round: the number of the first; other numbers are other random streams.
        seed: the study's seed, from which the rounds' and the sampler's seeds derive.
        metric: the objective; the task's first unless given. A trial records all.
        select_on: which examples trials are measured on: the test's, or others that no round trains on, so that nothing
            is chosen by looking at the test. A confirmation is measured on the test's in any case.
    """

    rounds: Rounds = 10
    first_round: Annotated[int, Field(ge=0, le=limits.ROUND_NUMBER)] = 0
    seed: Annotated[int, Field(ge=0, le=limits.SEED)] = 0
    metric: Words | None = None
    select_on: Literal["test", "validation"] = "test"

    @property
    def round_numbers(self) -> range:
        """The numbers of the rounds."""
        return range(self.first_round, self.first_round + self.rounds)


class Published(Table):
    """A published figure: mean and standard deviation of the error over `rounds` rounds, in the metric's unit."""

    mean: float
    std: Annotated[float, Field(ge=0)]
    rounds: Rounds = 10


class Entry(Table):
    """One entry of a study that is a list: a configuration, and the figure published for it."""

    label: Words
    params: dict[str, Given]
    published: Published | None = None


class StudyDefinition(Table):
    """One study, as its file has it.

    Attributes:
        format: of the definition itself; a later one may say what this version does not know.
        training: how the task's networks are trained; None for a task that trains none.
        space: the parameters that a sampler searches, by name; which there are the task says.
        trial: or the configurations to be measured, each exactly once.
    """

    format: Literal[1] = FORMAT
    title: Words
    task: TaskTable
    training: Training | None = None
    protocol: Protocol = Protocol()
    sampler: Sampler = TpeSampler(name="tpe")
    pruner: Pruner = NoPruner(name="none")
    race: Race | None = None
    space: dict[str, GivenParameter] = {}
    trial: Annotated[tuple[Entry, ...], Field(strict=False)] = ()
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
        if self.race and self.trial:
            raise ValueError("there can be no [race] where trials are listed, for each is measured to the end")
        if self.race and self.pruner.name not in ("none", "power_law"):
            raise ValueError(f"pruner.name must be 'power_law' or 'none' beside a [race], but is {self.pruner.name!r}")
        labels = [entry.label for entry in self.trial]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"labels must differ, but {twice[0]!r} stands twice")
        check_names(self.parameters)
        check_conditions(self.space)
        if not self.training:  # else the task says which values its parameters have
            space_of([entry.params for entry in self.trial])
        if self.space:
            check_sampler(self.sampler, self.space, repeats=self.run.repeat_configurations)
        fixed = Training.model_fields.keys() - MAY_BE_TRAINED_BY
        if self.training and (both := sorted(fixed & {*self.parameters})):
            raise ValueError(f"{both[0]} is in [training], so it can be no parameter too")
        if self.training:
            listed = [space_of([entry.params]) for entry in self.trial if "nesterov" in entry.params]
            check_nesterov([self.space, *listed])
        return self

    @property
    def references(self) -> list[Reference]:
        """The code that its task names."""
        return references_in([self.task.name, self.network])

    @property
    def network(self) -> object:
        """What it says of the network that a task of hpo's is to train; None for other tasks."""
        return self.task.settings.get("network") if ":" not in self.task.name else None

    @property
    def rounds(self) -> list[Round]:
        """The rounds in which every trial is measured."""
        return [Round(number, self.protocol.seed) for number in self.protocol.round_numbers]

    @property
    def steps(self) -> int | None:
        """The last step of a trial: how many epochs networks are trained, or what the task's settings say.

        None where they say nothing. Where rounds are measured one after another, each is a step.
        """
        if self.goes_by_rounds:
            return self.protocol.rounds
        steps = self.training.epochs if self.training else self.task.settings.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def goes_by_rounds(self) -> bool:
        """Whether a trial's rounds are measured one after another, for its pruner compares rounds."""
        return self.pruner.name == "wilcoxon"

    @property
    def step_word(self) -> str:
        """What a step is called; no epoch where trials train for different numbers of epochs, in as many steps."""
        if self.goes_by_rounds:
            return "round"
        return "epoch" if self.training and "epochs" not in self.parameters else "step"

    @property
    def search_space(self) -> dict[str, Parameter]:
        """The space; for a list of trials, the smallest one that holds them all."""
        if self.space:
            return dict(self.space)
        return space_of([without_open_rate(self.training, entry.params) for entry in self.trial])

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters that its trials may have."""
        return list(self.space) or list(dict.fromkeys(name for entry in self.trial for name in entry.params))

    def always_has(self, parameter: str) -> bool:
        """Says whether all its trials have a parameter."""
        if self.trial:
            return all(parameter in entry.params for entry in self.trial)
        return parameter in self.space and is_always_there(self.space[parameter], self.space)

    @property
    def trained(self) -> str:
        """How a trial's networks are trained, as in `25 epochs, in batches of 100`; empty where none are."""
        always = [name for name in self.parameters if self.always_has(name)]
        return self.training.text(self.parameters, always) if self.training else ""

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

    def differences(self, other: StudyDefinition, *, said_by_both: bool = False) -> list[str]:
        """Names the hashed settings in which `other` differs, each as `key is A, but B there`.

        Args:
            said_by_both: whether one that only either has is none, as where one is not resolved.
        """
        ours, theirs = _flat(self._hashed()), _flat(other._hashed())
        absent = "absent"
        return [
            f"{key} is {ours.get(key, absent)}, but {theirs.get(key, absent)} there"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key, absent) != theirs.get(key, absent)
            and not (said_by_both and None in (ours.get(key), theirs.get(key)))
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


def define_study(table: Mapping[str, Any], *, name: str) -> StudyDefinition:
    """Validates a study's definition; `name` stands in the error.

    Raises:
        StudyError: where the definition breaks a rule.
    """
    try:
        return StudyDefinition.model_validate(plain(table))
    except ValidationError as error:
        raise StudyError(f"study {name!r}: {explain(error)}") from error


def derived_table(definition: StudyDefinition, title: str) -> dict[str, Any]:
    """Returns what a study shares with one that measures its trials again; that is evaluated at the end alone."""
    shared = definition.model_dump(mode="json", include={"format", "task", "training", "protocol", "run"})
    if shared["training"]:
        shared["training"]["evaluate_at"] = []
    return {**shared, "title": title}


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
