"""R networks of one structure in training, in step: one batch for every round, then the next.

There are two ways with equal results. *Stacked*: all at once, their parameters stacked along a leading dimension of R;
on a GPU the forward pass runs under `torch.func.vmap`, and the step is captured in a CUDA graph. *Looped*: one after
another within each epoch. Every operation and every optimizer here works element by element or network by network, so a
stacked round computes what it would alone; a test holds all to a plain `torch.optim` loop.

On two x86 cores the convolutional towers are faster looped (vmap turns them into grouped convolutions, which are slow
on a CPU), the linear ones stacked; on a GPU stacking always wins. `make_rounds` chooses so by itself.
docs/performance.md has the measurements.
"""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from .data import Pairs
from .errors import RequestError
from .fused import fuse

CPU = torch.device("cpu")
OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}
EAGER_STEPS = 3  # before a step is captured: libraries choose their kernels, optimizers make their state


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How networks are trained.

    Attributes:
        auxiliary_loss: if true the loss is `main_weight * L1 + auxiliary_weight * (L2 + L3)`, else L1. L1 is the
            comparison's cross-entropy, L2 and L3 those of the two digits (report A, section III.A; report B, equation
            1).
        precision: `float32`, or `bfloat16` for the matrix products and convolutions, as PyTorch's autocast chooses
            them; weights, losses and batch norm's statistics stay in float32.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    auxiliary_loss: bool
    main_weight: float = 1.0
    auxiliary_weight: float = 1.0
    precision: str = "float32"

    def loss(self, comparison: Tensor, digits: Tensor, pairs: Pairs) -> Tensor:
        """Returns the mean loss over B pairs: (..., B, 2) and (..., B, 2, 10) -> (...)."""
        main = _cross_entropy(comparison, pairs.targets).mean(-1)
        if not self.auxiliary_loss:
            return main
        auxiliary = _cross_entropy(digits, pairs.classes).sum(-1).mean(-1)  # (..., B, 2) -> (..., B) -> (...)
        return self.main_weight * main + self.auxiliary_weight * auxiliary


class GradientNorms:
    """Adds up each layer's gradient norms over the steps of an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Takes R rounds' gradients of one step: parameter name -> (R, ...)."""
        squares: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            layer = name.rpartition(".")[0]  # a layer is its weight and its bias
            squares[layer] = squares.get(layer, torch.zeros(())) + gradient.flatten(1).square().sum(1).cpu()  # (R,)
        for layer, square in squares.items():
            self._sums[layer].append(square.sqrt())

    def mean(self) -> dict[str, Tensor]:
        """Returns layer -> (R,), the mean over the steps."""
        return {layer: torch.stack(norms).mean(0) for layer, norms in self._sums.items()}


class Rounds(Protocol):
    """R networks of one structure in training; they are moved and changed in place, or copied.

    Attributes:
        optimizers: one for each round, or one for all.
    """

    optimizers: list[torch.optim.Optimizer]

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None: ...

    @abstractmethod
    def step(self, batch: Pairs) -> Tensor:
        """Trains every round on its batch, and returns the losses (R,) from before."""

    @abstractmethod
    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:
        """Takes the pairs of each round in its order, (R, N), batch after batch; returns the mean losses (R,)."""

    @abstractmethod
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (R, N, 2, 14, 14) to logits (R, N, 2) and (R, N, 2, 10), batch norm at its running statistics."""


class LoopedRounds(Rounds):
    """R networks trained one after another within each epoch, their images with the channels last."""

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        self.networks = [network.to(memory_format=torch.channels_last) for network in networks]
        self.recipe = recipe
        self.optimizers = [make_optimizer(recipe, list(network.parameters())) for network in self.networks]
        fused = next(networks[0].parameters()).is_cpu and recipe.precision == "float32"
        self._fused = [fuse(network) for network in self.networks] if fused else self.networks

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        return torch.stack([self._step(r, _of_round(batch, r)) for r in range(len(self.networks))])

    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        losses = []
        steps: list[list[dict[str, Tensor]]] = []  # of each round, of each step: its gradients
        for r, network in enumerate(self.networks):
            total, gradients = pairs.images.new_zeros(()), []
            ours = Pairs(pairs.images[r : r + 1], pairs.classes[r : r + 1], pairs.targets[r : r + 1])
            for batch, share in batches(ours, orders[r : r + 1], self.recipe.batch_size):
                total += share * self._step(r, _of_round(batch, 0))
                if norms is not None:
                    gradients.append(
                        {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
                    )
            losses.append(total)
            steps.append(gradients)
        if norms is not None:
            for step in zip(*steps, strict=True):
                norms.add({name: torch.stack([gradients[name] for gradients in step]) for name in step[0]})
        return torch.stack(losses)

    def _step(self, r: int, batch: Pairs) -> Tensor:
        optimizer = self.optimizers[r]
        loss = self.recipe.loss(*self._forward(self._fused[r].train(), batch.images), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        comparisons, digits = zip(*(self._predict(r, images[r]) for r in range(len(images))), strict=True)
        return torch.stack(comparisons), torch.stack(digits)

    def _predict(self, r: int, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self._fused[r].eval()
        # In batches that stay in the cache: all 1 000 pairs at once took four times as long (cnn_bn, one core).
        comparisons, digits = zip(
            *(self._forward(network, batch) for batch in torch.split(images, self.recipe.batch_size)), strict=True
        )
        return torch.cat(comparisons), torch.cat(digits)

    def _forward(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        return _in_precision(self.recipe.precision, lambda: network(images), images.device)


class StackedRounds(Rounds):
    """R networks trained all at once: one lends its structure, the parameters of all R take the place of its own.

    Attributes:
        parameters: name -> (R, ...).
    """

    parameters: dict[str, Tensor]

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        self.structure = networks[0]
        self.parameters, self.buffers = stack_module_state(list(networks))
        self.recipe = recipe
        self.optimizers = [make_optimizer(recipe, self.parameters.values())]

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        (optimizer,) = self.optimizers
        self.structure.train()
        losses = self.recipe.loss(*self._forward(batch.images), batch)  # (R,)
        optimizer.zero_grad()
        # No parameter belongs to two rounds, so the sum gives each its own gradient.
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return losses.detach()

    def train_epoch(self, pairs: Pairs, orders: Tensor, norms: GradientNorms | None) -> Tensor:  # noqa: D102
        total = pairs.images.new_zeros(len(pairs.targets))  # (R,)
        for batch, share in batches(pairs, orders, self.recipe.batch_size):
            total += share * self.step(batch)
            if norms is not None:
                norms.add({name: p.grad for name, p in self.parameters.items() if p.grad is not None})
        return total

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        self.structure.eval()
        return self._forward(images)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
            logits: tuple[Tensor, Tensor] = functional_call(self.structure, (parameters, buffers), (images,))
            return logits

        forward = vmap(one)
        return _in_precision(
            self.recipe.precision, lambda: forward(self.parameters, self.buffers, images), images.device
        )


class LinearRounds(StackedRounds):
    """Stacked rounds of networks whose parameters are all in linear layers, without vmap.

    What else such a network does, it does to each example by itself, so it can be given the examples of all rounds as
    one batch, round after round. Only a linear layer must know where a round ends: it multiplies each round's part by
    that round's weights, in one batched product. This spares vmap's bookkeeping and the transposed gradients that
    autograd makes of `F.linear` under it: an epoch of `fnn` takes 0.83 of the time (10 rounds, one core; EPYC).
    """

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe) -> None:
        self.rounds, self.structure = len(networks), copy.deepcopy(networks[0])
        for name, module in networks[0].named_modules():
            if isinstance(module, nn.Linear):
                self.structure.set_submodule(
                    name, _StackedLinear([network.get_submodule(name) for network in networks])
                )
        self.parameters = dict(self.structure.named_parameters())
        self.recipe = recipe
        self.optimizers = [make_optimizer(recipe, self.parameters.values())]

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        together = images.flatten(0, 1)  # (R, B, 2, 14, 14) -> (R * B, 2, 14, 14)
        parts = _in_precision(self.recipe.precision, lambda: self.structure(together), images.device)
        comparison, digits = (part.view(self.rounds, -1, *part.shape[1:]) for part in parts)
        return comparison, digits


class _StackedLinear(nn.Module):
    """R linear layers: maps (R * B, K) to (R * B, N), each of R parts by its own weights."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.stack([layer.get_parameter(name).detach() for layer in layers]))  # (R, N, K), (R, N)
            for name in ("weight", "bias")
        )

    def forward(self, x: Tensor) -> Tensor:
        apart = x.reshape(len(self.weight), -1, x.shape[-1])  # (R * B, K) -> (R, B, K)
        product: Tensor = _BatchedProduct.apply(apart, self.weight, self.bias)
        return product.flatten(0, 1)


class _BatchedProduct(torch.autograd.Function):
    """x @ weight^T + bias for each of R: (R, B, K), (R, N, K), (R, N) -> (R, B, N)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = context.saved_tensors
        # Nothing asks for the gradient of the images.
        towards_x = torch.bmm(gradient, weight) if context.needs_input_grad[0] else None
        return towards_x, torch.bmm(gradient.transpose(1, 2), x), gradient.sum(1)


class Recorder(Protocol):
    """Records what a function has a device do, to be done again by a single call."""

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """Runs a function where it is going to be recorded."""
        ...

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Returns what does again, on the same memory, all that the function has the device do; it is not run."""
        ...


class CudaRecorder(Recorder):
    """Records a CUDA graph, on the stream on which the function ran before, as PyTorch asks for.

    Args:
        device: the GPU; streams and graphs belong to one, and would silently be the first's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, function: Callable[[], Tensor]) -> Tensor:  # noqa: D102
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # Optimizers warn where they could be captured and are not; these steps only come before.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            result = function()
        current.wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:  # noqa: D102
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, stream=self._stream):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class CapturedRounds(StackedRounds):
    """Stacked rounds whose step is recorded after the first few and replayed from then on, by a single launch.

    A step of these networks is a hundred kernels of some microseconds each: to launch them one by one takes longer than
    to run them. The first steps are ordinary ones, and train; recording runs nothing; a replay trains on a batch that
    was copied to where the recorded step reads it. The graph holds the learning rate as a number and belongs to these
    networks alone, so every trial records its own: simpler than one graph for a structure, into which each
    trial's weights, states and rate would have to be copied. A batch of another size, the last of an epoch, is trained
    by an ordinary step.
    """

    def __init__(self, networks: Sequence[nn.Module], recipe: Recipe, recorder: Recorder) -> None:
        super().__init__(networks, recipe)
        parameters = list(self.parameters.values())
        self.optimizers = [make_optimizer(recipe, parameters, capturable=parameters[0].is_cuda)]
        self._recorder = recorder
        self._eager_steps = 0
        self._batch: Pairs | None = None
        self._replay: Callable[[], Tensor] | None = None

    def step(self, batch: Pairs) -> Tensor:  # noqa: D102
        ordinary = super().step
        if batch.targets.shape[1] != self.recipe.batch_size or self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            return self._recorder.run(lambda: ordinary(batch))
        if self._replay is None or self._batch is None:
            read = Pairs(batch.images.clone(), batch.classes.clone(), batch.targets.clone())
            self._replay, self._batch = self._recorder.record(lambda: ordinary(read)), read
        self._batch.images.copy_(batch.images)
        self._batch.classes.copy_(batch.classes)
        self._batch.targets.copy_(batch.targets)
        return self._replay().clone()  # the next replay writes there again


def make_rounds(
    networks: Sequence[nn.Module],
    recipe: Recipe,
    device: torch.device,
    *,
    stacked: bool | None = None,
    captured: bool = True,
) -> Rounds:
    """Returns networks, already on the device, in training.

    Args:
        stacked: which of the two ways; None chooses the faster.
        captured: whether a GPU may replay a recorded step: not where the learning rate changes, or somebody looks at
            the gradients.
    """
    linear = _is_linear(networks[0])
    if stacked is None:
        stacked = device.type != "cpu" or linear
    if stacked and linear and device.type == "cpu":
        return LinearRounds(networks, recipe)
    if stacked and recipe.precision != "float32" and any(isinstance(m, nn.BatchNorm2d) for m in networks[0].modules()):
        # PyTorch issue 192617: the batch norm of vmap takes weights and statistics of the input's type.
        raise RequestError(f"precision {recipe.precision!r} is not for stacked networks with batch norm, as on a GPU")
    if stacked and captured and device.type == "cuda":
        return CapturedRounds(networks, recipe, CudaRecorder(device))
    return (StackedRounds if stacked else LoopedRounds)(networks, recipe)


def make_optimizer(
    recipe: Recipe, parameters: Collection[Tensor], *, capturable: bool = False
) -> torch.optim.Optimizer:
    """Returns the recipe's optimizer over parameters, PyTorch's defaults but for the learning rate.

    Args:
        capturable: whether a CUDA graph is to hold its steps, so that it must count them on the GPU.
    """
    # SGD counts nothing, and has no such setting.
    settings: dict[str, Any] = {"capturable": True} if capturable and recipe.optimizer != "sgd" else {}
    return OPTIMIZERS[recipe.optimizer](parameters, lr=recipe.learning_rate, **settings)  # type: ignore[call-arg]


def _in_precision(
    precision: str, forward: Callable[[], tuple[Tensor, Tensor]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns a forward pass's logits, computed in a precision."""
    if precision == "float32":
        return forward()
    with torch.autocast(device.type, getattr(torch, precision)):
        comparison, digits = forward()
    return comparison.float(), digits.float()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Maps (..., K) logits and (...) labels to (...) losses."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)


def _is_linear(network: nn.Module) -> bool:
    """Says whether all parameters are in linear layers with a bias, and nothing else is kept from batch to batch."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear) and module.bias is not None]
    return 2 * len(layers) == len(list(network.parameters())) and not list(network.buffers())


def batches(pairs: Pairs, orders: Tensor, size: int) -> Iterator[tuple[Pairs, float]]:
    """Yields the pairs of R rounds in these orders, (R, N), batch by batch; each with its share of N.

    A batch is copied when its turn comes, and is still in the cache when it is trained on. The last may be smaller.
    """
    rounds, count = orders.shape
    firsts = count * torch.arange(rounds, device=orders.device).unsqueeze(1)  # (R, 1), where a round's pairs begin
    for chosen in torch.split(orders, size, dim=1):  # (R, B)
        rows = (firsts + chosen).flatten()
        parts = (tensor.flatten(0, 1).index_select(0, rows) for tensor in (pairs.images, pairs.classes, pairs.targets))
        yield Pairs(*(part.view(*chosen.shape, *part.shape[1:]) for part in parts)), chosen.shape[1] / count


def _of_round(pairs: Pairs, r: int) -> Pairs:
    return Pairs(pairs.images[r], pairs.classes[r], pairs.targets[r])
