"""A module that stands for a layer of a network, and computes what the layer does."""

from __future__ import annotations

from typing import Any

from torch import nn


class StandIn(nn.Module):
    """Stands for a layer; what it has no attribute of, as `weight`, it takes from the layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Returns what the module has itself, else what the layer has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)
