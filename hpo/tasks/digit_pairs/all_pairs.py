"""The errors of trained networks over all ordered pairs of test images, from what their towers read in each image.

By recognition a pair is right where the digits that are read compare as the digits do. What is read in an image does
not depend on its partner, so the error over all M^2 ordered pairs, an image beside itself among them, follows from how
often digit i is read as a: M images are looked at, not M^2 pairs. By posterior all pairs are decided, by the
probabilities of both images. The head's error is over pairs that are drawn; it is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from hpo.study.examples import ExampleOutcomes
from hpo.study.task import Round
from hpo.tasks.datasets import HEAD_PAIRS
from hpo.tasks.digit_pairs.architectures import load_pair_class
from hpo.tasks.digit_pairs.mlp_rounds import compare, is_mlp
from hpo.tasks.digit_pairs.pairs import Images
from hpo.training.ensembles import average_logits, by_round
from hpo.training.network_task import FinalTest, States

DIGITS = 10
UNREAD = DIGITS  # in place of a digit where an output is not finite: every pair with such an image is wrong
AT_ONCE = 500  # pairs that a network is given at once
HEADS_AT_ONCE = 10_000  # pairs that its head is given at once
ROWS_AT_ONCE = 1_000  # images that are held against all others at once


class AllPairs(FinalTest):
    """Measures networks of R rounds on all test images.

    Args:
        images: M of them, on the networks' device.
        rounds: whose networks they are; each has its own pairs for the head.
        scales: mean and deviation of each round's pixels, (R, 2).
        network: one of the networks, whatever its weights.
        shares_weights: whether one tower reads both images of a pair; then each image is read once.
        keeps_examples: whether it is kept what every image is read as.
        size: how many networks a round has, whose predictions are averaged.
        posterior: whether the error by probabilities is measured too.
    """

    def __init__(
        self,
        images: Images,
        rounds: Sequence[Round],
        scales: Tensor,
        network: nn.Module,
        *,
        shares_weights: bool,
        keeps_examples: bool = False,
        size: int = 1,
        posterior: bool = False,
    ) -> None:
        self._keeps_examples, self._size, self._posterior = keeps_examples, size, posterior
        self._images, self._scales, self._network, self._shares = images, scales, network, shares_weights
        seeds = tuple(one.seed("head's test pairs") for one in rounds)
        self._pairs = _draw(seeds, len(images.digits), images.digits.device)
        self._is_known = type(network) is load_pair_class()  # whose head is given the towers' outputs, and no more

    def numbers(self, predict: Callable[[Tensor], Any], states: States) -> Tensor:
        """Returns (K, R): confusion matrices, the head's error, and whether each image is read by itself.

        Where examples are kept, before these what is read in each image, and of how many pairs it is, and of wrong
        ones. Where probabilities are asked, before all of it in how many pairs each image is decided wrongly.
        """
        of_networks, alone = self._read(predict)
        logits = self._averaged(of_networks)
        reads = logits.argmax(-1).where(logits.isfinite().all(-1), UNREAD)  # (R, T, M)
        matrices = confusion(reads, self._images.digits).flatten(1)  # (R, T * 110)
        wrong = self._compare(predict, states, of_networks)  # (R, P)
        head = 100 * wrong.double().mean(1)
        numbers = [matrices.T.double(), head[None], alone[None].double()]
        if self._keeps_examples:
            counts = [self._of_images(torch.ones_like(wrong)), self._of_images(wrong)]
            numbers = [reads.flatten(1).T.double(), *(count.T.double() for count in counts), *numbers]
        if self._posterior:
            numbers = [wrong_by_probability(logits, self._images.digits).T, *numbers]
        return torch.cat(numbers)

    def read(self, numbers: Tensor) -> tuple[Mapping[str, Sequence[float]], Mapping[str, Any]]:
        """Returns each metric's errors (R,), and the confusion matrices (R, T, 10, 11), T towers.

        Raises:
            ValueError: where what a network reads in an image depends on the other image of the pair.
        """
        if not numbers[-1].all():
            raise ValueError("test_pairs = 'all' is for networks that read each image by itself")
        rounds, towers, count = numbers.shape[1], 1 if self._shares else 2, len(self._images.digits)
        of_probability, numbers = torch.split(numbers, [first := count * self._posterior, len(numbers) - first])
        of_images = numbers[: -towers * DIGITS * (DIGITS + 1) - 2]
        numbers = numbers[len(of_images) :]
        matrices = numbers[:-2].T.long().reshape(rounds, towers, DIGITS, DIGITS + 1)
        recognition = [recognition_error(one[0], one[-1]) for one in matrices]
        details: dict[str, Any] = {"confusion_matrices": matrices.tolist()}
        if self._keeps_examples:
            reads, pairs, wrong = torch.split(of_images.T, [towers * count, count, count], 1)
            details["examples"] = {
                "recognition": tested_by_recognition(matrices, reads.view(rounds, towers, count), self._images.digits),
                "head": ExampleOutcomes(((100 * wrong - numbers[-2][:, None] * pairs) / HEAD_PAIRS).float().numpy()),
            }
        errors = {"recognition": recognition, "head": numbers[-2].tolist()}
        if self._posterior:
            wrong = 100 * of_probability.T / (2 * count)  # of the pairs that each image is in, (R, M)
            errors["posterior"] = wrong.mean(1).tolist()
            if self._keeps_examples:
                moves = 2 * (wrong - wrong.mean(1, keepdim=True)) / count
                details["examples"]["posterior"] = ExampleOutcomes(moves.float().numpy())
        return errors, details

    def _read(self, predict: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor]:
        """Returns the digits' logits of each network (…, T, M, 10), and whether a round's read each image by itself."""
        count, device = len(self._images.digits), self._images.digits.device
        number = -(-count // 2) if self._shares else count
        first = torch.arange(number, device=device)
        second = (first + number) % count if self._shares else first
        pairs = torch.stack([first, second], 1)  # (N, 2)
        read = torch.cat([predict(self._inputs(some))[1] for some in torch.split(pairs, AT_ONCE)], 1)  # (R, N, 2, 10)
        alone = self._is_read_alone(predict, pairs[:AT_ONCE], read[:, :AT_ONCE]).view(-1, self._size).all(1)
        if self._shares:
            return torch.cat([read[:, :, 0], read[:, :, 1]], 1)[:, None, :count], alone
        return read.transpose(1, 2), alone

    def _is_read_alone(self, predict: Callable[[Tensor], Any], pairs: Tensor, read: Tensor) -> Tensor:
        """Says of each round whether images are read alike beside others; with shared weights also in the other place.

        Args:
            pairs, read: some pairs (N, 2), and what was read in them (R, N, 2, 10).
        """
        if self._is_known:
            return torch.ones(len(read), dtype=torch.bool, device=read.device)
        others, expected = pairs.clone(), read.clone()
        others[:, 1], expected[:, :, 1] = pairs[:, 1].roll(1), read[:, :, 1].roll(1, 1)
        if self._shares:
            others, expected = others.flip(1), expected.flip(2)
        close = torch.isclose(predict(self._inputs(others))[1], expected, rtol=1e-3, atol=1e-3, equal_nan=True)
        return close.flatten(1).all(1)

    def _compare(self, predict: Callable[[Tensor], Any], states: States, logits: Tensor) -> Tensor:
        """Returns whether the head compares drawn pairs wrongly, (R, P)."""
        targets = _targets(self._pairs, self._images.digits)
        if self._is_known:
            compared = self._by_head(states, logits)
        else:
            compared = torch.cat([predict(self._inputs(some))[0] for some in torch.split(self._pairs, AT_ONCE, 1)], 1)
        compared = self._averaged(compared)
        no, yes = compared.unbind(-1)  # argmax and isfinite along two numbers take as long as all the rest
        return ((yes > no) != targets) | (0 * no + 0 * yes != 0)

    def _by_head(self, states: States, logits: Tensor) -> Tensor:
        """Returns each network's comparisons (…, P, 2) of the drawn pairs, by its head alone."""
        head, weights = self._network.get_submodule("head"), states()
        if logits.is_cpu and is_mlp(head):
            return compare(head, weights, logits, self._pairs.repeat_interleave(self._size, 0))
        stacked = {name: torch.stack([one[f"head.{name}"] for one in weights]) for name, _ in head.named_parameters()}
        heads = vmap(lambda of, features: functional_call(head, of, (features,)))
        rounds = torch.arange(len(logits), device=logits.device)[:, None]
        parts = []
        with torch.no_grad():
            for some in torch.split(self._pairs.repeat_interleave(self._size, 0), HEADS_AT_ONCE, 1):
                both = (logits[:, 0][rounds, some[..., 0]], logits[:, -1][rounds, some[..., 1]])  # (R, p, 10) each
                parts.append(heads(stacked, torch.cat(both, -1)))
        return torch.cat(parts, 1)

    def _of_images(self, flags: Tensor) -> Tensor:
        """Returns for each image (R, M) how many of its drawn pairs are flagged, (R, P)."""
        counts = torch.zeros(len(flags), len(self._images.digits), dtype=torch.long, device=flags.device)
        for side in self._pairs.unbind(-1):
            counts.scatter_add_(1, side, flags.long())
        return counts

    def _inputs(self, pairs: Tensor) -> Tensor:
        """Returns each network's images (…, N, 2, 14, 14) of pairs (N, 2), the same for all rounds, or (R, N, 2)."""
        mean, deviation = (scale.view(-1, 1, 1, 1, 1) for scale in self._scales.unbind(1))
        images = (self._images.images[pairs] - mean).div_(deviation)
        return images.repeat_interleave(self._size, 0) if self._size > 1 else images

    def _averaged(self, logits: Tensor) -> Tensor:
        """Returns the mean predictions of each round's networks: (R M, ..., K) -> (R, ..., K)."""
        return average_logits(by_round(logits, self._size), 1) if self._size > 1 else logits


def confusion(reads: Tensor, digits: Tensor) -> Tensor:
    """Returns how often each digit is read as another, (..., 10, 11), or not at all, in the last column.

    Args:
        reads: (..., M), from 0 to 10.
        digits: (M,).
    """
    # As a product of 0 and 1 in floats, whose sums are exact and do not depend on an order.
    return functional.one_hot(digits, DIGITS).T.float() @ functional.one_hot(reads, DIGITS + 1).float()


def recognition_error(first: Tensor, second: Tensor) -> float:
    """Returns the percentage of all ordered pairs that are recognised wrongly.

    Args:
        first, second: the confusion matrices (10, 11) of the towers that read the first and the second images.
    """
    wrong = int(first.flatten().long() @ _wrong() @ second.flatten().long())
    return 100 * wrong / (int(first.sum()) * int(second.sum()))


def wrong_by_probability(logits: Tensor, digits: Tensor) -> Tensor:
    """Returns in how many of all ordered pairs each image is decided wrongly, by probabilities: (R, M), floats.

    An image counts in both places, beside itself too. A pair with one whose logits are not finite is wrong.

    Args:
        logits: of the digits in each image, as each of T towers reads them, (R, T, M, 10).
        digits: (M,).
    """
    probabilities, finite = torch.softmax(logits, -1), logits.isfinite().all(-1)
    counts = logits.new_zeros(len(logits), len(digits), dtype=torch.double)
    for count, towers, known in zip(counts, probabilities, finite, strict=True):
        below, second = towers[0].cumsum(-1), towers[-1].T  # (M, 10), (10, M)
        for start in range(0, len(digits), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            is_at_most = digits[rows, None] <= digits
            wrong = ~((below[rows] @ second >= 0.5) == is_at_most)
            wrong |= ~(known[0, rows, None] & known[-1])
            count[rows] += wrong.sum(1)
            count += wrong.sum(0)
    return counts


def tested_by_recognition(matrices: Tensor, reads: Tensor, digits: Tensor) -> ExampleOutcomes:
    """Returns what became of each image, and by how much that moves the error over all ordered pairs.

    Args:
        matrices: confusion matrices (R, T, 10, 11).
        reads: (R, T, M), from 0 to 10.
        digits: (M,).
    """
    count, wrong = len(digits), 100 * _wrong().double()
    shares = matrices.flatten(2).double() / count  # (R, T, 110)
    as_first, as_second = shares[:, -1] @ wrong.T, shares[:, 0] @ wrong  # the error of an image in either place
    error = (shares[:, 0] * as_first).sum(1, keepdim=True)
    outcomes = ((DIGITS + 1) * digits.cpu() + reads.cpu().long()).numpy()  # (R, T, M)
    if reads.shape[1] == 1:
        return ExampleOutcomes(((as_first + as_second - 2 * error) / count).numpy(), outcomes[:, 0].astype(np.uint8))
    influence = torch.cat([as_first - error, as_second - error], 1) / count  # (R, 220)
    both = np.concatenate([outcomes[:, 0], outcomes[:, 1] + as_first.shape[1]], axis=1)
    images = np.tile(np.arange(count, dtype=np.int32), 2)[None, :, None]
    return ExampleOutcomes(influence.numpy(), both.astype(np.uint8), images)


@lru_cache(maxsize=1)
def _wrong() -> Tensor:
    """Returns 1 where reading i as a and j as b is wrong, else 0: (110, 110), a row for each i and a."""
    digit = torch.arange(DIGITS + 1)
    i, a, j, b = torch.meshgrid(digit[:-1], digit, digit[:-1], digit, indexing="ij")
    wrong = (a == UNREAD) | (b == UNREAD) | ((a <= b) != (i <= j))
    return wrong.long().reshape(DIGITS * (DIGITS + 1), -1)


@lru_cache(maxsize=4)
def _targets(pairs: Tensor, digits: Tensor) -> Tensor:
    """Returns whether the first of each pair is at most the second, (R, P); of the very same tensors once."""
    first, second = digits[pairs].unbind(-1)
    return first <= second


@lru_cache(maxsize=4)
def _draw(seeds: tuple[int, ...], count: int, device: torch.device) -> Tensor:
    """Returns pairs of images for the heads of R rounds, (R, HEAD_PAIRS, 2)."""
    drawn = [torch.randint(count, (HEAD_PAIRS, 2), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(device)
