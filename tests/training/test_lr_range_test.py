from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from hpo.study.task import Round
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.training.lr_curve import spaced_rates
from hpo.training.lr_range_test import DIVERGED, run_range_test
from hpo.training.rounds import LoopedRounds
from tests.training.test_rounds import SEEDS, TASK, config, loss_of, make_networks
from tests.training.test_trainer import ROUNDS, params, trainer


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stacked_and_looped_rounds_give_the_same_curves(architecture: str, optimizer: str) -> None:
    rates = spaced_rates(1e-4, 0.01, 12)
    stacked, looped = (
        trainer(stacked=way).range_test(params(architecture, optimizer=optimizer), ROUNDS, rates)
        for way in (True, False)
    )
    assert stacked.losses.shape == (len(ROUNDS), 12)
    assert np.allclose(stacked.losses, looped.losses, rtol=1e-3)


def test_a_curve_is_a_plain_loop_whose_rate_rises(digit_pairs: tuple[Pairs, Pairs]) -> None:
    how, rates = config(), spaced_rates(1e-3, 0.1, 15)
    (network,), r = make_networks("fnn", seeds=SEEDS[:1]), 0
    pairs, generator, expected = digit_pairs[0], torch.Generator().manual_seed(7), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    order: list[int] = []
    for rate in rates:
        order = order or torch.randperm(200, generator=generator).tolist()
        batch, order = order[: how.batch_size], order[how.batch_size :]
        optimizer.param_groups[0]["lr"] = float(rate)
        output = network(pairs.images[r, batch])
        loss = TASK.loss(output, Pairs(*(tensor[r, batch] for tensor in pairs)), auxiliary_loss=True)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        expected.append(loss.item())
    one = Pairs(*(tensor[:1] for tensor in digit_pairs[0]))
    fresh = LoopedRounds(make_networks("fnn", seeds=SEEDS[:1]), how, loss_of())
    found = run_range_test(fresh, one, rates, how.batch_size, [7])
    assert np.allclose(found.losses[0], expected, rtol=1e-4)


def test_a_round_that_diverges_ends_and_the_others_go_on(digit_pairs: tuple[Pairs, Pairs]) -> None:
    networks = make_networks("fnn")
    with torch.no_grad():
        next(iter(networks[1].parameters())).mul_(1e4)  # explodes at the first real step
    rounds = LoopedRounds(networks, config(), partial(TASK.loss, auxiliary_loss=True))
    found = run_range_test(rounds, digit_pairs[0], spaced_rates(1e-2, 1e4, 20), 20, SEEDS)
    lengths = [int(np.isfinite(curve).sum()) for curve in found.losses]
    assert found.ended == 3
    assert 0 < min(lengths) < max(lengths) < 20
    for curve, length in zip(found.losses, lengths, strict=True):
        assert np.isfinite(curve[:length]).all()
        assert np.isnan(curve[length:]).all()
        assert (curve[:length] <= DIVERGED * curve[0]).all()
    assert [math.isfinite(rate) for rate in found.optima] == [length > 1 for length in lengths]


def test_nothing_outside_is_touched() -> None:
    torch.manual_seed(5)
    tested, rounds = trainer(), [Round(number, 3) for number in range(2)]
    state, images = torch.get_rng_state(), tested.data(rounds).train[0].clone()
    tested.range_test(params(), rounds, spaced_rates(1e-3, 1e-2, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tested.data(rounds).train[0], images)
