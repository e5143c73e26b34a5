"""Chooses how the rounds of a configuration are trained together, and finds out by trying what a network allows.

A network may do with its layers what it likes, as look at a weight or branch on its data. So before layers are
replaced, or rounds are stacked, both ways are tried on a few examples, and must come to the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from hpo.errors import RequestError
from hpo.kernels.fuse import fuse
from hpo.training.batch import Batch, each, of_round, tensors_of
from hpo.training.randomness import RandomStream, draws_numbers
from hpo.training.rounds import LoopedRounds, Loss, Rounds, StackedRounds
from hpo.training.updates.config import TrainingConfig

ROUNDING = 1e-3  # of the largest number, in float32: batch norm of few examples makes much of it


def make_rounds(
    networks: Sequence[nn.Module],
    config: TrainingConfig,
    loss: Loss,
    example: Batch,
    seeds: Sequence[int],
    *,
    stacked: bool | None = None,
) -> Rounds:
    """Returns networks, already on their device, in training.

    Args:
        example: a few examples of each round, (R, N, ...).
        seeds: of what each round draws in its training, as for dropout. Stacked rounds would draw from one generator.
        stacked: which of the two ways; None chooses the faster that the network allows.

    Raises:
        RequestError: where the precision is not for such networks.
    """
    device = example[0].device
    if config.precision == "tf32" and device.type == "cpu":
        raise RequestError("precision 'tf32' is of NVIDIA's GPUs, not of a CPU")
    fault = None
    draws = "" if stacked is True else _what_it_draws(networks[0], loss, of_round(example, 0))
    if stacked is None:
        stacked = device.type != "cpu" or _is_linear(networks[0])
        fault = stacking_fault(networks, config, loss, example) if stacked and not draws else None
    if fault or draws or not stacked:
        fault = fault and f"it cannot be stacked: {fault}"
        way = f"looped, for {draws or fault}" if draws or fault else "looped"
        streams = [RandomStream(seed, device) for seed in seeds] if draws else []
        return _loop(networks, config, loss, example, way, streams)
    if config.precision != "float32" and any(isinstance(m, nn.BatchNorm2d) for m in networks[0].modules()):
        # PyTorch issue 192617: the batch norm of vmap takes weights and statistics of the input's type.
        raise RequestError(f"precision {config.precision!r} is not for stacked networks with batch norm, as on a GPU")
    return StackedRounds(networks, config, loss)


def stacking_fault(networks: Sequence[nn.Module], config: TrainingConfig, loss: Loss, example: Batch) -> str | None:
    """Returns why networks cannot be trained stacked, in a line; None where they can.

    A step must be possible, and losses and gradients must be those of each network alone, to float32's rounding.
    """
    exact = replace(config, precision="float32")
    two = each(example, lambda tensor: tensor[[0, -1]])
    try:
        chosen = [copy.deepcopy(networks[r]) for r in (0, -1)]
        alone = [_losses_and_gradients(network.eval(), loss, of_round(two, r)) for r, network in enumerate(chosen)]
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*performance drop.*")  # an operation that vmap runs in a loop
            together = _of_each_round(StackedRounds(copy.deepcopy(chosen), exact, loss), two)
            StackedRounds(copy.deepcopy(chosen), config, loss).step(two)
    except Exception as error:  # whatever vmap makes of what somebody wrote
        return str(error).partition("\n")[0] or type(error).__name__
    same = all(_is_close(ours, theirs) for ours, theirs in zip(alone, together, strict=True))
    return None if same else "it computes something else then"


def _of_each_round(rounds: StackedRounds, batch: Batch) -> list[list[Tensor]]:
    """Returns each round's loss, (1,), and gradients, with batch norm at its running statistics."""
    rounds.structure.eval()
    losses = rounds.losses(batch)
    gradients = _gradients(losses.sum(), rounds.parameters.values())
    return [[losses[r : r + 1], *(gradient[r] for gradient in gradients)] for r in range(rounds.rounds)]


def _losses_and_gradients(network: nn.Module, loss: Loss, batch: Batch) -> list[Tensor]:
    """Returns a network's loss, (1,), and the gradients of its parameters."""
    value = loss(network(batch[0]), batch)
    return [value.reshape(1), *_gradients(value, network.parameters())]


def _gradients(value: Tensor, parameters: Iterable[Tensor]) -> Sequence[Tensor]:
    """Returns a value's gradients by the parameters that are trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.autograd.grad(value, trained, allow_unused=True, materialize_grads=True)


def _what_it_draws(network: nn.Module, loss: Loss, batch: Batch) -> str:
    """Says that a network, or its loss, draws random numbers, or may do so; nothing where neither does."""
    try:
        other = copy.deepcopy(network)
        with torch.no_grad():
            drawn = draws_numbers(
                lambda: (loss(other.train()(batch[0]), batch), other.eval()(batch[0])), batch[0].device
            )
    except Exception as error:  # what is wrong with it shows in training
        said = str(error).partition("\n")[0] or type(error).__name__
        return f"it cannot be tried on a copy, so its training may draw random numbers: {said}"
    return "its training draws random numbers" if drawn else ""


def _loop(
    networks: Sequence[nn.Module],
    config: TrainingConfig,
    loss: Loss,
    example: Batch,
    way: str,
    streams: Sequence[RandomStream],
) -> Rounds:
    """Returns looped rounds: their layers fused and their images with the channels last, as far as that can be."""
    can_fuse = example[0].is_cpu and config.precision == "float32"
    for adapt in (fused, channels_last) if can_fuse else (channels_last,):
        if _computes_the_same(networks[0], adapt, example):
            said = f"{way}, layers fused" if adapt is fused else way
            return LoopedRounds(networks, config, loss, adapt, said, streams)
    return LoopedRounds(networks, config, loss, way=way, streams=streams)


def fused(network: nn.Module) -> nn.Module:
    """Returns a network with its layers fused, its images with the channels last."""
    return fuse(channels_last(network))


def channels_last(network: nn.Module) -> nn.Module:
    """Returns a network whose images have their channels last in memory, which convolutions on a CPU like better."""
    return network.to(memory_format=torch.channels_last)


def _is_linear(network: nn.Module) -> bool:
    """Says whether all that a network learns are linear layers, which even a CPU trains faster stacked."""
    learning = (module for module in network.modules() if list(module.parameters(recurse=False)))
    return all(type(module) is nn.Linear for module in learning)


def _computes_the_same(network: nn.Module, adapt: Callable[[nn.Module], nn.Module], example: Batch) -> bool:
    """Says whether an adapted network computes what the network does: tried on copies, in training and after it.

    In float64, if it can: there no input of a ReLU lies so near 0 that rounding turns its gradient on or off. Fused
    layers are tried in the precision that they are for.
    """
    for exactly in (False,) if adapt is fused else (True, False):
        try:
            one, inputs = copy.deepcopy(network), example[0][0]
            return _agrees(*((one.double(), inputs.double()) if exactly else (one, inputs)), adapt)
        except (
            Exception
        ):  # it cannot be copied, or makes something else of other layers; its own faults show in training
            continue
    return False


def _agrees(network: nn.Module, inputs: Tensor, adapt: Callable[[nn.Module], nn.Module]) -> bool:
    """Says whether an adapted copy of a network computes the same; dropout aside, which draws in memory's order."""
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    other = copy.deepcopy(network)
    expected = _outcome(network, None, inputs)
    found = _outcome(adapt(other), other, inputs)
    return all(_is_close(*both) for both in zip(expected, found, strict=True))


def _outcome(network: nn.Module, shared: nn.Module | None, inputs: Tensor) -> list[list[Tensor]]:
    """Returns what a network gives, its gradients, and its buffers, after a batch and one look without training.

    Args:
        shared: the network whose parameters and buffers it has; None where they are its own.
    """
    owner = shared or network
    with RandomStream(0, inputs.device).drawing():  # as dropout may ask for
        trained = tensors_of(network.train()(inputs))
        objective = torch.stack([tensor.sin().mean() for tensor in trained if tensor.requires_grad]).sum()
        gradients = _gradients(objective, owner.parameters())
        with torch.no_grad():
            then = tensors_of(network.eval()(inputs))
    return [[*trained, *then], list(gradients), list(owner.buffers())]


def _is_close(expected: list[Tensor], found: list[Tensor]) -> bool:
    """Says whether tensors differ by no more than rounding makes of the largest number among them."""
    groups = (expected, found)
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return False
    flat = [torch.zeros(1, dtype=torch.double)]  # not empty
    ours, theirs = (torch.cat([*flat, *(one.detach().double().cpu().flatten() for one in group)]) for group in groups)
    tolerance = ROUNDING * ours.nan_to_num(0, 0, 0).abs().max().item()
    return torch.allclose(ours, theirs, rtol=0.0, atol=tolerance, equal_nan=True)
