"""How many rounds a second a study trains, beside rivals that train the same, all in one run.

    python -m benchmarks.speed                 # every architecture: an hour on two cores
    python -m benchmarks.speed fnn cnn         # some
    python -m benchmarks.speed --device cuda   # on a GPU, the rivals too

Ours is `hpo optimize` as it stands: worker processes, SQLite, every trial stored; clocked while all workers train, from
when the last of them has ended its first trial, which is warm-up, until the first has ended its last; a trial on the
way counts by its part that lies between. What the machine itself gains by its second core is measured in every pass
too, by products of matrices that stay within a core's cache: two processes' rate over one's.

On a shared machine the same program takes half as long again a minute later, so all are measured in turn, a few rounds
each, and then again on other rounds: shown is the lowest time, and the median of the passes' ratios, with the lowest
and the highest. Rivals: `benchmarks.rivals`, `benchmarks.rival_jax` (where JAX is installed), each in a process of its
own, warm-up not counted. All measure report A's final configuration by the protocol of `studies/cnn.toml`, nothing
pruned, and show the error that they reach: who does not train does not count.

The ceiling: the multiply-adds of a round, as PyTorch counts them, against the machine's rate in a large product of
matrices on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report_a import cnn_task, final_params
from hpo.provenance import cpu_name, versions
from hpo.storage.queries import read_trials
from hpo.study.catalog import load_study
from hpo.study.definition import StudyDefinition, define_study
from hpo.study.references import Sources
from hpo.study.resolving import resolve
from hpo.tasks.datasets import data_folder
from hpo.workers.devices import assign_devices
from hpo.workers.launch import begin, run_study
from hpo.workers.plan import Plan

ARCHITECTURES = ("fnn", "cnn", "cnn_bn", "residual")
RIVALS = {
    "(a) Optuna's example: DataLoader": ("benchmarks.rivals", "loader"),
    "(a) batches sliced by hand": ("benchmarks.rivals", "sliced"),
    "(b) sliced, torch.compile": ("benchmarks.rivals", "compiled"),
    "(c) JAX, a scan over vmapped rounds": ("benchmarks.rival_jax", "scan"),
    "(c) JAX, a program for a step": ("benchmarks.rival_jax", "steps"),
}
ALONE = "hpo, 1 worker"
VARIANTS: dict[str, dict[str, Any]] = {
    "tested after the last epoch alone": {"evaluate_at": []},
    "bfloat16": {"precision": "bfloat16"},
}
ROUNDS = {"fnn": 10, "cnn": 4, "cnn_bn": 4, "residual": 2}  # at a time: all ten where they are stacked
TRIALS = {"fnn": 6}  # for each worker, after one that warms up; two of the others
PASSES = {"fnn": 3, "residual": 1}  # two of the others
GAINS = 3  # measurements of the machine's own gain in a pass
PATIENCE_SECONDS, PATIENCE = 60, 4  # for a rival's warm-up, and so many times our own seconds


@dataclass(frozen=True)
class Timing:
    """What one program needed: seconds for a round, warm-up, and the errors of its rounds."""

    seconds: float
    warm_up: float
    errors: list[float]


def study_of(architecture: str, trials: int, rounds: range, changes: dict[str, Any]) -> StudyDefinition:
    """Returns a study that measures report A's final configuration so many times; `changes` are to its training."""
    table = load_study("cnn")[1].model_dump(mode="json", include={"task", "training", "protocol"})
    table["training"] |= changes
    table["protocol"] |= {"first_round": rounds.start, "rounds": len(rounds)}
    listed = [{"label": str(i), "params": final_params(architecture)} for i in range(trials)]
    return resolve(define_study({**table, "title": "speed", "trial": listed}, name="speed"), study="speed")


def time_ours(architecture: str, devices: list[str], rounds: range, **changes: Any) -> Timing:
    """Runs a study with a worker on each device, and clocks it while all of them train."""
    each = TRIALS.get(architecture, 2)
    trials = (each + 1) * len(devices)
    plan = Plan("speed", study_of(architecture, trials, rounds, changes), trials)
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        storage = begin(f"sqlite:///{folder}/speed.db", plan, Sources(data_folder()))
        run_study(storage, plan, devices=devices, sources=Sources(data_folder()), show=lambda _: None)
        done = read_trials(storage, "speed")
    ends: dict[int, list[float]] = {}
    for trial in done:
        if trial.finished is not None:
            ends.setdefault(trial.attributes["worker"]["pid"], []).append(trial.finished.timestamp())
    seconds = 1 / (trials_per_second([sorted(times) for times in ends.values()]) * len(rounds))
    return Timing(seconds, min(map(min, ends.values())) - began, done[0].attributes["errors"])


def trials_per_second(ends: list[list[float]]) -> float:
    """Returns how many trials workers end in a second while all of them work; each one's ends, in order."""
    since, until = max(times[0] for times in ends), min(times[-1] for times in ends)
    if since >= until:
        raise RuntimeError("the workers did not work at the same time; ask for more trials")
    ended = [np.diff(np.interp((since, until), times, range(len(times)))).item() for times in ends]
    return sum(ended) / (until - since)


def machine_gain(processes: int, seconds: float = 2.0) -> float:
    """Returns the rate of several processes over that of one, in products of matrices that stay in a core's cache."""
    context = get_context("spawn")
    together = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _remember, (together,)) as pool:
        everyone = [processes] * processes
        list(pool.map(_products, [0.1] * processes, everyone))  # all are up
        alone = pool.submit(_products, seconds, 1).result()
        return sum(pool.map(_products, [seconds] * processes, everyone)) / alone


_meeting: list[Barrier] = []  # of this process


def _remember(barrier: Barrier) -> None:
    _meeting.append(barrier)


def _products(seconds: float, processes: int, size: int = 64) -> float:
    if processes > 1:  # each process takes one
        _meeting[0].wait()
    torch.set_num_threads(1)
    a, b, product = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            torch.mm(a, b, out=product)
        done += 100
    return done / (time.perf_counter() - began)


def time_rival(module: str, how: str, architecture: str, device: str, rounds: range, patience: float) -> Timing | str:
    """Runs a rival in a process of its own, for so many seconds; says why where it gave nothing."""
    command = [sys.executable, "-m", module, how, architecture, device, str(rounds.start), str(len(rounds))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience, check=False,
            env={**os.environ, "JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done after {patience:.0f} s, {PATIENCE} times ours and a minute"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:60]
    found = json.loads(done.stdout.splitlines()[-1])
    return Timing(found["seconds"] / len(rounds), found["warm_up_seconds"], found["errors"])


def multiply_adds(architecture: str) -> float:
    """Returns the multiply-adds of a round: its training steps and its evaluations."""
    task, training = cnn_task()
    network = task.network(architecture, "leaky_relu", weight_sharing=True)
    images = torch.zeros(training.batch_size, 2, 14, 14)
    with FlopCounterMode(display=False) as step:
        comparison, digits = network(images)
        loss = functional.cross_entropy(comparison, torch.zeros(training.batch_size, dtype=torch.long)) + digits.sum()
        loss.backward()
    with FlopCounterMode(display=False) as look, torch.no_grad():
        network(images)
    steps = training.epochs * task.train_pairs // training.batch_size
    looks = (len(training.evaluate_at) + 1) * task.drawn_test_pairs // training.batch_size
    return float(steps * step.get_total_flops() + looks * look.get_total_flops()) / 2


def core_rate(size: int = 2048) -> float:
    """Returns how many multiply-adds a second one core does in a large product of matrices; the best of five."""
    torch.set_num_threads(1)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return float(size**3 / best)


def main() -> None:
    """Prints a table for each architecture, and what they share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", default=ARCHITECTURES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    asked = parser.parse_args()
    many = assign_devices("auto", asked.device)
    if asked.device == "cuda":
        many = many * 4
    shown = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{cpu_name()}, {len(many)} workers; {shown}\n", flush=True)
    for architecture in asked.architectures:
        work, rate = multiply_adds(architecture), core_rate()
        print(
            f"### {architecture}: {work / 1e9:.2f} G multiply-adds a round; one core does {rate / 1e9:.1f} G a second\n"
        )
        compare(architecture, many, asked.device, work / rate)


def compare(architecture: str, many: list[str], device: str, ideal: float) -> None:
    """Measures every program in turn, several times over, and prints a table of them.

    Args:
        ideal: the seconds that a round would take at the rate of one core.
    """
    found: dict[str, list[Timing]] = {}
    failed: dict[str, str] = {}
    gains: list[float] = []
    passes, count = PASSES.get(architecture, 2), ROUNDS[architecture]
    for number in range(passes):
        rounds = range(number * count, (number + 1) * count)
        ours = time_ours(architecture, many, rounds)
        found.setdefault(f"hpo, {len(many)} workers", []).append(ours)
        found.setdefault(ALONE, []).append(time_ours(architecture, many[:1], rounds))
        gains += [machine_gain(len(many)) for _ in range(GAINS)] if device == "cpu" else []
        for what, changes in VARIANTS.items():
            found.setdefault(f"hpo, {len(many)} workers, {what}", []).append(
                time_ours(architecture, many, rounds, **changes)
            )
        for name, (module, how) in RIVALS.items():
            if name in failed:
                continue
            patience = PATIENCE_SECONDS + PATIENCE * count * ours.seconds
            timing = time_rival(module, how, architecture, device, rounds, patience)
            if isinstance(timing, str):
                failed[name] = timing
            else:
                found.setdefault(name, []).append(timing)
    _print_table(found, len(many), ideal)
    for name, why in failed.items():
        if name not in found:
            print(f"| {name} | {why} | | | | |")
    if gains:
        print(
            f"\n{len(many)} processes multiply matrices {median(gains):.2f} times as fast as one "
            f"({min(gains):.2f} to {max(gains):.2f})"
        )
    print(flush=True)


def _print_table(found: dict[str, list[Timing]], workers: int, ideal: float) -> None:
    """Prints a row for each program, beside hpo with all its workers."""
    best = found[f"hpo, {workers} workers"]
    print("| program | s a round | ours is faster by | share of the cores' rate | warm-up s | error % |")
    print("|---|---|---|---|---|---|")
    for name, timings in found.items():
        ratios = [timing.seconds / ours.seconds for timing, ours in zip(timings, best, strict=False)]
        seconds = min(timing.seconds for timing in timings)
        compared = not any(name.endswith(what) for what in VARIANTS)  # which do other work, or at another rate
        share = f"{ideal / (1 if name == ALONE else workers) / seconds:.2f}" if compared else ""
        errors = [error for timing in timings for error in timing.errors]
        print(
            f"| {name} | {seconds:.3f} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {share} "
            f"| {min(timing.warm_up for timing in timings):.0f} | {fmean(errors):.2f} ± {stdev(errors):.2f} |"
        )


if __name__ == "__main__":
    main()
