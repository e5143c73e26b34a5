"""What a network is besides its numbers: the types of its modules, and what they hold that is no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

OF_EVERY_MODULE = {"_parameters", "_buffers", "_modules", "training"}


@runtime_checkable
class Holder(Protocol):
    """A module that says itself what it holds."""

    def held(self) -> Mapping[str, Any]:
        """Returns name -> value of what makes it another module where it differs, besides parameters and buffers."""


def plain_state(network: nn.Module) -> dict[str, Any]:
    """Returns what is equal where two networks compute the same from the same parameters, buffers and inputs.

    Equal are numbers, texts, and lists or mappings of them; of everything else only the very same object. What a
    network looks up elsewhere, as in a global variable, cannot be seen.
    """
    return {name: _described(module) for name, module in network.named_modules()}


def _described(module: nn.Module) -> tuple[Any, ...]:
    tensors = {**module._parameters, **module._buffers}
    held = module.held() if isinstance(module, Holder) else vars(module)
    return (
        type(module),
        {name: None if one is None else (one.shape, one.dtype, one.requires_grad) for name, one in tensors.items()},
        {name: _comparable(value) for name, value in held.items() if name not in OF_EVERY_MODULE},
    )


def _comparable(value: Any) -> Any:
    """Returns a copy that is equal where values are; objects that cannot be told are known by their identity."""
    if isinstance(value, nn.Module):
        return plain_state(value)
    if isinstance(value, Tensor):
        return Tensor, id(value)
    if isinstance(value, Mapping):
        return type(value), [(_comparable(key), _comparable(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [_comparable(one) for one in value]
    return set(value) if isinstance(value, set) else value
