"""Layers that are of exactly a kind, so that a kernel may take their place."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_exactly(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Says whether a layer is of exactly this kind, and computes what the kind does and nothing else.

    A subclass may compute something else, and so may a layer whose `forward` was replaced, or that has hooks: those of
    pruning and of the old `weight_norm` make the weight.
    """
    return type(layer) is kind and is_untouched(layer)


def is_untouched(layer: nn.Module) -> bool:
    """Says whether a layer has no hooks, and the `forward` of its type."""
    return not any(getattr(layer, name) for name in HOOKS) and "forward" not in vars(layer)
