"""A network as data: a list of its layers, and their numbers, for a page whose JavaScript computes the same.

Only layers that are of exactly a known kind are translated, with settings that the page has; all else is refused, for
what is computed otherwise would be shown as the network's answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hpo.errors import RequestError
from hpo.kernels.exact import is_exactly, is_untouched
from hpo.kernels.gpu.recognise import RESIDUAL
from hpo.tasks.digit_pairs.architectures import load_pair_class
from hpo.tasks.digit_pairs.mlp_rounds import ACTIVATIONS
from hpo.training.ensembles import Averaged

Layer = dict[str, Any]


class Translation:
    """The networks of an ensemble, or the one, as data.

    Attributes:
        members: of each its towers, one where both images share it, and its head: lists of layers, in their order.
        numbers: of all layers, float32, little-endian; a layer says by `at` where its own begin.
        parameters: how many the networks have.

    Raises:
        RequestError: where a layer is of no known kind.
    """

    def __init__(self, network: nn.Module) -> None:
        self._kept: list[bytes] = []
        self._size = 0
        networks = list(network.networks) if is_exactly(network, Averaged) else [network]
        self.members = [self._member(one) for one in networks]
        self.numbers = b"".join(self._kept)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())

    def _member(self, network: nn.Module) -> dict[str, Any]:
        if not is_exactly(network, load_pair_class()):
            raise _refusal(network)
        towers, head = network.get_submodule("towers"), network.get_submodule("head")
        return {"towers": [self._layers(tower) for tower in towers.children()], "head": self._layers(head)}

    def _layers(self, module: nn.Module) -> list[Layer]:
        if is_exactly(module, nn.Sequential):
            return [layer for child in module for layer in self._layers(child)]
        if is_exactly(module, nn.Dropout) or is_exactly(module, nn.Identity):
            return []
        if vars(type(module)).get("computes") == RESIDUAL and is_untouched(module):
            parts = {name: self._layers(child) for name, child in module.named_children()}
            if set(parts) == {"residue", "activation"}:
                return [{"kind": "residual", **parts}]
        translate = KINDS.get(type(module))
        layer = translate(module) if translate is not None and is_untouched(module) else None
        if layer is None:
            raise _refusal(module)
        tensors = layer.pop("tensors", None)
        return [layer if tensors is None else {**layer, "at": [self._keep(tensor) for tensor in tensors]}]

    def _keep(self, tensor: Tensor | None) -> int | None:
        """Returns where the numbers of a tensor begin."""
        if tensor is None:
            return None
        numbers = tensor.detach().cpu().float().contiguous().numpy().astype("<f4")
        at = self._size
        self._kept.append(numbers.tobytes())
        self._size += numbers.size
        return at


def _refusal(module: nn.Module) -> RequestError:
    text = str(module)
    shown = type(module).__name__ if "\n" in text else text
    return RequestError(f"--page computes the layers of models/ alone, and not {shown}; export it without --page")


def _convolution(layer: nn.Conv2d) -> Layer | None:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    if layer.groups != 1 or _pair(layer.dilation) != [1, 1]:
        return None
    return {
        "kind": "convolution",
        "channels": layer.out_channels,
        "kernel": _pair(layer.kernel_size),
        "stride": _pair(layer.stride),
        "padding": _pair(layer.padding),
        "tensors": (layer.weight, layer.bias),
    }


def _batch_norm(layer: nn.BatchNorm2d) -> Layer | None:
    """Returns a norm that is not in training: it multiplies and adds, as its running statistics say."""
    if layer.running_mean is None or layer.running_var is None:
        return None
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    if layer.affine:
        scale = scale * layer.weight.double()
    shift = -layer.running_mean.double() * scale
    return {"kind": "scale", "tensors": (scale, shift + layer.bias.double() if layer.affine else shift)}


def _max_pool(layer: nn.MaxPool2d) -> Layer | None:
    if _pair(layer.padding) != [0, 0] or _pair(layer.dilation) != [1, 1] or layer.ceil_mode or layer.return_indices:
        return None
    return {"kind": "pool", "by": "max", "kernel": _pair(layer.kernel_size), "stride": _pair(layer.stride)}


def _average_pool(layer: nn.AvgPool2d) -> Layer | None:
    if _pair(layer.padding) != [0, 0] or layer.ceil_mode or layer.divisor_override is not None:
        return None
    return {"kind": "pool", "by": "mean", "kernel": _pair(layer.kernel_size), "stride": _pair(layer.stride)}


def _mean_of_maps(layer: nn.AdaptiveAvgPool2d) -> Layer | None:
    return {"kind": "pool", "by": "mean", "kernel": None} if layer.output_size in (1, (1, 1)) else None


def _flatten(layer: nn.Flatten) -> Layer | None:
    return {"kind": "flatten"} if (layer.start_dim, layer.end_dim) == (1, -1) else None


def _linear(layer: nn.Linear) -> Layer:
    return {"kind": "linear", "outputs": layer.out_features, "tensors": (layer.weight, layer.bias)}


def _activation(layer: nn.Module) -> Layer | None:
    """Returns what is a x of positive numbers, and b x + c (exp x - 1) of others."""
    by = ACTIVATIONS[type(layer)](layer)
    return {"kind": "activation", "by": by} if all(map(math.isfinite, by)) else None


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


KINDS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _mean_of_maps,
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.SiLU: lambda layer: {"kind": "silu"},
    **dict.fromkeys(ACTIVATIONS, _activation),
}
