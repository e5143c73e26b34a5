"""Objectives without training, named by what they do to a trial; worker processes import them by path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy as sa

from hpo.search.samplers import suggest
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.study.task import Launched, Measurement
from hpo.workers import worker


@dataclass(frozen=True)
class Stub:
    """Suggests a configuration, does something, and returns the value that a drawn bowl has there."""

    definition: StudyDefinition
    folder: Path
    act: Callable[[optuna.Trial, Path], None]
    device: str = "stub"

    def __call__(self, trial: optuna.Trial, step_done: Callable[[int], None]) -> float:
        params = suggest(trial, self.definition)
        trial.report(50.0, step=1)
        step_done(1)
        self.act(trial, self.folder)
        value = 10 + abs(float(params["learning_rate"]) - 0.1) * 30
        trial.set_user_attr("errors", [value, value])
        trial.set_user_attr("std", 0.0)
        return value


def quick(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    return Stub(definition, sources.data, lambda trial, folder: None)


def pruned_every_third(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    def act(trial: optuna.Trial, folder: Path) -> None:
        if trial.number % 3 == 2:
            raise optuna.TrialPruned

    return Stub(definition, sources.data, act)


def waits_for_three(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    """No trial ends before three worker processes have begun one."""

    def act(trial: optuna.Trial, folder: Path) -> None:
        (folder / f"worker-{os.getpid()}").touch()
        while len(list(folder.glob("worker-*"))) < 3:
            time.sleep(0.02)

    return Stub(definition, sources.data, act)


def drops_a_table(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    """Damages the database, which then fails the worker when it starts its next trial."""

    def act(trial: optuna.Trial, folder: Path) -> None:
        engine = sa.create_engine((folder / "URL").read_text())
        with engine.begin() as connection:
            connection.execute(sa.text("drop table trial_heartbeats"))
        engine.dispose()

    return Stub(definition, sources.data, act)


def sleeps_until_told(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    """Leaves a file STARTED-number, then sleeps until a file GO is there."""

    def act(trial: optuna.Trial, folder: Path) -> None:
        (folder / f"STARTED-{trial.number}").touch()
        while not (folder / "GO").exists():
            time.sleep(0.02)

    return Stub(definition, sources.data, act)


def fails_always(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    def act(trial: optuna.Trial, folder: Path) -> None:
        raise ArithmeticError(f"the numbers ran out at {trial.number}")

    return Stub(definition, sources.data, act)


def fails_twice(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    def act(trial: optuna.Trial, folder: Path) -> None:
        if trial.number < 2:
            raise ArithmeticError("the numbers ran out")

    return Stub(definition, sources.data, act)


def killed_once(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    """The first trial kills its own process, as the kernel does when memory runs out."""

    def act(trial: optuna.Trial, folder: Path) -> None:
        if trial.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return Stub(definition, sources.data, act)


def killed_always(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    return Stub(definition, sources.data, lambda trial, folder: os.kill(os.getpid(), signal.SIGKILL))


def fails_where_broken(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    """Fails in a study with the title 'broken', and nowhere else."""

    def act(trial: optuna.Trial, folder: Path) -> None:
        if definition.title == "broken":
            raise ArithmeticError("the numbers ran out")

    return Stub(definition, sources.data, act)


def hangs_once(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    def act(trial: optuna.Trial, folder: Path) -> None:
        if trial.number == 1:
            time.sleep(3600)

    return Stub(definition, sources.data, act)


def takes_a_moment(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    return Stub(definition, sources.data, lambda trial, folder: time.sleep(0.1))


def cannot_be_made(definition: StudyDefinition, device: str, sources: Sources) -> Stub:
    raise ArithmeticError("the numbers ran out\nand more")


@dataclass(frozen=True)
class Launching(Stub):
    """Three steps on a device that takes a moment for each: several trials at once, as on a GPU."""

    at_once: int = 3
    hangs: int | None = None  # the trial whose device never ends

    def steps(self, trial: optuna.Trial, step_done: Callable[[int], None]) -> Generator[Measurement, None, float]:
        params = suggest(trial, self.definition)
        for step in (1, 2, 3):
            done_at = time.monotonic() + 0.01 * (1 + trial.number % 3)
            yield Launched(step, None, {}, is_done=lambda done_at=done_at: time.monotonic() >= done_at)  # type: ignore[misc]
            trial.report(50.0, step=step)
            step_done(step)
            if step == 2:
                yield from self._act(trial)
        value = 10 + abs(float(params["learning_rate"]) - 0.1) * 30
        trial.set_user_attr("errors", [value, value])
        trial.set_user_attr("std", 0.0)
        return value

    def _act(self, trial: optuna.Trial) -> Iterator[Measurement]:
        """Waits until all three that run at once are here, so that none is alone; then does what the stub does."""
        here = self.folder / f"here-{trial.number}"
        here.touch()
        self.act(trial, self.folder)
        yield Launched(2, None, {}, is_done=lambda: trial.number != self.hangs and (self.folder / "GO").exists())


def three_at_once(definition: StudyDefinition, device: str, sources: Sources) -> Launching:
    return Launching(definition, sources.data, lambda trial, folder: None)


def one_of_three_fails(definition: StudyDefinition, device: str, sources: Sources) -> Launching:
    def act(trial: optuna.Trial, folder: Path) -> None:
        if trial.number == 1:
            raise RuntimeError("the second fails")
        if trial.number == 2:
            raise optuna.TrialPruned

    return Launching(definition, sources.data, act)


def one_of_three_takes_too_long(definition: StudyDefinition, device: str, sources: Sources) -> Launching:
    return Launching(definition, sources.data, lambda trial, folder: None, hangs=0)


def one_of_three_works_long(definition: StudyDefinition, device: str, sources: Sources) -> Launching:
    return Launching(definition, sources.data, lambda trial, folder: time.sleep(1.5 if trial.number == 1 else 0))


def one_of_three_lacks_memory(definition: StudyDefinition, device: str, sources: Sources) -> Launching:
    def act(trial: optuna.Trial, folder: Path) -> None:
        if len(list(folder.glob("here-*"))) == 3 and not (folder / "lacked").exists():
            (folder / "lacked").touch()
            raise RuntimeError("CUDA error: out of memory")

    return Launching(definition, sources.data, act)


def one_of_three_hangs(definition: StudyDefinition, device: str, sources: Sources) -> Launching:
    """The first trial never comes back to the worker, which cannot go on with the others then."""

    def act(trial: optuna.Trial, folder: Path) -> None:
        if trial.number == 0:
            time.sleep(3600)

    setattr(worker, "PATIENCE_SECONDS", 0.5)  # noqa: B010 - it is this process's own
    return Launching(definition, sources.data, act)
