"""The loss of networks that compare two digits, and the three ways in which their outputs decide."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from hpo.kernels.cross_entropy import smoothed
from hpo.kernels.gpu.fuse import takes_losses
from hpo.tasks.digit_pairs.pairs import Pairs

Output = tuple[Tensor, Tensor]  # what a network compares, (B, 2), and which digits it takes the images for, (B, 2, 10)


def pair_loss(output: Output, batch: Pairs, weights: tuple[float, float | None], smoothing: float = 0.0) -> Tensor:
    """Returns the weighted sum of L1, the comparison's mean cross-entropy, and L2 + L3, the digits'.

    Args:
        weights: of both; None for a loss without the digits'.
        smoothing: the share of each target that is spread over all classes, see `smoothed`.
    """
    comparison, digits = output
    main_weight, auxiliary_weight = weights
    if takes_losses(comparison, digits) and not smoothing:
        from hpo.kernels.gpu.losses import pair_losses
        from hpo.kernels.gpu.stacked import of_all_rounds

        weigh = partial(pair_losses, main=main_weight, auxiliary=auxiliary_weight)
        return of_all_rounds(weigh, comparison, digits, batch.targets, batch.classes)
    main = smoothed(comparison, batch.targets, smoothing).mean(-1)
    if auxiliary_weight is None:
        return main
    of_digits = smoothed(digits.flatten(0, 1), batch.classes.flatten(), smoothing).view(batch.classes.shape)
    return main_weight * main + auxiliary_weight * of_digits.sum(-1).mean(-1)


def pair_errors(output: Output, batch: Pairs, *, posterior: bool = False) -> Mapping[str, Tensor]:
    """Returns each pair's error, 0 or 100, by each decision; NaN where a logit that it reads is not finite.

    Args:
        posterior: whether the third is asked for.
    """
    comparison, digits = output
    read = digits.argmax(-1)  # (N, 2)
    can_read = digits.isfinite().flatten(1).all(-1)
    decided = {
        "recognition": (read[:, 0] <= read[:, 1], can_read),
        "head": (comparison.argmax(-1) == 1, comparison.isfinite().all(-1)),
    }
    if posterior:
        first, second = torch.softmax(digits, -1).unbind(1)
        decided["posterior"] = (probability(first, second) >= 0.5, can_read)
    targets, nan = batch.targets, float("nan")
    return {
        name: (100.0 * (says.long() != targets).double()).where(is_known, nan)
        for name, (says, is_known) in decided.items()
    }


def probability(first: Tensor, second: Tensor) -> Tensor:
    """Returns how probable it is that the first digit is less than or equal to the second, (...).

    Args:
        first, second: how probable each digit is, (..., 10), each image by itself.
    """
    return (first.cumsum(-1) * second).sum(-1)
