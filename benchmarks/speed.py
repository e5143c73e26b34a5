"""How many rounds a second a study trains, beside rivals that train the same, all in one run.

    python -m benchmarks.speed                 # every architecture: an hour on two cores
    python -m benchmarks.speed fnn cnn         # some
    python -m benchmarks.speed --device cuda   # on a GPU, the rivals too

Ours is `hpo optimize` as it stands: worker processes, SQLite, every trial stored; clocked from the end of the first
trial of any worker, which is warm-up, to the end of the last. Rivals: `benchmarks.rivals`, `benchmarks.rival_jax`
(where JAX is installed), each in a process of its own, warm-up not counted. All measure report A's final configuration
by the protocol of `studies/cnn.toml`, nothing pruned, and show the error that they reach: who does not train does not
count.

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
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hpo import catalog
from hpo.datasets import data_folder
from hpo.optimize import Plan, assign_devices, begin, run_study
from hpo.provenance import cpu_name, versions
from hpo.records import read_trials
from hpo.study import StudyDefinition, define_study

ARCHITECTURES = ("fnn", "cnn", "cnn_bn", "residual")
RIVALS = {
    "(a) Optuna's example: DataLoader": ("benchmarks.rivals", "loader"),
    "(a) batches sliced by hand": ("benchmarks.rivals", "sliced"),
    "(b) sliced, torch.compile": ("benchmarks.rivals", "compiled"),
    "(c) JAX, a scan over vmapped rounds": ("benchmarks.rival_jax", "scan"),
    "(c) JAX, a program for a step": ("benchmarks.rival_jax", "steps"),
}
PATIENCE_SECONDS, PATIENCE = 60, 4  # for a rival's warm-up, and so many times our own seconds


@dataclass(frozen=True)
class Timing:
    """What one program needed: seconds for a round, warm-up, and the error that it reached."""

    seconds: float
    warm_up: float
    mean: float
    std: float


def study_of(architecture: str, trials: int, changes: dict[str, Any]) -> StudyDefinition:
    """Returns a study that measures report A's final configuration so many times; `changes` are to its protocol."""
    protocol = catalog.load_study("cnn")[1].protocol.model_dump(mode="json")
    params = {
        **{"architecture": architecture, "weight_sharing": True, "auxiliary_loss": True},
        **{"activation": "leaky_relu", "optimizer": "sgd", "learning_rate": 0.1},
    }
    listed = [{"label": str(i), "params": params} for i in range(trials)]
    table = {"title": "speed", "protocol": {**protocol, **changes}, "trial": listed}
    return define_study(table, name="speed")


def time_ours(architecture: str, devices: list[str], each: int, **changes: Any) -> Timing:
    """Runs a study with a worker on each device, `each` trials a worker and one before; seconds are the study's."""
    trials = (each + 1) * len(devices)
    plan = Plan("speed", study_of(architecture, trials, changes), trials)
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        storage = begin(f"sqlite:///{folder}/speed.db", plan, data_folder())
        run_study(storage, plan, devices=devices, data_folder=data_folder(), show=lambda _: None)
        done = read_trials(storage, "speed")
    ends = sorted(trial.finished.timestamp() for trial in done if trial.finished)
    errors = done[0].attributes["errors"]
    # From the earliest end: what the others have left to do of their first trials counts against us.
    seconds = (ends[-1] - ends[0]) / (each * len(devices) * len(errors))
    return Timing(seconds, ends[0] - began, fmean(errors), stdev(errors))


def time_rival(module: str, how: str, architecture: str, device: str, patience: float) -> Timing | str:
    """Runs a rival in a process of its own, for so many seconds; says why where it gave nothing."""
    command = [sys.executable, "-m", module, how, architecture, *([device] if module.endswith("rivals") else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience, check=False,
            env={**os.environ, "JAX_PLATFORMS": device},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done after {patience:.0f} s, {PATIENCE} times ours and a minute"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:60]
    found = json.loads(done.stdout.splitlines()[-1])
    return Timing(found["seconds"] / 10, found["warm_up_seconds"], found["mean"], found["std"])


def multiply_adds(architecture: str) -> float:
    """Returns the multiply-adds of a round: its training steps and its evaluations."""
    protocol = catalog.load_study("cnn")[1].protocol
    network = catalog.load_architecture(architecture)(catalog.load_activations()("leaky_relu"), weight_sharing=True)
    images = torch.zeros(protocol.batch_size, 2, 14, 14)
    with FlopCounterMode(display=False) as step:
        comparison, digits = network(images)
        loss = functional.cross_entropy(comparison, torch.zeros(protocol.batch_size, dtype=torch.long)) + digits.sum()
        loss.backward()
    with FlopCounterMode(display=False) as look, torch.no_grad():
        network(images)
    steps = protocol.epochs * protocol.train_pairs // protocol.batch_size
    looks = (len(protocol.evaluate_at) + 1) * protocol.test_pairs // protocol.batch_size
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
    rate = core_rate()
    shown = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{cpu_name()}, {len(many)} workers; one core: {rate / 1e9:.1f} G multiply-adds/s; {shown}\n", flush=True)
    for architecture in asked.architectures:
        work = multiply_adds(architecture)
        print(f"### {architecture}: {work / 1e9:.2f} G multiply-adds a round\n")
        print("| program | s a round | ours is faster by | share of the cores' rate | warm-up s | error % |")
        print("|---|---|---|---|---|---|", flush=True)
        each = 5 if architecture == "fnn" else 1
        ours = time_ours(architecture, many, each)
        _print(f"hpo, {len(many)} workers", ours, ours, work / rate / len(many))
        _print("hpo, 1 worker", time_ours(architecture, many[:1], each), ours, work / rate)
        for what, changes in (
            ("tested after the last epoch alone", {"evaluate_at": []}),
            ("bfloat16", {"precision": "bfloat16"}),
        ):
            timing = time_ours(architecture, many, each, **changes)
            _print(f"hpo, {len(many)} workers, {what}", timing, ours, None)
        for name, (module, how) in RIVALS.items():
            patience = PATIENCE_SECONDS + PATIENCE * 10 * ours.seconds
            found = time_rival(module, how, architecture, asked.device, patience)
            if isinstance(found, str):
                print(f"| {name} | {found} | | | | |", flush=True)
            else:
                _print(name, found, ours, work / rate / len(many))
        print(flush=True)


def _print(name: str, timing: Timing, ours: Timing, ideal: float | None) -> None:
    share = f"{ideal / timing.seconds:.2f}" if ideal else ""
    figures = f"{timing.seconds:.3f} | {timing.seconds / ours.seconds:.2f} | {share} | {timing.warm_up:.0f}"
    print(f"| {name} | {figures} | {timing.mean:.2f} ± {timing.std:.2f} |", flush=True)


if __name__ == "__main__":
    main()
