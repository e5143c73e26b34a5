"""Networks of linear layers alone: the towers read an image as a list of 196 numbers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ._pair import Activation, DigitPair, dropped


def fnn(
    activation: Activation, *, weight_sharing: bool, width: int = 100, depth: int = 2, dropout: float = 0.0
) -> nn.Module:
    """Linear tower 196-100-50-10 (report A, table I; the widths are this project's, the report gives none).

    Each of `depth` hidden layers is half as wide as the one before.
    """
    widths = [max(1, width // 2**layer) for layer in range(depth)]
    return DigitPair(
        lambda: _tower(196, *widths, 10, activation=activation, dropout=dropout),
        activation,
        weight_sharing=weight_sharing,
    )


def fully_connected(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """Linear tower 196-50-10 (report B, figure 2)."""
    return DigitPair(lambda: _tower(196, 50, 10, activation=activation), activation, weight_sharing=weight_sharing)


def _tower(*widths: int, activation: Activation, dropout: float = 0.0) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), activation(), *dropped(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
