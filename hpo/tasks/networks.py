"""Networks that a study of examples can name: `network = "mlp"`. They are made for the examples that the data has.

Names of functions and classes in `models/`, below the folder of code, stand beside them.
"""

from __future__ import annotations

from math import prod

from torch import nn


def mlp(input_shape: list[int], outputs: int, hidden: int = 64, layers: int = 1, dropout: float = 0.0) -> nn.Sequential:
    """Hidden layers of one width, each with ReLU and dropout."""
    modules: list[nn.Module] = [nn.Flatten()]
    inputs = prod(input_shape)
    for _ in range(layers):
        modules += [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout)]
        inputs = hidden
    return nn.Sequential(*modules, nn.Linear(inputs, outputs))


def convnet(
    input_shape: list[int], outputs: int, width: int = 16, hidden: int = 64, dropout: float = 0.0
) -> nn.Sequential:
    """Two convolutions of 3x3, of `width` and twice as many channels, each with ReLU and 2x2 pooling; a hidden layer.

    Raises:
        ValueError: where the examples are no images, or smaller than 4x4.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ValueError(
            f"convnet needs images of at least 4x4, (N, channels, height, width), but one is {input_shape}"
        )
    channels, height, rest = input_shape
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width * (height // 4) * (rest // 4), hidden), nn.ReLU()),
        nn.Linear(hidden, outputs),
    )
