"""Where networks are trained: the torch device of a name, and what it is called."""

from __future__ import annotations

import scipy.linalg.cython_blas  # noqa: F401 - which Numba calls; it must be there when threads are limited
import torch
from threadpoolctl import threadpool_limits

from hpo.errors import RequestError
from hpo.provenance import cpu_name

CPU = torch.device("cpu")


def find_device(name: str) -> torch.device:
    """Returns the device that `auto`, `cpu`, `cuda` or `cuda:1` stands for, set up for one worker.

    Raises:
        RequestError: where this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"device {name!r} is not here: PyTorch sees {torch.cuda.device_count()} CUDA devices; --device cpu works"
        )
    if device.type == "cpu":
        # One worker a core is faster than one worker on all: the networks are small.
        torch.set_num_threads(1)
        threadpool_limits(1)  # NumPy's too
    else:
        torch.backends.cudnn.allow_tf32 = False  # or convolutions of float32 would keep 10 bits of 23
        torch.backends.cudnn.deterministic = True  # its gradients would add in no fixed order
        if device.index is not None:
            torch.cuda.set_device(device)  # else pinned memory and waiting would open the first GPU too
    return device


def describe_device(device: torch.device) -> str:
    """Returns a device's name and model."""
    model = cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{device} ({model})"
