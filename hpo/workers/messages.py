"""What a supervisor tells a worker at its start, and what a worker tells its supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker process is told at its start; it reads the rest from the storage.

    Attributes:
        studies: the studies to serve, or None for all that the storage has, and will have.
        target: the number of finished trials at which a study has enough; None takes what was asked for last.
        identity, sha256: of the one study to serve, where a target is given, and of its definition; see
            `UnfinishedStudy`.
        began_at: study -> the number of the first trial that this run could have started there; 0 for others.
        exit_when_done: whether to end when every study has its trials, those that are still to come too, or else wait
            for more.
        device: for each process in turn.
        at_once: how many trials of a study a process runs at once, where its task can; None leaves that to the study.
        sources: where data and code are here, and which code may be opened.
        make_objective: `module:function`, given the study's definition, the device and the sources.
        parent: the lock file of the process that looks after the worker.
    """

    url: str
    studies: tuple[str, ...] | None
    target: int | None = None
    identity: str | None = None
    sha256: str | None = None
    began_at: Mapping[str, int] = field(default_factory=dict)
    exit_when_done: bool = True
    device: str
    at_once: int | None = 1
    sources: Sources
    make_objective: str = "hpo.workers.objective:make_objective"
    parent: str = ""


@dataclass(frozen=True)
class Check:
    """What the first worker is told of a study that is new, or names code: to find out whether it can be measured.

    Attributes:
        study: its name, for messages.
        promises: whether to look at all that its task promises, too.
    """

    study: str
    definition: StudyDefinition
    device: str
    sources: Sources
    promises: bool = False


@dataclass(frozen=True)
class Checking:
    """A worker that checks a study says what it does now."""

    what: str


@dataclass(frozen=True)
class Checked:
    """A study can be measured here.

    Attributes:
        definition: as its task understands it.
        card: the study's, as JSON has it.
        way: how its networks are trained; empty where there are none.
        printed: what its code has printed meanwhile.
        promises: what its task promises, if that was asked for.
    """

    definition: StudyDefinition
    card: dict[str, Any]
    way: str
    printed: str
    promises: tuple[Promise, ...] = ()


@dataclass(frozen=True)
class Promise:
    """What a task promises.

    Attributes:
        fault: where it breaks that; empty where it holds.
    """

    text: str
    fault: str


@dataclass(frozen=True)
class Began:
    """A worker began a trial, which may take `limit_seconds`.

    Attributes:
        patience_seconds: how much longer its supervisor leaves it to end the trial itself.
    """

    study: str
    trial: int
    limit_seconds: float | None
    patience_seconds: float = 0.0


@dataclass(frozen=True)
class StepDone:
    """A worker has done another step of a trial, as an epoch."""

    study: str
    trial: int
    number: int


@dataclass(frozen=True)
class Ended:
    """A worker ended a trial, however."""

    study: str
    trial: int


@dataclass(frozen=True)
class GaveUp:
    """A worker cannot go on: with one study, or where `study` is None, at all."""

    study: str | None
    message: str
    exit_code: int


@dataclass(frozen=True)
class Crashed:
    """A worker process ends by an error that is a bug, here or in what it calls."""

    message: str


Message = Began | StepDone | Ended | GaveUp | Crashed | Checking | Checked
"""What a worker tells its supervisor."""
