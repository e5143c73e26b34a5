"""A convolutional network with a loss of one's own, whose parameter is searched as the network's are."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hpo.study.task import Metric, Round
from hpo.training.network_task import Split


class Focal:
    """Digits of 8x8 pixels, told apart by the focal loss (Lin et al., 2017)."""

    metrics = (Metric("error", "test error", resolution=0.2),)

    def __init__(self) -> None:
        digits = load_digits()
        self.x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        self.y = torch.tensor(digits.target)

    def network(self, width: int) -> nn.Module:
        """Builds a network."""
        return nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * width, 10)),
        )

    def loss(self, output: Tensor, batch: Any, gamma: float) -> Tensor:
        """Returns the mean focal loss: what is told with certainty counts less, the more so the higher gamma is."""
        log_p = output.log_softmax(-1).gather(-1, batch[1][:, None])[:, 0]
        rest = (1 - log_p.exp()).clamp_min(1e-6)  # at 0 the power of a gamma below 1 has no gradient
        return -(rest**gamma * log_p).mean()

    def data(self, round_: Round) -> Split:
        """Draws 1000 images to train on, and 500 to test, from the round's seed."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(round_.seed("examples")))
        train, test = order[:1000], order[1000:1500]
        return Split((self.x[train], self.y[train]), (self.x[test], self.y[test]))

    def errors(self, output: Tensor, batch: Any) -> dict[str, Tensor]:
        """Returns 0 or 100 for each image."""
        return {"error": 100.0 * (output.argmax(-1) != batch[1])}
