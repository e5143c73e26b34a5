"""Trains the rounds of one configuration together, epoch by epoch, and measures their test errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpo.errors import RequestError
from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds, is_two_tower_mlp
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.cuda_graph import CudaGraphRounds, CudaRecorder
from hpo.training.optimizers import CPU, TrainingConfig
from hpo.training.rounds import GradientNorms, LoopedRounds, Rounds, StackedRounds


@dataclass(frozen=True)
class Errors:
    """Test errors of R rounds in percent, by both decisions.

    A pair whose logits are not finite counts as wrong.

    Attributes:
        head: (R,), the comparison read off the head's logits (report B).
        recognition: (R,), the two recognised digits compared (report A).
        diverged: (R,), true where a logit of any test pair is not finite.
    """

    head: Tensor
    recognition: Tensor
    diverged: Tensor


@dataclass(frozen=True)
class Epoch:
    """What one epoch of R rounds showed.

    Attributes:
        number: from 1.
        losses: (R,), mean training loss over the epoch; not finite for a round that diverged.
        errors: on the test pairs after the epoch; None where it was not evaluated.
        gradient_norms: layer -> (R,), the gradient's norm, mean over the epoch's batches; empty unless asked for.
    """

    number: int
    losses: Tensor
    errors: Errors | None
    gradient_norms: Mapping[str, Tensor]


def build_networks(build: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """Returns a network for each seed, the same on every device; the global random state stays as it was."""
    networks = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            networks.append(build())
    return networks


def train(
    networks: Sequence[nn.Module],
    train_pairs: Pairs,
    test_pairs: Pairs,
    config: TrainingConfig,
    *,
    shuffle_seeds: Sequence[int],
    evaluate_at: Collection[int] = (),
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    stacked: bool | None = None,
    gradient_norms: bool = False,
) -> Iterator[Epoch]:
    """Trains R networks of one structure, each on its round's pairs, and yields after every epoch.

    A round that diverges goes on with what it has; the others never notice.

    Args:
        networks: R networks; they are moved to `device` and trained in place, or copied where rounds are stacked.
        train_pairs, test_pairs: the pairs of the R rounds.
        shuffle_seeds: R seeds of the order in which a round sees its pairs.
        evaluate_at: the epochs after which to measure the test errors. The last is always measured.
        stacked: which of the two ways; None chooses the faster.
        gradient_norms: whether to measure the gradient of every layer.
    """
    rounds = make_rounds(
        [network.to(device, dtype) for network in networks],
        config,
        device,
        stacked=stacked,
        captured=not gradient_norms,
    )
    yield from train_rounds(
        rounds,
        train_pairs.to(device, dtype),
        test_pairs.to(device, dtype),
        epochs=config.epochs,
        shuffle_seeds=shuffle_seeds,
        evaluate_at=evaluate_at,
        gradient_norms=gradient_norms,
    )


def train_rounds(
    rounds: Rounds,
    train_pairs: Pairs,
    test_pairs: Pairs,
    *,
    epochs: int,
    shuffle_seeds: Sequence[int],
    evaluate_at: Collection[int] = (),
    gradient_norms: bool = False,
) -> Iterator[Epoch]:
    """Trains R rounds on their pairs, all on one device, and yields after every epoch; see `train`."""
    shuffles = [torch.Generator().manual_seed(seed) for seed in shuffle_seeds]
    for number in range(1, epochs + 1):
        orders = torch.stack([torch.randperm(train_pairs.targets.shape[1], generator=g) for g in shuffles])  # (R, N)
        norms = GradientNorms() if gradient_norms else None
        losses = rounds.train_epoch(train_pairs, orders.to(train_pairs.targets.device), norms)
        evaluated = number in evaluate_at or number == epochs
        errors = measure(*rounds.predict(test_pairs.images), test_pairs) if evaluated else None
        yield Epoch(number, losses.cpu(), errors, norms.mean() if norms else {})


def make_rounds(
    networks: Sequence[nn.Module],
    config: TrainingConfig,
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
    linear = device.type == "cpu" and is_two_tower_mlp(networks[0])
    if stacked is None:
        stacked = device.type != "cpu" or linear
    if stacked and linear and config.precision == "float32":
        return MLPRounds(networks, config)
    if stacked and config.precision != "float32" and any(isinstance(m, nn.BatchNorm2d) for m in networks[0].modules()):
        # PyTorch issue 192617: the batch norm of vmap takes weights and statistics of the input's type.
        raise RequestError(f"precision {config.precision!r} is not for stacked networks with batch norm, as on a GPU")
    if stacked and captured and device.type == "cuda":
        return CudaGraphRounds(networks, config, CudaRecorder(device))
    return (StackedRounds if stacked else LoopedRounds)(networks, config)


def measure(comparison: Tensor, digits: Tensor, pairs: Pairs) -> Errors:
    """Returns the errors of R rounds: logits (R, N, 2) and (R, N, 2, 10) against N pairs a round."""
    first, second = digits.argmax(-1).unbind(-1)  # (R, N) each
    comparison_finite, digits_finite = (
        comparison.isfinite().all(-1),
        digits.isfinite().flatten(2).all(-1),
    )  # (R, N) each

    def percent_wrong(decided: Tensor, finite: Tensor) -> Tensor:
        return 100 * ((decided != pairs.targets) | ~finite).double().mean(-1).cpu()

    return Errors(
        head=percent_wrong(comparison.argmax(-1), comparison_finite),
        recognition=percent_wrong((first <= second).long(), digits_finite),
        diverged=~(comparison_finite & digits_finite).all(-1).cpu(),
    )
