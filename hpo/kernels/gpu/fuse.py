"""Layers of R stacked networks as kernels of our own, on an NVIDIA GPU.

    fused = fuse(network)

The fused network has the structure of the other, its very parameters and buffers, and their names, so it may take its
place in `functional_call` under vmap. Layers are recognised by their exact types and settings, where nothing is hooked
to them, and everything else is left to PyTorch. What a network does with its layers besides calling them cannot be seen
here.
"""

from __future__ import annotations

import copy
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from hpo.errors import is_out_of_memory

LEAST_CAPABILITY = (8, 0)  # TF32 and bfloat16 in tensor cores


def missing(device: torch.device | None = None) -> str | None:
    """Returns why the kernels cannot be used on a GPU, as a clause; None where they can.

    Args:
        device: the GPU; None is the current one.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if torch.version.hip or not torch.cuda.is_available():
        return "there is no NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        card, least = torch.cuda.get_device_name(device), ".".join(map(str, LEAST_CAPABILITY))
        return f"{card} has compute capability {'.'.join(map(str, capability))}, and the kernels need {least}"
    return None


@cache
def _has_losses(device: torch.device) -> bool:
    if missing(device) is not None:
        return False
    try:
        from hpo.kernels.gpu.losses import are_pytorchs

        with ThreadPoolExecutor(1) as pool:  # which no vmap and no `no_grad` of the caller's reaches
            fault = None if pool.submit(are_pytorchs, device).result() else "they compute something else"
    except Exception as error:  # whatever a compiler makes of them
        if is_out_of_memory(error):
            raise
        fault = str(error).partition("\n")[0] or type(error).__name__
    if fault:
        print(f"{device}: losses are PyTorch's, for of our kernels {fault}", file=sys.stderr)
    return fault is None


def takes_losses(*logits: Tensor) -> bool:
    """Says whether losses.py is for logits: floats of 32 bits, on a GPU where it computes what PyTorch does."""
    return all(one.is_cuda and one.dtype == torch.float32 and _has_losses(one.device) for one in logits)


def fuse(network: nn.Module, precision: str = "tf32x3") -> nn.Module:
    """Returns a network of the same parameters and buffers, not copies, under the same names, of fused layers.

    Recognised are convolutions of stride 1; batch norms, pools and linear layers, each with the activation behind it,
    and batch norms with a 2x2 max-pool as well; and residual blocks that declare what they compute.

    Args:
        network: is left as it is.
        precision: of the products: `tf32x3` or `ieee`, both exact to float32, `tf32`, or `bf16`.

    Raises:
        ValueError: for another precision.
    """
    from hpo.kernels.gpu.language import PRECISIONS
    from hpo.kernels.gpu.recognise import Replacement

    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, but is {precision!r}")
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    device = next((tensor.device for tensor in shared.values()), torch.device("cpu"))
    return Replacement(precision, device).of(copy.deepcopy(network, shared))
