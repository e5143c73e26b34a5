"""Networks of the same layers as others, but narrow: for what depends on the layers, not on their size."""

from __future__ import annotations

import torch
from torch import nn


def narrowed(network: nn.Module, channels: int) -> nn.Module:
    """Returns a network of the same layers, hidden ones with a few channels; it was on the CPU."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and isinstance(module.padding, tuple):
            biased = module.bias is not None
            network.set_submodule(
                name, nn.LazyConv2d(min(module.out_channels, channels), 3, padding=module.padding[0], bias=biased)
            )
        elif isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, nn.LazyBatchNorm2d())
        elif isinstance(module, nn.Linear):
            network.set_submodule(name, nn.LazyLinear(min(module.out_features, 20)))
    with torch.no_grad():
        network(torch.zeros(2, 2, 14, 14))  # now they know how many channels come in
    network.apply(lambda module: module.reset_running_stats() if isinstance(module, nn.BatchNorm2d) else None)
    return network
