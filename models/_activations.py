"""The activation functions of report A's table IV, and SiLU, by name."""

from __future__ import annotations

from functools import partial

from torch import nn

from ._pair import Activation


def make_activation(name: str, elu_alpha: float = 1.0) -> Activation:
    """Returns what makes the activation `name`: relu, leaky_relu (slope 0.01), elu (with `elu_alpha`), selu or silu.

    Raises:
        KeyError: for any other name.
    """
    makers: dict[str, Activation] = {
        "relu": nn.ReLU,
        "leaky_relu": partial(nn.LeakyReLU, 0.01),
        "elu": partial(nn.ELU, elu_alpha),
        "selu": nn.SELU,
        "silu": nn.SiLU,
    }
    return makers[name]
