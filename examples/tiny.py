"""A hidden layer; whoever has a network of their own begins here."""

from __future__ import annotations

from torch import Tensor, nn


class TinyNet(nn.Module):
    """A hidden layer, and dropout."""

    def __init__(self, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Maps images to logits."""
        logits: Tensor = self.layers(images)
        return logits
