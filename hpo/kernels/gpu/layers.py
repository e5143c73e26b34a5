"""Modules that stand for layers, or runs of layers, of a network that runs under vmap over R stacked ones, or alone.

Each has the very parameters and buffers of the layer it begins with, under the same names. Where the kernels are not
for what it is given, another type or another device, the layers themselves compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hpo.kernels.gpu.activation import NONE, Activation, activated_sum
from hpo.kernels.gpu.convolution import convolution
from hpo.kernels.gpu.language import runs_on
from hpo.kernels.gpu.linear import linear
from hpo.kernels.gpu.norm import Settings, Statistics, norm
from hpo.kernels.gpu.pooling import average_pool, max_pool
from hpo.kernels.gpu.stacked import of_all_rounds
from hpo.kernels.plain_state import OF_EVERY_MODULE, plain_state

ALPHAS = {"alpha", "negative_slope"}  # what PyTorch's layers call it


class Fused(nn.Module):
    """Stands for layers that follow one another.

    Attributes:
        layers: those, not registered as children, so that parameters keep their names; the first, which alone may have
            parameters, shares its own with this module, also while `functional_call` puts others in their place.
        activation: that among the layers.
        falls_back: whether the layers themselves have computed, or a network has looked at their activation's alpha.
    """

    falls_back = False

    def __init__(self, layers: Sequence[nn.Module], activation: Activation = NONE) -> None:
        super().__init__()
        self.layers, self.activation = tuple(layers), activation
        for name in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[name] = self.layers[0].__dict__[name]

    def runs_on(self, *inputs: Tensor) -> bool:
        """Says whether the kernels take inputs, and what the module holds, all on one device."""
        held = (*self._parameters.values(), *self._buffers.values(), self.activation.alpha)
        floats = (*inputs, *(one for one in held if one is not None and one.is_floating_point()))
        return all(runs_on(one) and one.device == inputs[0].device for one in floats)

    def by_layers(self, inputs: Tensor) -> Tensor:
        """Returns what the layers make of inputs."""
        self.falls_back = True
        for layer in self.layers:
            inputs = layer.train(self.training)(inputs)
        return inputs

    def held(self) -> Mapping[str, Any]:
        """See `plain_state.Holder`; not an alpha that is read on the device."""
        return _held(self)

    def extra_repr(self) -> str:  # noqa: D102
        return ", ".join(map(str, self.layers))

    def __getattr__(self, name: str) -> Any:
        """Returns what the module has itself, else what the first layer has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "layers" not in self.__dict__:  # not yet, while it is copied
                raise
            if name in ALPHAS:  # which a network may compute with itself
                self.falls_back = True
            return getattr(self.layers[0], name)


class Convolution(Fused):
    """A convolution of stride 1: (N, C, H, W) -> (N, O, H', W')."""

    def __init__(self, layer: nn.Conv2d, precision: str) -> None:
        super().__init__([layer])
        self.precision = precision

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        layer: Any = self.layers[0]
        enough = all(
            size + 2 * pad >= kernel
            for size, pad, kernel in zip(maps.shape[2:], layer.padding, layer.kernel_size, strict=False)
        )
        if not (self.runs_on(maps) and enough and _are_maps(maps, layer.in_channels)):
            return self.by_layers(maps)

        def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return convolution(maps.transpose(1, 2), weight, bias, layer.padding, self.precision).transpose(1, 2)

        return of_all_rounds(convolve, maps, self.weight, self.bias)


class Norm(Fused):
    """A batch norm, with a 2x2 max-pool and an activation if they follow: (N, C, H, W) -> (N, C, H', W')."""

    def __init__(self, layers: Sequence[nn.Module], activation: Activation) -> None:
        super().__init__(layers, activation)
        self.pool = any(isinstance(layer, nn.MaxPool2d) for layer in layers)

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """Maps what the layers do; `added` are maps that come in before the activation, where there is no pool."""
        layer: Any = self.layers[0]
        alike = self.runs_on(maps, *([] if added is None else [added])) and (added is None or added.shape == maps.shape)
        if not (alike and _are_maps(maps, layer.num_features)) or self._is_too_little(maps):
            return self._by_layers(maps, added)
        settings = Settings(self.training, self.pool, self.activation, layer.eps, layer.momentum)

        def normalise(maps: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, *kept: Tensor) -> Tensor:
            held = Statistics(*(one.contiguous() for one in kept))
            added = None if added is None else added.transpose(1, 2)
            out = norm(maps.transpose(1, 2), weight, bias, held, settings, added)
            for one, buffer in zip(held, kept, strict=True):
                if settings.training and one is not buffer:  # a copy was changed
                    buffer.copy_(one)
            return out.transpose(1, 2)

        kept = self.running_mean, self.running_var, self.num_batches_tracked
        return of_all_rounds(normalise, maps, added, self.weight, self.bias, *kept)

    def _is_too_little(self, maps: Tensor) -> bool:
        """Says that PyTorch has an error for these maps, or a result without numbers."""
        one = self.training and maps[:, 0].numel() == 1  # which has no variance
        return one or (self.pool and min(maps.shape[2:]) < 2)

    def _by_layers(self, maps: Tensor, added: Tensor | None) -> Tensor:
        if added is None:
            return self.by_layers(maps)
        self.falls_back = True
        norm, *rest = self.layers
        normed = norm.train(self.training)(maps) + added
        return rest[0](normed) if rest else normed  # type: ignore[no-any-return]


class MaxPool(Fused):
    """A max-pool without padding and an activation, in either order: (N, C, H, W) -> (N, C, H', W')."""

    def __init__(self, layers: Sequence[nn.Module], pool: nn.MaxPool2d, activation: Activation) -> None:
        super().__init__(layers, activation)
        self.size, self.stride = _one(pool.kernel_size), _one(pool.stride)

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        if not (self.runs_on(maps) and _are_maps(maps)) or min(maps.shape[2:]) < self.size:
            return self.by_layers(maps)
        return _of_maps(lambda maps: max_pool(maps, self.size, self.stride, self.activation), maps)


class AveragePool(Fused):
    """An average pool whose windows lie side by side, and an activation: (N, C, H, W) -> (N, C, H', W')."""

    def __init__(self, layers: Sequence[nn.Module], pool: nn.AvgPool2d, activation: Activation) -> None:
        super().__init__(layers, activation)
        self.size = _one(pool.kernel_size)

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        if not (self.runs_on(maps) and _are_maps(maps)) or min(maps.shape[2:]) < self.size:
            return self.by_layers(maps)
        return _of_maps(lambda maps: average_pool(maps, self.size, self.activation), maps)


class Linear(Fused):
    """A linear layer and its activation: (N, I) -> (N, O)."""

    def __init__(self, layers: Sequence[nn.Module], activation: Activation, precision: str) -> None:
        super().__init__(layers, activation)
        self.precision = precision

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102
        if not (self.runs_on(inputs) and inputs.dim() == 2 and inputs.numel() and inputs.shape[1] == self.in_features):
            return self.by_layers(inputs)

        def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return linear(inputs, weight, bias, self.activation, self.precision)

        return of_all_rounds(multiply, inputs, self.weight, self.bias)


class Residual(nn.Module):
    """Stands for a block whose result is activation(maps + residue(maps)); its children keep their names.

    Args:
        residue: its layers; a `Norm` at the end takes the sum and the activation over.
        layer: the activation as a layer.
        activation: what is known of it.
    """

    falls_back = False

    def __init__(self, residue: nn.Module, layer: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.residue, self.layers, self.activation = residue, (layer,), activation

    def held(self) -> Mapping[str, Any]:
        """See `plain_state.Holder`; not an alpha that is read on the device."""
        return _held(self)

    def forward(self, maps: Tensor) -> Tensor:  # noqa: D102
        if isinstance(self.residue, nn.Sequential) and isinstance(self.residue[-1], Norm):
            inner = maps
            for layer in list(self.residue)[:-1]:
                inner = layer(inner)
            return self.residue[-1](inner, maps)  # type: ignore[no-any-return]
        residue = self.residue(maps)
        if residue.shape != maps.shape or not (runs_on(maps) and runs_on(residue) and _are_maps(maps)):
            self.falls_back = True
            return self.layers[0](maps + residue)  # type: ignore[no-any-return]

        def add(maps: Tensor, residue: Tensor) -> Tensor:
            return activated_sum(maps.transpose(1, 2), residue.transpose(1, 2), self.activation).transpose(1, 2)

        return of_all_rounds(add, maps, residue)


def _held(module: Fused | Residual) -> dict[str, Any]:
    hidden = {*OF_EVERY_MODULE, *(() if module.falls_back else ALPHAS)}
    layers = [
        (type(layer), {name: of for name, of in vars(layer).items() if name not in hidden}) for layer in module.layers
    ]
    held = {name: value for name, value in vars(module).items() if name != "falls_back"}
    return {**held, "layers": layers, "activation": module.activation.kind}


def take_alphas(fused: nn.Module, other: nn.Module) -> bool:
    """Gives a fused network the alphas of another, where they differ in nothing else, and says whether that is so.

    What the first has its kernels do, also what was recorded of them, is then what the other would; parameters and
    buffers are not touched.
    """
    if plain_state(fused) != plain_state(other):
        return False
    ours, theirs = (
        [one.activation for one in both.modules() if isinstance(one, Fused | Residual)] for both in (fused, other)
    )
    for one, new in zip(ours, theirs, strict=True):
        if one.alpha is not None and new.alpha is not None:
            one.alpha.copy_(new.alpha)
    return True


def _are_maps(maps: Tensor, channels: int | None = None) -> bool:
    """Says whether a tensor is of shape (N, C, H, W), not empty, with so many channels."""
    return maps.dim() == 4 and maps.numel() > 0 and channels in (None, maps.shape[1])


def _of_maps(function: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """Returns what a function of maps (R, C, N, H, W) makes of those that the network sees, (N, C, H, W)."""
    return of_all_rounds(lambda maps: function(maps.transpose(1, 2)).transpose(1, 2), maps)


def _one(size: int | tuple[int, ...]) -> int:
    """Returns the size of a square."""
    return size if isinstance(size, int) else size[0]
