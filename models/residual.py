"""A residual convolutional network (report B, section III.C and figure 4)."""

from __future__ import annotations

from torch import Tensor, nn

from ._pair import Activation, DigitPair

CHANNELS = 14
BLOCKS = 6


def residual(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """A 3x3 convolution, six residual blocks of 14 channels, average pool, linear 14-10 (report B, figure 4)."""
    return DigitPair(lambda: _tower(activation), activation, weight_sharing=weight_sharing)


class _Block(nn.Module):
    computes = "activation(maps + residue(maps))"  # and nothing else: so a kernel may take its place

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        # The convolutions keep the bias that batch norm makes idle: the report's parameter counts include it (table I).
        self.residue = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            activation(),
            nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
            nn.BatchNorm2d(CHANNELS),
        )
        self.activation = activation()

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.activation(maps + self.residue(maps))
        return activated


def _tower(activation: Activation) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, kernel_size=3),  # (N, 1, 14, 14) -> (N, 14, 12, 12)
        *(_Block(activation) for _ in range(BLOCKS)),
        nn.AvgPool2d(12),  # -> (N, 14, 1, 1)
        activation(),
        nn.Flatten(),
        nn.Linear(CHANNELS, 10),
    )
