"""Cross-entropy of few classes, fast on a CPU.

PyTorch's takes four times as long for ten classes: its log-softmax wants rows as wide as a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import debug_unwrap
from torch.nn import functional

from hpo.kernels.jit import Array, as_array, compiled


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns each example's cross-entropy (N,), of logits (N, K) and labels (N,); PyTorch's on a GPU, and in vmap."""
    if not logits.is_cpu or debug_unwrap(logits, recurse=False) is not logits:  # a tensor that vmap has wrapped
        return functional.cross_entropy(logits, labels, reduction="none")
    losses: Tensor = _CrossEntropy.apply(logits, labels)
    return losses


def smoothed(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Returns each example's cross-entropy (N,) with smoothed labels (C. Szegedy et al., 2016), as PyTorch has it.

    Args:
        logits: (N, K).
        labels: (N,).
    """
    losses = cross_entropy(logits, labels)
    if not smoothing:
        return losses
    return losses + smoothing * (logits.gather(-1, labels[:, None])[:, 0] - logits.mean(-1))


class _CrossEntropy(torch.autograd.Function):
    # Not with `setup_context`, which vmap would need: PyTorch then looks at a signature in each call, for 40 us.

    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.contiguous()
        losses, gradient = logits.new_empty(len(labels)), torch.empty_like(logits)
        _losses_and_gradient(as_array(logits), as_array(labels.contiguous()), as_array(losses), as_array(gradient))
        context.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grad_logits,) = context.saved_tensors
        return grad_logits * gradient.unsqueeze(1), None


# Again in mlp_kernels.py, for a compiled function calls none of another file: jit.py says why.
@compiled
def _losses_and_gradient(logits: Array, labels: Array, losses: Array, gradient: Array) -> None:
    """Writes each example's cross-entropy (N,) and its gradient (N, K), given logits (N, K) and labels (N,)."""
    for n in range(len(labels)):
        largest = logits[n, 0]
        for k in range(1, logits.shape[1]):
            if logits[n, k] > largest:
                largest = logits[n, k]
        total = logits.dtype.type(0)
        for k in range(logits.shape[1]):
            gradient[n, k] = np.exp(logits[n, k] - largest)
            total += gradient[n, k]
        losses[n] = np.log(total) + largest - logits[n, labels[n]]
        for k in range(logits.shape[1]):
            gradient[n, k] /= total
        gradient[n, labels[n]] -= 1
