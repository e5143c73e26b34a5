"""A storage with a study on it, and the machines that work on it: real processes, each a parent with its workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from hpo.storage.claims import FINISHED
from hpo.storage.queries import StoredTrial, count_trials, read_trials
from hpo.study.references import Sources
from hpo.workers.launch import begin
from hpo.workers.plan import Plan
from hpo.workers.status import Status, read_status
from tests.chaos import parent
from tests.chaos.faults import Faults, read_strikes
from tests.conftest import defined
from tests.warm import WARM, share_server, warm_workers

STUDY: dict[str, Any] = {
    "title": "A study under fire",
    "task": {"name": "digit_pairs", "dataset": "digits"},
    "training": {"epochs": 2, "evaluate_at": [1]},
    "protocol": {"rounds": 1},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "space": {
        "architecture": ["fnn"],
        "weight_sharing": [True, False],
        "auxiliary_loss": [True],
        "activation": ["relu"],
        "optimizer": ["sgd", "adam"],
        "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    },
}


class Machine:
    """A parent process with its workers.

    Args:
        warm: whether these are forked from a process that has imported everything; see tests/warm.py.
    """

    def __init__(
        self, field: Field, workers: int, prefix: Sequence[str] = (), url: str | None = None, warm: bool = False
    ) -> None:
        arguments = [url or field.url, str(field.budget), str(workers), str(field.folder)]
        self._said = field.folder / f"machine-{time.monotonic_ns()}.txt"
        self._process = _Forked(arguments, self._said) if warm else _Started(prefix, arguments, self._said)
        self.pid = self._process.pid

    def is_running(self) -> bool:
        """Says whether it runs."""
        return self._process.poll() is None

    def interrupt(self) -> int:
        """Presses Ctrl-C, and returns the exit code."""
        os.kill(self.pid, signal.SIGINT)
        return self._process.wait(30)

    def kill(self) -> None:
        """Kills it and its workers at the same moment."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)

    def wait(self, seconds: float) -> int:
        """Waits for its end, and returns the exit code."""
        return self._process.wait(seconds)

    def said(self) -> str:
        """Returns what it and its workers wrote to standard error."""
        return self._said.read_text()


class _Started(subprocess.Popen[bytes]):
    """A parent process in a session of its own."""

    def __init__(self, prefix: Sequence[str], arguments: Sequence[str], said: Path) -> None:
        command = [*prefix, sys.executable, "-m", "tests.chaos.parent", *arguments]
        with said.open("w") as error:
            super().__init__(command, stdout=subprocess.DEVNULL, stderr=error, start_new_session=True)


class _Forked:
    """A parent process in a process group of its own, forked from the warm one as its workers are."""

    def __init__(self, arguments: Sequence[str], said: Path) -> None:
        said.touch()
        self._process = WARM.Process(target=_be_parent, args=(arguments, said))
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"it still runs after {seconds:g} s")
        return self._process.exitcode


def _be_parent(arguments: Sequence[str], said: Path) -> None:
    os.setpgid(0, 0)
    for stream, file in ((1, os.devnull), (2, said)):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)
    share_server()
    with warm_workers():
        sys.exit(parent.main(*arguments))


class Field:
    """A study with a budget, and what can be done to those who work on it.

    Attributes:
        poll_seconds: between two looks, where something is waited for.
        warm: whether processes are forked from one that has imported everything.
    """

    poll_seconds = 0.02
    warm = False

    def __init__(
        self, url: str, folder: Path, *, seed: int, budget: int, faults: Faults | None = None, **run: Any
    ) -> None:
        self.url, self.folder, self.budget = url, folder, budget
        self.random = random.Random(seed)
        self.machines: list[Machine] = []
        self.faults = faults or Faults()
        self.faults.write(folder)
        definition = defined({**STUDY, "run": run}, name="chaos")
        self.storage = begin(url, Plan("chaos", definition, budget), Sources(folder))

    def launch(
        self, *, machines: int = 2, workers: int = 4, prefix: Sequence[str] = (), url: str | None = None
    ) -> None:
        """Starts machines with so many workers each."""
        self.machines += [Machine(self, workers, prefix, url, self.warm) for _ in range(machines)]

    def status(self) -> Status:
        """Returns how far the study is."""
        return read_status(self.storage, "chaos")

    def strikes(self) -> list[dict[str, Any]]:
        """Returns what faults have struck."""
        return read_strikes(self.folder)

    def wait_until(self, condition: Callable[[], Any], seconds: float = 90.0) -> None:
        """Waits for a condition, while the machines run."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds:g} s in vain; {self.status()}; {self.said()[-2000:]}")
            time.sleep(self.poll_seconds)

    def wait_until_finished(self, count: int) -> None:
        """Waits until so many trials are finished."""
        self.wait_until(lambda: self.status().finished >= count)

    def said(self) -> str:
        """Returns what all machines wrote to standard error."""
        return "".join(machine.said() for machine in self.machines)

    def failed(self) -> list[StoredTrial]:
        """Returns the trials that failed."""
        return read_trials(self.storage, "chaos", states=(TrialState.FAIL,))

    def close(self) -> None:
        """Ends whatever still runs."""
        for machine in self.machines:
            if machine.is_running():
                machine.kill()
        self.storage.engine.dispose()

    def end(self, *, seconds: float = 120.0) -> None:
        """Waits for the machines' end, repeats the command, and makes sure that the study came out exactly."""
        for machine in self.machines:
            if machine.is_running():
                code = machine.wait(seconds)
                check(code == 0, f"a machine ended with exit code {code}: {machine.said()[-2000:]}")
        self._check_exact()
        before = self.status().trials
        self.launch(machines=1, workers=2)
        check(self.machines[-1].wait(60) == 0, "the command repeated after the end fails")
        check(self.status().trials == before, "the command repeated after the end starts trials")
        said = self.said()
        check("Traceback" not in said and "ended with exit code" not in said, f"a worker crashed: {said[-3000:]}")

    def _check_exact(self) -> None:
        counts = {state.name: count for state, count in count_trials(self.storage, "chaos").items() if count}
        finished = [trial.attributes["slot"] for trial in read_trials(self.storage, "chaos", states=FINISHED)]
        check(self.status().finished == self.budget, f"{counts} instead of {self.budget} finished")
        check(counts.get("RUNNING", 0) == 0, f"{counts} after the end")
        check(sorted(finished) == list(range(self.budget)), f"slots {sorted(finished)}")


def check(holds: bool, complaint: str) -> None:
    """Raises where something does not hold."""
    if not holds:
        raise AssertionError(complaint)
