"""Networks of linear layers alone: the towers read an image as a list of 196 numbers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ._pair import Activation, DigitPair


def fnn(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """Linear tower 196-100-50-10 (report A, table I; the widths are this project's, the report gives none)."""
    return DigitPair(lambda: _tower(196, 100, 50, 10, activation=activation), activation, weight_sharing=weight_sharing)


def fully_connected(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """Linear tower 196-50-10 (report B, figure 2)."""
    return DigitPair(lambda: _tower(196, 50, 10, activation=activation), activation, weight_sharing=weight_sharing)


def _tower(*widths: int, activation: Activation) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])
