"""`--device` and `--workers`: which devices worker processes train on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import joblib

from hpo import limits
from hpo.errors import RequestError


def assign_devices(workers: str, device: str) -> list[str]:
    """Returns the device of each worker process that `--workers` stands for.

    `auto` is one process for each physical core on a CPU, and one for each GPU. Processes take the GPUs in turn.

    Args:
        device: `auto`, `cpu`, `cuda` for any GPU, or `cuda:0`, `cuda:1` … for that one.

    Raises:
        RequestError: where the number is neither positive nor `auto`, or too large, or this machine has no such device.
    """
    known = re.fullmatch(r"auto|[1-9][0-9]{0,3}", workers)
    if not known or (workers != "auto" and int(workers) > limits.WORKERS):
        raise RequestError(f"--workers must be a number from 1 to {limits.WORKERS} or 'auto', but is {workers[:40]!r}")
    devices = find_devices(device)
    if workers != "auto":
        processes = int(workers)
    elif devices == ["cpu"]:
        processes = min(int(joblib.cpu_count(only_physical_cores=True)), limits.WORKERS)
    else:
        processes = len(devices)
    return [devices[i % len(devices)] for i in range(processes)]


def trials_at_once(workers: str) -> int | None:
    """Returns how many trials a worker process may run at once: one where `--workers` is a number.

    None, where it is `auto`, leaves that to the study's `[run]`. Where trials run beside others, what the sampler
    proposes depends on which of them was faster.
    """
    return None if workers == "auto" else 1


def find_devices(device: str) -> list[str]:
    """Returns the devices to train on: `cpu`, or one or several of `cuda:0`, `cuda:1` …

    Raises:
        RequestError: where `device` is none of these, or this machine has no such GPU.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise RequestError(f"--device must be auto, cpu, cuda or cuda:0, cuda:1 …, but is {device!r}")
    gpus = [f"cuda:{i}" for i in range(_count_gpus())] if device != "cpu" else []
    if device == "cpu" or (device == "auto" and not gpus):
        return ["cpu"]
    chosen = [gpu for gpu in gpus if device in ("auto", "cuda", gpu)]
    if not chosen:
        raise RequestError(
            f"--device {device} is not here: this machine shows {len(gpus)} NVIDIA GPUs; --device cpu works"
        )
    return chosen


def _count_gpus() -> int:
    # By NVIDIA's own tool: importing torch to ask would take seconds, and this process is to stay small.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # torch counts these; the tool does not ask
    if visible is not None:
        return sum(name.strip() not in ("", "-1") for name in visible.split(","))
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
