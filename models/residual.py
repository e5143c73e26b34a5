"""A residual convolutional network (report B, section III.C and figure 4)."""

from __future__ import annotations

from torch import Tensor, nn

from ._pair import Activation, DigitPair, dropped


def residual(
    activation: Activation, *, weight_sharing: bool, width: int = 14, depth: int = 6, dropout: float = 0.0
) -> nn.Module:
    """A 3x3 convolution, six residual blocks of 14 channels, average pool, linear 14-10 (report B, figure 4).

    Others are of `depth` blocks of `width` channels.
    """
    return DigitPair(lambda: _tower(activation, width, depth, dropout), activation, weight_sharing=weight_sharing)


class _Block(nn.Module):
    computes = "activation(maps + residue(maps))"  # and nothing else: so a kernel may take its place

    def __init__(self, activation: Activation, width: int) -> None:
        super().__init__()
        # The convolutions keep the bias that batch norm makes idle: the report's parameter counts include it (table I).
        self.residue = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            activation(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
        )
        self.activation = activation()

    def forward(self, maps: Tensor) -> Tensor:
        activated: Tensor = self.activation(maps + self.residue(maps))
        return activated


def _tower(activation: Activation, width: int, depth: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3),  # (N, 1, 14, 14) -> (N, width, 12, 12)
        *(_Block(activation, width) for _ in range(depth)),
        nn.AvgPool2d(12),  # -> (N, width, 1, 1)
        activation(),
        nn.Flatten(),
        *dropped(dropout),
        nn.Linear(width, 10),
    )
