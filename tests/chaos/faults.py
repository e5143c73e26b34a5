"""An objective without training, in a worker that gets itself killed or paused at chosen moments.

A folder's `faults.json` says which. Before each strike a line goes to `strikes.jsonl` there, on the disk: the proof
that it hit its window. How often a window is struck in all, over all workers, is limited by files that only one can
create.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import sqlalchemy.orm

from hpo.search.samplers import suggest
from hpo.storage.trials import batch_writes
from hpo.study.definition import StudyDefinition
from hpo.study.references import Sources
from hpo.workers import budget
from hpo.workers.slots import NoTrial

INSIDE_LOCK = "inside the lock"
IN_TRANSACTION = "in the insert's transaction"
AFTER_INSERT = "after the insert"
IN_TRIAL = "in a trial"


@dataclass(frozen=True)
class Faults:
    """What is to happen to the workers of a study.

    Attributes:
        windows: window -> how often it is struck.
        act: `kill`, `pause`, or `linger`, which stays in the window for some seconds.
        chance: of a strike, each time that a worker passes the window.
        slots: slot -> what its first trial does: `raises`, `eats memory`, `hangs`.
        trial_seconds: the longest that a trial takes.
    """

    windows: dict[str, int] = field(default_factory=dict)
    act: str = "kill"
    chance: float = 0.1
    slots: dict[str, str] = field(default_factory=dict)
    trial_seconds: float = 0.05
    linger_seconds: float = 3.0

    def write(self, folder: Path) -> None:
        """Tells the workers whose data folder this is."""
        (folder / "faults.json").write_text(json.dumps(asdict(self)))


def read_strikes(folder: Path) -> list[dict[str, Any]]:
    """Returns the strikes so far: window, pid, time, and for a trial's own its slot."""
    file = folder / "strikes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def make_objective(definition: StudyDefinition, device: str, sources: Sources) -> Target:
    """Returns the objective, its worker prepared to be struck."""
    faults = Faults(**json.loads((sources.data / "faults.json").read_text()))
    target = Target(definition, sources.data, faults)
    target.arm()
    return target


class Target:
    """Suggests, sleeps, and returns a value; strikes where the faults say so."""

    device = "chaos"

    def __init__(self, definition: StudyDefinition, folder: Path, faults: Faults) -> None:
        self._definition, self._folder, self._faults = definition, folder, faults
        self._random = random.Random(os.getpid())

    def __call__(self, trial: optuna.Trial, step_done: object = None) -> float:
        """Evaluates a trial."""
        with batch_writes(trial):
            params = suggest(trial, self._definition)
        trial.report(50.0, step=1)
        self._strike(IN_TRIAL)
        self._fail(str(_slot(trial)))
        time.sleep(self._random.uniform(0.2, 1.0) * self._faults.trial_seconds)
        if self._random.random() < 0.3:
            raise optuna.TrialPruned
        value = 10 + abs(float(params["learning_rate"]) - 0.1) * 30
        with batch_writes(trial):
            trial.set_user_attr("errors", [value])
            trial.set_user_attr("std", None)
        return value

    def arm(self) -> None:
        """Puts a strike into each window of this process."""
        self._wrap(budget, "find_slot", after=INSIDE_LOCK)
        self._wrap(budget, "ask", after=AFTER_INSERT)

        @sa.event.listens_for(sa.Engine, "after_cursor_execute")
        def _executed(connection: sa.Connection, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("INSERT INTO trials "):
                self._strike(IN_TRANSACTION)

    def _wrap(self, owner: Any, name: str, *, after: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not isinstance(result, NoTrial):
                self._strike(after)
            return result

        setattr(owner, name, wrapped)

    def _strike(self, window: str) -> None:
        if self._random.random() < self._faults.chance and self._take(window, self._faults.windows.get(window, 0)):
            self._record(window=window)
            if self._faults.act == "linger":
                time.sleep(self._faults.linger_seconds)
            else:
                os.kill(os.getpid(), signal.SIGKILL if self._faults.act == "kill" else signal.SIGSTOP)

    def _fail(self, slot: str) -> None:
        fault = self._faults.slots.get(slot)
        if fault is None or not self._take(f"slot {slot}", 1):
            return
        self._record(window=fault, slot=int(slot))
        if fault == "raises":
            raise ArithmeticError("the numbers ran out")
        if fault == "eats memory":
            _run_out_of_memory(self._folder)
        time.sleep(3600)

    def _take(self, window: str, times: int) -> bool:
        for number in range(times):
            try:
                os.close(os.open(self._folder / f"{window} {number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def _record(self, **strike: Any) -> None:
        line = json.dumps({**strike, "pid": os.getpid(), "time": time.time()}) + "\n"
        descriptor = os.open(self._folder / "strikes.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
        os.close(descriptor)


def _slot(trial: optuna.Trial) -> int:
    (shown,) = (one for one in trial.study.trials if one.number == trial.number)
    return int(shown.user_attrs["slot"])


def _run_out_of_memory(folder: Path) -> None:
    """Gets this process killed by the kernel for lack of memory, in a control group where there can be one."""
    group = folder / "memory"
    if group.exists():
        (group / "tasks").write_text(str(os.getpid()))
        hoard = [bytearray(16 * 2**20) for _ in range(1000)]
        raise AssertionError(f"the kernel let {len(hoard)} x 16 MiB pass")
    os.kill(os.getpid(), signal.SIGKILL)
