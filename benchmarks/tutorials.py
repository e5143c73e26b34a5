"""Brings three problems of public tutorials to exactly 30 trials on PostgreSQL, though a worker is killed on the way.

    python -m benchmarks.tutorials                 # takes eight minutes; needs the test extra, and MNIST in HPO_DATA
    python -m benchmarks.tutorials iris -o reports # one of them; what is written is kept

They are those of `examples/tutorials/`, run by the commands that a user would type, each on a server of its own. Once
some trials are finished, one of two workers is killed by SIGKILL; how many trials ended is then asked of Optuna, not of
hpo. The best are confirmed on fresh rounds, the study is reported, and where there is a network, it is exported and
tried on the whole test set. A step that fails is printed, the others go on, and the exit code is 1.

Lines of code are those that are neither blank nor a comment nor a docstring: of the study's two files, and of the
tutorial, as it was at the place that is named, to its end: its plots and command line are among them.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

import hpo
from hpo.errors import HpoError
from hpo.text.formatting import figure, interval, spread
from tests.postgres import TemporaryPostgres

FOLDER = Path(__file__).parents[1] / "examples" / "tutorials"
TRIALS, WORKERS, TOP, ROUNDS = 30, 2, 3, 10
KILL_AFTER = 6  # finished trials
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
COLUMNS = (
    *("study", "finished (pruned)", "failed", "worker killed", "best", "confirmed (95 %)", "optimism"),
    *("network: exported, on all tests", "s", "lines .py + .toml", "tutorial's"),
)


@dataclass(frozen=True)
class Tutorial:
    """Where a problem comes from, and how many lines it took there; counted at `source`."""

    title: str
    url: str
    source: str
    lines: int
    has_network: bool = False


TUTORIALS = {
    "iris": Tutorial(
        "Optuna, sklearn_simple.py",
        "https://github.com/optuna/optuna-examples/blob/main/sklearn/sklearn_simple.py",
        "optuna/optuna-examples@2460c9196389031b869b110171c48215426fc2d9",
        24,
    ),
    "diabetes": Tutorial(
        "scikit-learn, Gradient Boosting regression",
        "https://scikit-learn.org/stable/auto_examples/ensemble/plot_gradient_boosting_regression.html",
        "scikit-learn/scikit-learn@08774b9a3107535b678ad89f4e6c05fdac245d29",
        64,
    ),
    "mnist": Tutorial(
        "Optuna, skorch_simple.py",
        "https://github.com/optuna/optuna-examples/blob/main/pytorch/skorch_simple.py",
        "optuna/optuna-examples@07431ff843485ee9aa9802002c34b8538e44964f",
        72,
        has_network=True,
    ),
}


@dataclass
class Outcome:
    """What came of one problem."""

    finished: int = 0
    pruned: int = 0
    failed: int = 0
    killed: str = ""
    best: str = ""
    confirmed: str = ""
    optimism: str = ""
    network: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Runner:
    """Types the commands of a study, on a database of its own.

    Args:
        folder: the working folder, into which reports and networks are written.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name, self.url, self.folder = name, url, folder
        self._environment = {**os.environ, "HPO_STORAGE": url, "PYTHONPATH": str(Path(hpo.__file__).parents[1])}
        self._study = ("--study", str(FOLDER / f"{name}.toml"))

    def start(self, command: str, *options: str, **streams: Any) -> subprocess.Popen[str]:
        """Starts a command on the study."""
        words = [sys.executable, "-m", "hpo", command, *self._study, *options]
        return subprocess.Popen(words, env=self._environment, cwd=self.folder, text=True, **streams)

    def run(self, command: str, *options: str) -> str:
        """Returns what a command prints.

        Raises:
            RuntimeError: where it fails; with the last line of what it says.
        """
        process = self.start(command, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = process.communicate()
        if process.returncode:
            last = (error.strip().splitlines() or [""])[-1]
            raise RuntimeError(f"hpo {command} ended with exit code {process.returncode}: {last}")
        return out

    def trials(self) -> list[FrozenTrial]:
        """Returns the study's trials, as Optuna reads them; none while there is no study."""
        try:
            hpo.load_results(self.name, self.url)  # unlike Optuna, it makes no tables where there are none yet
        except HpoError:
            return []
        return optuna.load_study(study_name=self.name, storage=self._storage).trials

    @cached_property
    def _storage(self) -> RDBStorage:
        return RDBStorage(self.url)


def search(runner: Runner) -> str:
    """Searches, and kills a worker on the way; returns which, in which trial.

    Raises:
        RuntimeError: where the command fails, or ends before a worker is killed.
    """
    killed = ""
    with (runner.folder / "optimize.log").open("w+") as log:
        process = runner.start("optimize", "--trials", str(TRIALS), "--workers", str(WORKERS), stdout=log, stderr=log)
        try:
            while process.poll() is None:
                killed = killed or kill_worker(process.pid, runner.trials())
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        if process.returncode or not killed:
            raise RuntimeError(f"hpo optimize ended with exit code {process.returncode}: {log.read()[-500:]}")
    return killed


def kill_worker(parent: int, trials: Sequence[FrozenTrial]) -> str:
    """Kills a worker that is in a trial, once some are finished; returns which, or nothing where it is too early."""
    if sum(trial.state in ENDED for trial in trials) < KILL_AFTER:
        return ""
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        children = {child.pid: child for child in psutil.Process(parent).children(recursive=True)}
        for trial in trials:
            pid = trial.user_attrs.get("worker", {}).get("pid")
            if trial.state is TrialState.RUNNING and pid in children:
                children[pid].kill()
                return f"{pid}, in trial {trial.number}"
    return ""


def go_through(name: str, url: str, folder: Path) -> Outcome:
    """Searches, confirms, reports and exports; what fails is in the outcome."""
    runner, found, began = Runner(name, url, folder), Outcome(), time.monotonic()
    steps = [_search, _confirm, _report, *([_export] if TUTORIALS[name].has_network else [])]
    for step in steps:
        try:
            step(runner, found)
        except (RuntimeError, AssertionError) as error:
            found.wrong.append(f"{name}: {error}")
    found.seconds = time.monotonic() - began
    return found


def _search(runner: Runner, found: Outcome) -> None:
    found.killed = search(runner)
    states = Counter(trial.state for trial in runner.trials())
    found.finished, found.pruned = sum(states[state] for state in ENDED), states[TrialState.PRUNED]
    found.failed = states[TrialState.FAIL]
    assert found.finished == TRIALS, f"{found.finished} trials are finished, not {TRIALS}"
    assert found.finished + found.failed == states.total(), f"there are trials neither finished nor failed: {states}"
    best = json.loads(runner.run("best", "--json"))
    found.best = spread(best["value"], best["std"], best["unit"])


def _confirm(runner: Runner, found: Outcome) -> None:
    said = json.loads(runner.run("confirm", "--top", str(TOP), "--rounds", str(ROUNDS), "--json"))
    first, unit = said["confirmed"][0], said["unit"]
    found.confirmed = f"{figure(first['mean'], unit, first['std'])} ({interval(first['low'], first['high'], unit)})"
    found.optimism = figure(first["optimism"], unit, first["std"])


def _report(runner: Runner, found: Outcome) -> None:
    runner.run("report", "-o", "report")
    for ending in ("html", "md"):
        file = runner.folder / "report" / f"{runner.name}.{ending}"
        assert file.is_file(), f"{file} is not there"
        assert file.stat().st_size > 1000, f"{file} is empty"


def _export(runner: Runner, found: Outcome) -> None:
    described = json.loads(runner.run("export", "-o", f"report/{runner.name}", "--json"))
    network = hpo.load_network(runner.folder / "report" / f"{runner.name}.safetensors", code=FOLDER)
    found.network = f"{described['error']['mean']:.3g} %, loaded {mnist_error(network):.3g} %"


def mnist_error(network: Any) -> float:
    """Returns the percentage of MNIST's 10 000 test images that a network takes for another digit."""
    from torchvision.datasets import MNIST

    test = MNIST(os.environ["HPO_DATA"], train=False)
    return 100 * float((network(test.data[:, None] / 255).argmax(-1) != test.targets).double().mean())


def count_lines(file: Path) -> int:
    """Returns how many lines of a file of Python or TOML are neither blank nor a comment nor a docstring."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".toml":
        return sum(bool(line.partition("#")[0].strip()) for line in text.splitlines())
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {row for one in tokens if one.type not in ignored for row in range(one.start[0], one.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            said = node.body[0]
            lines -= set(range(said.lineno, (said.end_lineno or said.lineno) + 1))
    return len(lines)


def row(name: str, found: Outcome) -> list[str]:
    """Returns a problem's cells of the table."""
    code, study = (count_lines(FOLDER / f"{name}.{kind}") for kind in ("py", "toml"))
    return [
        *(name, f"{found.finished} ({found.pruned})", str(found.failed), found.killed, found.best, found.confirmed),
        *(found.optimism, found.network, f"{found.seconds:.0f}", f"{code} + {study}", str(TUTORIALS[name].lines)),
    ]


def main() -> int:
    """Prints the table; returns 0 where all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(TUTORIALS), help=", ".join(TUTORIALS))
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="keep what is written here")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(TUTORIALS)):
        parser.error(f"there is no {unknown[0]}; there are {', '.join(TUTORIALS)}")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.names:
            folder = (asked.output or Path(temporary)).resolve() / name
            folder.mkdir(parents=True, exist_ok=True)
            server = TemporaryPostgres()
            try:
                found = go_through(name, server.create_database(name), folder)
            finally:
                server.remove()
            wrong += found.wrong
            print(f"| {' | '.join(row(name, found))} |", flush=True)
    for line in wrong:
        print(f"\nWRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
