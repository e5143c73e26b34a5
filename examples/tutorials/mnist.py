"""Layers of a perceptron for MNIST: how many, how wide, with how much dropout.

After Optuna's example "skorch_simple.py", which optimizes multi-layer perceptrons using skorch:
https://github.com/optuna/optuna-examples/blob/main/pytorch/skorch_simple.py

Kept: MNIST as pixels of 0 to 1, the layers and all their ranges, SGD with skorch's batches of 128 and a rate of 0.1,
twenty epochs, a third as many examples for testing as for training, and its pruner, the median. Other than there, the
subset of MNIST is 8 000 images in place of 28 000, each round draws its own, the test images come from MNIST's test
set, and the pruner sees their error. The network gives logits, for cross-entropy is taken of them.
"""

from __future__ import annotations

from torch import Tensor, nn


class Perceptron(nn.Module):
    """One to three hidden layers."""

    def __init__(
        self, n_layers: int, dropout: float, n_units_l0: int, n_units_l1: int = 0, n_units_l2: int = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        before = 28 * 28
        for width in (n_units_l0, n_units_l1, n_units_l2)[:n_layers]:
            layers += [nn.Linear(before, width), nn.Dropout(dropout), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers, nn.Linear(before, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits."""
        logits: Tensor = self.layers(images)
        return logits
