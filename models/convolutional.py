"""Plain convolutional networks, LeNet's line: convolve, pool, and classify by linear layers."""

from __future__ import annotations

from torch import nn

from ._pair import Activation, DigitPair


def cnn(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """Two 3x3 convolutions (32, 64 channels), each max-pooled, then linear 256-200-10.

    After report A, table II; the widths are this project's, the report gives none.
    """
    return DigitPair(lambda: _lenet(activation, batch_norm=False), activation, weight_sharing=weight_sharing)


def cnn_bn(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """The cnn with batch norm after each convolution (report A, table III and figure 3)."""
    return DigitPair(lambda: _lenet(activation, batch_norm=True), activation, weight_sharing=weight_sharing)


def simple_cnn(activation: Activation, *, weight_sharing: bool) -> nn.Module:
    """Two padded 3x3 convolutions of 10 channels, one max-pool, linear 360-10 (report B, figure 3)."""
    return DigitPair(lambda: _simple(activation), activation, weight_sharing=weight_sharing)


def _lenet(activation: Activation, *, batch_norm: bool) -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        # Batch norm subtracts the mean, so a bias before it would train for nothing. Pooling before the activation
        # gives the same values as after it for the monotone ones, on a quarter of the numbers.
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, bias=not batch_norm)
        normalised = [nn.BatchNorm2d(outputs)] if batch_norm else []
        return [convolution, *normalised, nn.MaxPool2d(2), activation()]

    return nn.Sequential(
        *block(1, 32),  # (N, 1, 14, 14) -> (N, 32, 6, 6)
        *block(32, 64),  # -> (N, 64, 2, 2)
        nn.Flatten(),
        nn.Linear(256, 200),
        activation(),
        nn.Linear(200, 10),
    )


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
