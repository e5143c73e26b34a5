"""Cross-entropies of R stacked rounds, with their gradients made on the way: one kernel, one program for a round."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from triton.language import constexpr, tensor

from hpo.kernels.gpu.language import apply, kernel, power_of_two

MOST_NUMBERS = 4096  # that a program holds at once: rows times classes, both rounded up


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropies (R,) of logits (R, B, K) and labels (R, B), int64 from 0 to K - 1."""
    return apply(_Losses, logits, None, labels, None, 1.0, 0.0)


def pair_losses(
    comparison: Tensor, digits: Tensor, targets: Tensor, classes: Tensor, main: float, auxiliary: float | None
) -> Tensor:
    """Returns the losses of R rounds that compare pairs: main * L1 + auxiliary * (L2 + L3), (R,).

    Args:
        comparison: logits of what the pair is, (R, B, 2), L1's.
        digits: logits of what both images are, (R, B, 2, 10), L2's and L3's.
        targets, classes: their labels, (R, B) and (R, B, 2), int64.
        main, auxiliary: weights; without auxiliary loss None, and the digits are not looked at.
    """
    if auxiliary is None:
        return apply(_Losses, comparison, None, targets, None, main, 0.0)
    # L2 + L3 is twice the mean over the digits of all pairs.
    return apply(_Losses, comparison, digits.flatten(1, 2), targets, classes.flatten(1), main, 2 * auxiliary)


def are_pytorchs(device: torch.device | str) -> bool:
    """Says whether a device makes of some logits what PyTorch makes of them, but for rounding; also the gradients."""
    generator = torch.Generator().manual_seed(0)
    comparison, digits = (torch.randn(2, 21, *of, generator=generator).to(device) for of in ((2,), (2, 10)))
    targets, classes = (torch.randint(2, (2, 21, *of), generator=generator).to(device) for of in ((), (2,)))

    def by_pytorch(comparison: Tensor, digits: Tensor) -> Tensor:
        main = functional.cross_entropy(comparison.flatten(0, 1), targets.flatten(), reduction="none")
        others = functional.cross_entropy(digits.flatten(0, 2), classes.flatten(), reduction="none")
        return 0.7 * main.view(2, 21).mean(1) + 0.6 * others.view(2, 42).mean(1)

    outcomes = []
    for losses in (lambda one, other: pair_losses(one, other, targets, classes, 0.7, 0.3), by_pytorch):
        logits = [one.detach().clone().requires_grad_() for one in (comparison, digits)]
        values: Tensor = losses(*logits)
        outcomes.append([values.detach(), *torch.autograd.grad(values.sum(), logits)])
    return all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(*outcomes, strict=True))


class _Losses(torch.autograd.Function):
    """The weighted sum of one or two mean cross-entropies, of (R, B, K) and (R, B', K')."""

    @staticmethod
    def forward(
        context: Any,
        logits: Tensor,
        others: Tensor | None,
        labels: Tensor,
        other_labels: Tensor | None,
        weight: float,
        other_weight: float,
    ) -> Tensor:
        first = _prepared(logits, labels)
        second = first if others is None or other_labels is None else _prepared(others, other_labels)
        losses = logits.new_empty(len(logits))
        _add_cross_entropies[(len(losses),)](
            *first, *second, losses, weight, other_weight,
            *_constants(first[0]), *_constants(second[0]), others is not None,
            num_warps=8,
        )  # fmt: skip
        context.save_for_backward(first[2], None if others is None else second[2])
        return losses

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, second = (None if made is None else made * gradient.view(-1, 1, 1) for made in context.saved_tensors)
        return first, second, None, None, None, None


def _prepared(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits, labels, and where the gradient goes."""
    logits = logits.contiguous()
    return logits, labels.contiguous(), torch.empty_like(logits)


def _constants(logits: Tensor) -> tuple[int, int, int, int]:
    """Returns rows and classes of (R, B, K), and of what a program takes of them at once, in powers of two."""
    _, rows, classes = logits.shape
    wide = power_of_two(classes, 2, 1 << 20)
    return rows, classes, power_of_two(rows, 2, max(2, MOST_NUMBERS // wide)), wide


@kernel
def _add_cross_entropies(
    logits: tensor, labels: tensor, gradient: tensor, others: tensor, other_labels: tensor, other_gradient: tensor,
    losses: tensor, weight: tensor, other_weight: tensor,
    rows: constexpr, classes: constexpr, block_rows: constexpr, block_classes: constexpr,
    other_rows: constexpr, other_classes: constexpr,
    other_block_rows: constexpr, other_block_classes: constexpr, two: constexpr,
) -> None:  # fmt: skip
    loss = _cross_entropy(logits, labels, gradient, weight, rows, classes, block_rows, block_classes)
    if two:
        loss += _cross_entropy(
            others, other_labels, other_gradient, other_weight,
            other_rows, other_classes, other_block_rows, other_block_classes,
        )  # fmt: skip
    tl.store(losses + tl.program_id(0), loss)


@kernel
def _cross_entropy(
    logits: tensor, labels: tensor, gradient: tensor, weight: tensor,
    rows: constexpr, classes: constexpr, block_rows: constexpr, block_classes: constexpr,
) -> Any:  # fmt: skip
    """Returns weight * the mean cross-entropy of this program's round, and writes the gradient."""
    r = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, block_classes)[None, :]
    share = weight / rows
    losses = tl.zeros((block_rows,), tl.float32)
    for start in range(0, rows, block_rows):
        row = start + tl.arange(0, block_rows)
        at = (r * rows + row)[:, None] * classes + k
        inside = (row < rows)[:, None] & (k < classes)
        numbers = tl.where(k < classes, tl.load(logits + at, mask=inside, other=0.0), -float("inf"))
        is_label = tl.load(labels + r * rows + row, mask=row < rows, other=0)[:, None] == k
        numbers -= tl.max(numbers, 1)[:, None]
        powers = tl.exp(numbers)
        total = tl.sum(powers, 1)
        losses += tl.where(row < rows, tl.log(total) - tl.sum(tl.where(is_label, numbers, 0.0), 1), 0.0)
        slope = powers / total[:, None] - tl.where(is_label, 1.0, 0.0)
        tl.store(gradient + at, slope * share, mask=inside)
    return tl.sum(losses) * share
