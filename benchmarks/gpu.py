"""What a GPU makes of the program: its tests there, and tables of trials alone, several at once, and rivals beside.

    python -m benchmarks.gpu                   # all of it, under four minutes on one card; make gpu
    python -m benchmarks.gpu --device cpu fnn  # that the script runs: no figure of a CPU means anything here

Report A's final configuration by the protocol of `studies/cnn.toml`, nothing pruned: ten rounds, 25 epochs, nine
evaluations. Tables are printed, and written to gpu.md and gpu.json in the folder of --output as they come, so that a
machine that is lost loses one part. A part that fails says so, and the others go on. Rivals: `benchmarks.rivals` and,
where JAX is installed, `benchmarks.rival_jax`. Needs MNIST (HPO_DATA), torch and Triton, and no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.report_a import cnn_rounds, cnn_task, final_params
from benchmarks.speed import Timing, time_rival
from hpo.provenance import versions
from hpo.study.task import Measurement, Params
from hpo.study.training import Training
from hpo.text.markdown import markdown_table
from hpo.training.device import describe_device, find_device
from hpo.training.trainer import Trainer

ARCHITECTURES = ("fnn", "cnn_bn", "cnn", "simple_cnn", "residual")
AT_ONCE = (1, 2, 4, 8)
ROUNDS = 10
TESTS = ("tests/kernels/gpu", "tests/training/test_rounds.py", "tests/training/test_several_trials.py")
JAX = ("benchmarks.rival_jax", "scan")
LOADER = ("benchmarks.rivals", "loader")
RIVALS_OF = ("fnn", "cnn_bn")
PRECISIONS = ("float32", "tf32", "bfloat16")
PATIENCE_SECONDS = 60.0
TESTS_SECONDS = 150.0


class Tables:
    """Tables that are printed and written as they come.

    Args:
        folder: of gpu.md and gpu.json.
    """

    def __init__(self, folder: Path, head: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._parts, self._numbers, self._began = (
            folder / "gpu.md",
            [head],
            folder / "gpu.json",
            time.time(),
        )
        self.found: dict[str, Any] = {"head": head}

    def part(self, name: str, make: Callable[[], list[list[str]]]) -> None:
        """Adds a part: its name, and its table or why there is none."""
        began = time.time()
        try:
            text = markdown_table(make())
        except Exception:
            text = f"failed:\n\n```\n{traceback.format_exc()[-2000:]}```"
        took = f"({time.time() - began:.0f} s; at {time.time() - self._began:.0f} s)"
        self._parts.append(f"### {name}\n\n{text}")
        print(f"\n{name} {took}\n\n{text}", flush=True)
        self._file.write_text("\n\n".join(self._parts) + "\n")
        self._numbers.write_text(json.dumps(self.found, indent=1))


def settle(device: torch.device) -> None:
    """Waits until a device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_trainer(device: torch.device, **changes: Any) -> Trainer:
    """Returns a trainer of the cnn study."""
    task, training = cnn_task()
    return Trainer(task, Training(**{**training.model_dump(), **changes}), device, stacked=True)


def timed(
    trainer: Trainer, params: Params, device: torch.device, rounds: range = range(ROUNDS)
) -> tuple[float, list[float]]:
    """Returns the seconds of a trial, and its test errors."""
    settle(device)
    began = time.perf_counter()
    *_, last = trainer.measure(params, cnn_rounds(rounds))
    return time.perf_counter() - began, list(last.errors["recognition"])


def alone(device: torch.device, architectures: list[str], found: dict[str, Any]) -> list[list[str]]:
    """Returns how long a trial takes alone: the first of a structure, and those that follow."""
    rows = [["", "first trial, s", "s a trial", "error", "the same twice"]]
    for architecture in architectures:
        trainer, params = make_trainer(device), final_params(architecture)
        first, _ = timed(trainer, params, device)
        again = [timed(trainer, params, device) for _ in range(3)]
        seconds, errors = min(one for one, _ in again), again[0][1]
        same = all(one == errors for _, one in again)
        found.setdefault("alone", {})[architecture] = {
            "first": first,
            "seconds": seconds,
            "errors": errors,
            "same": same,
        }
        error = f"{fmean(errors):.2f} ± {stdev(errors):.2f}"
        rows.append([architecture, f"{first:.1f}", f"{seconds:.4f}", error, "yes" if same else "NO"])
    return rows


def together(trainer: Trainer, params: Sequence[Params]) -> list[list[float]]:
    """Runs trials at once as a worker does, each gone on with when it is ready; returns their errors."""
    rounds = cnn_rounds(range(ROUNDS))
    running: dict[int, tuple[Iterator[Measurement], Measurement | None]] = {
        number: (trainer.measure(one, rounds), None) for number, one in enumerate(params)
    }
    errors: list[list[float]] = [[] for _ in params]
    while running:
        for number, (trial, waits_for) in list(running.items()):
            if waits_for is not None and not waits_for.ready():
                continue
            try:
                measured = next(trial)
            except StopIteration:
                del running[number]
                continue
            running[number] = trial, measured
            errors[number] = list(measured.errors.get("recognition", errors[number]))
    return errors


def at_once(device: torch.device, architectures: list[str], found: dict[str, Any]) -> list[list[str]]:
    """Returns seconds a trial of several at once, and whether their neighbours change what they come to."""
    rows = [["", *(f"{number} at once, s a trial" for number in AT_ONCE), "found by itself", "as alone"]]
    for architecture in architectures:
        trainer, params = make_trainer(device), final_params(architecture)
        _, expected = timed(trainer, params, device)
        cells, same = [], True
        for number in AT_ONCE:
            many = [params] * number
            together(trainer, many)  # records what is missing
            settle(device)
            began = time.perf_counter()
            same &= all(errors == expected for errors in together(trainer, many))
            seconds = (time.perf_counter() - began) / number
            found.setdefault("at_once", {}).setdefault(architecture, {})[number] = seconds
            cells.append(f"{seconds:.4f}")
        chosen = trainer.at_once(None, params, cnn_rounds(range(ROUNDS)))
        rows.append([architecture, *cells, str(chosen), "yes" if same else "NO"])
    return rows


def rivals(device: str, architectures: list[str], found: dict[str, Any]) -> list[list[str]]:
    """Returns what rivals take for the same ten rounds, in seconds."""
    rows = [["", "JAX, a scan over vmapped rounds", "Optuna's example: DataLoader", "ours alone, and four at once"]]
    for architecture in (one for one in architectures if one in RIVALS_OF):
        cells = []
        for module, how in (JAX, LOADER):
            rounds = range(ROUNDS if how == "scan" else 2)
            timing = time_rival(module, how, architecture, device, rounds, PATIENCE_SECONDS)
            cells.append(f"{ROUNDS * timing.seconds:.3f}" if isinstance(timing, Timing) else str(timing))
        ours = found.get("alone", {}).get(architecture, {}).get("seconds", float("nan"))
        four = found.get("at_once", {}).get(architecture, {}).get(4, float("nan"))
        rows.append([architecture, *cells, f"{ours:.4f}, {four:.4f}"])
    return rows


def search(device: str, trials: int) -> list[list[str]]:
    """Returns how long a search of the cnn study takes, the start of the command included."""
    rows = [["command", "wall, s", "last lines"]]
    with tempfile.TemporaryDirectory() as folder:
        words = ["optimize", "--study", "cnn", "--trials", str(trials), "--workers", "auto", "--device", device]
        command = [sys.executable, "-m", "hpo", *words, "--storage", f"sqlite:///{folder}/hpo.db"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        seconds = time.perf_counter() - began
        said = " / ".join((done.stderr + done.stdout).strip().splitlines()[-12:])
        rows.append([f"hpo {' '.join(words)}", f"{seconds:.1f}", f"exit {done.returncode}: {said[-300:]}"])
    return rows


def precisions(device: torch.device, found: dict[str, Any]) -> list[list[str]]:
    """Returns what TF32 and bfloat16 make of the error, over 30 rounds, and of the time."""
    rows = [["precision of cnn", "s a trial", "error, 30 rounds", "less float32's, round by round"]]
    exact: list[float] = []
    for precision in PRECISIONS:
        trainer = make_trainer(device, precision=precision)
        errors: list[float] = []
        for first in (0, 10, 20):
            rounds = range(first, first + ROUNDS)
            _, more = timed(trainer, final_params("cnn"), device, rounds)  # which records a structure of its own
            errors = [*errors, *more]
        seconds, _ = timed(trainer, final_params("cnn"), device, rounds)
        exact = exact or errors
        by = [one - other for one, other in zip(errors, exact, strict=True)]
        found.setdefault("precisions", {})[precision] = errors
        rows.append(
            [
                *(precision, f"{seconds:.4f}", f"{fmean(errors):.2f} ± {stdev(errors):.2f}"),
                f"{fmean(by):+.3f} (standard error {stdev(by) / len(by) ** 0.5:.3f})",
            ]
        )
    return rows


def tested() -> list[list[str]]:
    """Runs the tests of what a GPU does."""
    several = ["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []  # they wait for a compiler
    how = ["-q", "--no-header", "-p", "no:cacheprovider", "-W", "default", "-m", "not slow", *several]
    command = [sys.executable, "-m", "pytest", *how, *TESTS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TESTS_SECONDS)
        said, code = done.stdout, str(done.returncode)
    except subprocess.TimeoutExpired as late:
        said, code = (late.stdout or b"").decode(errors="replace"), f"not done after {TESTS_SECONDS:g} s"
    return [["tests", "exit code"], [" ".join(said.strip().splitlines()[-3:])[-600:], code]]


def main() -> None:
    """Makes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", default=list(ARCHITECTURES))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", type=Path, default=Path("gpu"))
    parser.add_argument("--trials", type=int, default=200, help="of the search")
    given = parser.parse_args()
    device = find_device(given.device)
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    tables = Tables(given.output, f"{describe_device(device)}; {known}")
    names, found = given.architectures, tables.found
    for name in names:  # each for itself: what one cannot do the others may
        tables.part(f"A trial alone: {name}", partial(alone, device, [name], found))
        tables.part(f"Several trials at once: {name}", partial(at_once, device, [name], found))
    tables.part("Rivals", partial(rivals, device.type, names, found))
    tables.part("A search", partial(search, given.device, given.trials))
    tables.part("Tests", tested)
    tables.part("Precision", partial(precisions, device, found))


if __name__ == "__main__":
    main()
