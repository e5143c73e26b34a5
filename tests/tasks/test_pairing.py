"""A round's images in other pairs in every epoch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from hpo.study.task import Round
from hpo.study.training import Training
from hpo.tasks.digit_pairs.pairs import Pairs, pair_anew
from hpo.training.device import CPU
from hpo.training.randomness import EpochNumbers
from hpo.training.trainer import Trainer
from tests.training.test_rounds import Tape
from tests.training.test_trainer import ROUNDS, params, task

ANEW = "every epoch"
Measure = Callable[..., Any]


def given() -> Pairs:
    return Pairs(*Trainer(task(), Training()).data(ROUNDS).train)


def paired(epoch: int, rounds: list[Round] = ROUNDS) -> Pairs:
    own = [ROUNDS.index(one) for one in rounds]
    return pair_anew(Pairs(*(tensor[own] for tensor in given())), EpochNumbers(rounds, epoch, CPU, torch.float32))


def rows(images: Tensor, classes: Tensor) -> list[tuple[int, ...]]:
    """Images with their digits, as something that can be sorted."""
    return sorted((hash(image.numpy().tobytes()), int(digit)) for image, digit in zip(images, classes, strict=True))


def test_the_same_images_are_paired_and_targets_follow_from_their_digits() -> None:
    before, after = given(), paired(1)
    assert [one.shape for one in after] == [one.shape for one in before]
    assert [one.dtype for one in after] == [one.dtype for one in before]
    for r in range(len(ROUNDS)):
        ours, theirs = (rows(one.images[r].flatten(0, 1), one.classes[r].flatten()) for one in (after, before))
        assert ours == theirs
    assert torch.equal(after.targets, (after.classes[..., 0] <= after.classes[..., 1]).long())
    assert 0.3 < after.targets.double().mean() < 0.8


def test_each_epoch_and_each_round_has_pairs_of_its_own_whatever_stands_beside_it() -> None:
    epochs = [given(), *(paired(epoch) for epoch in range(1, 4))]
    for one, other in pairwise(epochs):
        for side in (0, 1):
            same = (one.images[:, :, side] == other.images[:, :, side]).flatten(2).all(2).double().mean()
            assert same < 0.05
        partners = (one.classes != other.classes).any(2).double().mean()
        assert partners > 0.9
    assert torch.equal(paired(2).images, epochs[2].images)
    assert torch.equal(paired(2, ROUNDS[1:2]).images[0], epochs[2].images[1])
    two = EpochNumbers(ROUNDS, 1, CPU, torch.float32).permutations("pairing", 400)
    assert not torch.equal(two[0], two[1])
    assert torch.equal(two[0].sort().values, torch.arange(400))


@pytest.mark.parametrize("weight_sharing", [True, False])
@pytest.mark.parametrize("auxiliary_loss", [True, False])
def test_networks_are_trained_on_the_pairs_of_each_epoch(auxiliary_loss: bool, weight_sharing: bool) -> None:
    """By the task's own loops, stacked, looped, and recorded; as the same networks that are given these pairs."""
    chosen = params(weight_sharing=weight_sharing, auxiliary_loss=auxiliary_loss)
    how: dict[str, Any] = {"keep": ("losses",), "dtype": torch.float64}
    training = Training(epochs=3, batch_size=30)
    plain = Trainer(task(), training, **how)
    networks, orders = plain.prepare(chosen, ROUNDS), [torch.Generator().manual_seed(r.seed("shuffle")) for r in ROUNDS]
    expected = []
    for epoch in range(1, 4):
        order = torch.stack([torch.randperm(200, generator=one) for one in orders])
        pairs = paired(epoch)
        pairs = pairs._replace(images=pairs.images.double())
        expected.append(networks.train_epoch(pairs, order, None).tolist())
    errors = plain.task.errors(
        tuple(part.flatten(0, 1) for part in networks.predict(plain.data(ROUNDS).test[0])),
        Pairs(*(tensor.flatten(0, 1) for tensor in plain.data(ROUNDS).test)),
    )
    ways: list[dict[str, Any]] = [{}, {"stacked": True}, {"stacked": False}, {"stacked": True, "recorder": Tape}]
    for way in ways:
        # Smoothing by next to nothing: the loops of the task's own cannot do it, so the others are seen too.
        more = {"label_smoothing": 1e-12} if way else {}
        measured = list(Trainer(task(), training, **way, **how).measure({**chosen, "pairing": ANEW, **more}, ROUNDS))
        for epoch, one in enumerate(measured):
            assert one.details["losses"] == pytest.approx(expected[epoch], rel=1e-8)
        for name, of in errors.items():
            assert measured[-1].errors[name] == of.view(len(ROUNDS), -1).mean(1).tolist()


def test_fixed_pairs_are_those_that_were_drawn() -> None:
    training = Training(epochs=2, batch_size=30)
    fixed, plain, anew = (
        list(Trainer(task(), training, keep=("losses",)).measure(params(**more), ROUNDS))
        for more in ({"pairing": "fixed"}, {}, {"pairing": ANEW})
    )
    assert fixed == plain
    assert anew[0].details != plain[0].details
