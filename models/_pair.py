"""The digit-pair network: a tower for each image, and a head that compares what they saw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]

DIGITS = 10


class DigitPair(nn.Module):
    """Two towers and a head; with weight sharing one tower reads both images.

    The towers' digit logits go into the head as they are, with no activation between, so that they can carry the
    auxiliary loss and be read as a recognition (reports A and B). A shared tower sees both images of all pairs as one
    batch, so its batch norm takes its statistics over 2B images.
    """

    def __init__(self, tower: Callable[[], nn.Module], activation: Activation, *, weight_sharing: bool) -> None:
        """`tower` makes a network from images (N, 1, 14, 14) to digit logits (N, 10)."""
        super().__init__()
        self.towers = nn.ModuleList(tower() for _ in range(1 if weight_sharing else 2))
        self.head = nn.Sequential(nn.Linear(2 * DIGITS, 20), activation(), nn.Linear(20, 2))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps pairs (B, 2, 14, 14) to comparison logits (B, 2) and digit logits (B, 2, 10)."""
        if len(self.towers) == 1:
            images = pairs.reshape(-1, 1, *pairs.shape[2:])  # (B, 2, 14, 14) -> (2B, 1, 14, 14)
            digits = self.towers[0](images).reshape(-1, 2, DIGITS)  # (2B, 10) -> (B, 2, 10)
        else:
            digits = torch.stack(
                [tower(pairs[:, i : i + 1]) for i, tower in enumerate(self.towers)], dim=1
            )  # (B, 2, 10)
        return self.head(digits.flatten(1)), digits


def dropped(share: float) -> list[nn.Module]:
    """Returns the layer that drops a share of its inputs in training; none where it would drop nothing."""
    return [nn.Dropout(share)] if share else []
