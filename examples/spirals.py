"""Two spirals, from arrays of one's own: a network that is told neither their shape nor their number."""

from __future__ import annotations

from torch import Tensor, nn


class Spirals(nn.Module):
    """Layers of one width; `width`, `layers` and `activation` are searched."""

    def __init__(self, width: int, layers: int, activation: str) -> None:
        super().__init__()
        made: list[nn.Module] = []
        inputs = 2
        for _ in range(layers):
            made += [nn.Linear(inputs, width), nn.Tanh() if activation == "tanh" else nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*made, nn.Linear(inputs, 2))

    def forward(self, points: Tensor) -> Tensor:
        """Maps points (B, 2) to the logits of both spirals."""
        logits: Tensor = self.layers(points)
        return logits
