"""Plain convolutional networks, LeNet's line: convolve, pool, and classify by linear layers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ._pair import Activation, DigitPair, dropped


def cnn(activation: Activation, *, weight_sharing: bool, width: int = 32, dropout: float = 0.0) -> nn.Module:
    """Two 3x3 convolutions (32, 64 channels), each max-pooled, then linear 256-200-10.

    After report A, table II; the widths are this project's, the report gives none.
    """
    return DigitPair(
        lambda: _lenet(activation, width, dropout, batch_norm=False), activation, weight_sharing=weight_sharing
    )


def cnn_bn(activation: Activation, *, weight_sharing: bool, width: int = 32, dropout: float = 0.0) -> nn.Module:
    """The cnn with batch norm after each convolution (report A, table III and figure 3)."""
    return DigitPair(
        lambda: _lenet(activation, width, dropout, batch_norm=True), activation, weight_sharing=weight_sharing
    )


def deep_cnn(
    activation: Activation, *, weight_sharing: bool, width: int = 24, depth: int = 5, dropout: float = 0.0
) -> nn.Module:
    """Padded 3x3 convolutions with batch norm, two of 24 channels and three of 48, then linear to 10.

    The first two of `depth` are max-pooled to 7x7, the others, twice as wide, to 3x3.
    """
    return DigitPair(lambda: _deep(activation, width, depth, dropout), activation, weight_sharing=weight_sharing)


def unpooled_cnn(
    activation: Activation, *, weight_sharing: bool, width: int = 32, depth: int = 5, dropout: float = 0.0
) -> nn.Module:
    """Unpadded 3x3 convolutions with batch norm, of 32, 48, 64, 80 and 96 channels, then linear to 10; no pooling.

    Others are of `depth` convolutions, the first of `width` channels, each wider by half of that. After S. An et al.,
    "An ensemble of simple convolutional neural network models for MNIST digit recognition", 2020.
    """
    return DigitPair(lambda: _unpooled(activation, width, depth, dropout), activation, weight_sharing=weight_sharing)


def fully_convolutional(
    activation: Activation, *, weight_sharing: bool, width: int = 24, depth: int = 5, dropout: float = 0.0
) -> nn.Module:
    """The deep_cnn without a linear layer: a 1x1 convolution makes ten maps, their means are the digits (report A).

    Report A ends by suggesting one, and leaves open of what form.
    """
    return DigitPair(
        lambda: nn.Sequential(
            *_convolutions(activation, width, depth),
            *dropped(dropout),
            nn.Conv2d(2 * width, 10, kernel_size=1),  # (N, 2 width, 7, 7) -> (N, 10, 7, 7)
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        activation,
        weight_sharing=weight_sharing,
    )


def simple_cnn(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """Two padded 3x3 convolutions of 10 channels, one max-pool, linear 360-10 (report B, figure 3)."""
    return DigitPair(lambda: _simple(activation), activation, weight_sharing=weight_sharing)


def _lenet(activation: Activation, width: int, dropout: float, *, batch_norm: bool) -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        # Batch norm subtracts the mean, so a bias before it would train for nothing. Pooling before the activation
        # gives the same values as after it for the monotone ones, on a quarter of the numbers.
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, bias=not batch_norm)
        normalised = [nn.BatchNorm2d(outputs)] if batch_norm else []
        return [convolution, *normalised, nn.MaxPool2d(2), activation()]

    return nn.Sequential(
        *block(1, width),  # (N, 1, 14, 14) -> (N, width, 6, 6)
        *block(width, 2 * width),  # -> (N, 2 width, 2, 2)
        nn.Flatten(),
        *dropped(dropout),
        nn.Linear(8 * width, 200),
        activation(),
        *dropped(dropout),
        nn.Linear(200, 10),
    )


def _deep(activation: Activation, width: int, depth: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        *_convolutions(activation, width, depth),
        nn.MaxPool2d(2),  # (N, 2 width, 7, 7) -> (N, 2 width, 3, 3)
        nn.Flatten(),
        *dropped(dropout),
        nn.Linear(18 * width, 10),
    )


def _unpooled(activation: Activation, width: int, depth: int, dropout: float) -> nn.Module:
    """Returns a tower.

    Raises:
        ValueError: where nothing of an image would be left.
    """
    if depth > 6:
        raise ValueError(f"depth must be at most 6, as each convolution takes two pixels of 14, but is {depth}")
    channels = [1, *(width + layer * (width // 2) for layer in range(depth))]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, kernel_size=3, bias=False), nn.BatchNorm2d(outputs), activation()]
    side = 14 - 2 * depth
    return nn.Sequential(*layers, nn.Flatten(), *dropped(dropout), nn.Linear(side**2 * channels[-1], 10))


def _convolutions(activation: Activation, width: int, depth: int) -> list[nn.Module]:
    """Returns layers from images (N, 1, 14, 14) to maps (N, 2 width, 7, 7).

    Raises:
        ValueError: where there are fewer than three.
    """
    if depth < 3:
        raise ValueError(f"depth must be at least 3, two convolutions at 14x14 and one at 7x7, but is {depth}")
    layers: list[nn.Module] = []
    inputs = 1
    for layer in range(depth):
        outputs = width if layer < 2 else 2 * width
        layers += [
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            *([nn.MaxPool2d(2)] if layer == 1 else []),
            activation(),
        ]
        inputs = outputs
    return layers


def _simple(activation: Activation) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 10, kernel_size=3, padding=1),
        activation(),
        nn.Conv2d(10, 10, kernel_size=3, padding=1),
        activation(),
        # The report prints 10x6x6 without saying how 14x14 gets there; a 3x3 max-pool of stride 2 does.
        nn.MaxPool2d(3, stride=2),  # (N, 10, 14, 14) -> (N, 10, 6, 6)
        nn.Flatten(),
        nn.Linear(360, 10),
    )
