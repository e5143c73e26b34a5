"""Smoothed labels, and the third decision: by the probabilities of both digits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from hpo.errors import StudyError
from hpo.kernels.cross_entropy import smoothed
from hpo.study.training import Training
from hpo.tasks.digit_pairs import all_pairs
from hpo.tasks.digit_pairs.all_pairs import AllPairs, wrong_by_probability
from hpo.tasks.digit_pairs.losses import pair_errors, pair_loss, probability
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.batch import join, of_round
from hpo.training.rounds import StackedRounds
from hpo.training.trainer import Trainer
from tests.conftest import SMALL_STUDY, defined
from tests.study.test_definition import changed
from tests.tasks.test_all_pairs import COUNT, SCALES, Own, all_of_them, images, networks
from tests.tasks.test_all_pairs import ROUNDS as TWO
from tests.training.test_trainer import ROUNDS, params, task

SHARES = [0.0, 0.1, 0.5, 0.99]


def some_output(count: int = 60, seed: int = 0) -> tuple[tuple[Tensor, Tensor], Pairs]:
    draw = torch.Generator().manual_seed(seed)
    comparison = 3 * torch.randn(count, 2, generator=draw, dtype=torch.float64)
    digits = 3 * torch.randn(count, 2, 10, generator=draw, dtype=torch.float64)
    classes = torch.randint(10, (count, 2), generator=draw)
    targets = (classes[:, 0] <= classes[:, 1]).long()
    return (comparison, digits), Pairs(torch.zeros(count), classes, targets)


@pytest.mark.parametrize("smoothing", SHARES)
@pytest.mark.parametrize("classes", [2, 10])
def test_smoothed_labels_are_pytorchs(classes: int, smoothing: float) -> None:
    """Each example's loss, and the gradient of the mean, of one network and of two that are stacked."""
    draw = torch.Generator().manual_seed(classes)
    logits = (5 * torch.randn(2, 30, classes, generator=draw, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(classes, (2, 30), generator=draw)
    expected = torch.stack(
        [
            functional.cross_entropy(*both, label_smoothing=smoothing, reduction="none")
            for both in zip(logits, labels, strict=True)
        ]
    )
    torch.testing.assert_close(smoothed(logits[0], labels[0], smoothing), expected[0], rtol=0, atol=1e-12)
    stacked = vmap(lambda own, of: smoothed(own, of, smoothing))(logits, labels)
    torch.testing.assert_close(stacked, expected, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(losses.mean(), logits)[0] for losses in (stacked, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def textbook(
    output: tuple[Tensor, Tensor], batch: Pairs, weights: tuple[float, float | None], smoothing: float
) -> Tensor:
    comparison, digits = output
    main, first, second = (
        functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        for logits, labels in (
            (comparison, batch.targets), (digits[:, 0], batch.classes[:, 0]), (digits[:, 1], batch.classes[:, 1])
        )
    )  # fmt: skip
    return main if weights[1] is None else weights[0] * main + weights[1] * (first + second)


@pytest.mark.parametrize("smoothing", SHARES)
def test_all_three_losses_are_of_smoothed_labels(smoothing: float) -> None:
    output, batch = some_output()
    for weights in ((1.0, 1.0), (0.3, 0.7), (0.0, 2.0), (1.0, None)):
        expected = textbook(output, batch, weights, smoothing)
        torch.testing.assert_close(pair_loss(output, batch, weights, smoothing), expected, rtol=0, atol=1e-12)
    of = DigitPairs(dataset="digits", main_weight=0.4, auxiliary_weight=0.6)
    for more, weights in (
        ({"auxiliary_loss": True}, (0.4, 0.6)),
        ({"auxiliary_loss": True, "auxiliary_share": 0.2}, (0.8, 0.2)),
        ({"auxiliary_loss": False}, (1.0, None)),
    ):
        found = of.loss(output, batch, **more, label_smoothing=smoothing)
        torch.testing.assert_close(found, textbook(output, batch, weights, smoothing), rtol=0, atol=1e-12)


def test_networks_are_trained_by_smoothed_labels_whichever_way_would_be_the_fastest() -> None:
    """The first step's loss is the textbook's; smoothing by nothing leaves training as it is, to the last digit."""
    made = Trainer(task(), Training(epochs=1, batch_size=200), keep=("losses",), dtype=torch.float64)
    chosen = params(label_smoothing=0.3)
    prepared = made.prepare(chosen, ROUNDS)
    assert type(prepared) is StackedRounds
    (measured,) = made.measure(chosen, ROUNDS)
    train = made.data(ROUNDS).train
    comparison, digits = prepared.predict(train[0])
    for r, loss in enumerate(measured.details["losses"]):
        expected = textbook((comparison[r], digits[r]), Pairs(*of_round(train, r)), (1.0, 1.0), 0.3)
        assert loss == pytest.approx(float(expected), rel=1e-9)
    assert list(made.measure(params(label_smoothing=0.0), ROUNDS)) == list(made.measure(params(), ROUNDS))


def decided(first: Tensor, second: Tensor) -> bool:
    """Whether two digits of these probabilities are in order, by all hundred pairs of digits."""
    return sum(float(first[a] * second[b]) for a, b in product(range(10), repeat=2) if a <= b) >= 0.5


def test_the_third_decision_is_by_all_pairs_of_digits() -> None:
    (comparison, digits), batch = some_output()
    of_each = torch.softmax(digits, -1)
    sure = probability(of_each[:, 0], of_each[:, 1])
    assert float(sure[0]) == pytest.approx(
        sum(float(of_each[0, 0, a] * of_each[0, 1, b]) for a in range(10) for b in range(a, 10))
    )
    expected = [100.0 * (decided(*pair) != bool(target)) for pair, target in zip(of_each, batch.targets, strict=True)]
    errors = pair_errors((comparison, digits), batch, posterior=True)
    assert errors["posterior"].tolist() == expected
    assert errors["recognition"].tolist() != expected
    assert set(pair_errors((comparison, digits), batch)) == {"recognition", "head"}


def test_a_pair_whose_digits_are_not_finite_is_decided_by_none_but_the_head() -> None:
    (comparison, digits), batch = some_output(4)
    digits[1, 0, 3], digits[2, 1, 0], comparison[3, 0] = torch.nan, torch.inf, torch.nan
    errors = pair_errors((comparison, digits), batch, posterior=True)
    for name, known in (("posterior", [1, 0, 0, 1]), ("recognition", [1, 0, 0, 1]), ("head", [1, 1, 1, 0])):
        assert errors[name].isfinite().long().tolist() == known


def test_it_is_measured_only_where_a_study_asks_for_it() -> None:
    for posterior, names in (
        (None, ["recognition", "head"]),
        (False, ["recognition", "head"]),
        (True, ["recognition", "head", "posterior"]),
    ):
        for pairs in (150, "all"):
            of = DigitPairs(dataset="digits", posterior=posterior, test_pairs=pairs)
            for metrics in (of.metrics, of.validation_metrics):
                assert [metric.name for metric in metrics] == names
                assert metrics[-1].resolution == (metrics[0].resolution if posterior else metrics[1].resolution)
    asked = changed(changed(SMALL_STUDY, "protocol.metric", "posterior"), "task.posterior", True)
    assert defined(asked, "small").protocol.metric == "posterior"
    with pytest.raises(StudyError, match=r"protocol\.metric must be one of 'recognition', 'head', but is 'posterior'"):
        defined(changed(asked, "task.posterior", False), "small")
    assert "posterior" not in defined(SMALL_STUDY, "small").task.settings


def test_what_no_loss_trains_is_at_chance_by_the_third_decision_too() -> None:
    for posterior, names in ((None, ["recognition"]), (True, ["recognition", "posterior"])):
        of = DigitPairs(dataset="digits", posterior=posterior)
        assert of.untrained({"auxiliary_loss": False}) == names
        assert of.untrained({"auxiliary_loss": True, "auxiliary_share": 1.0}) == ["head"]
        assert of.untrained({"auxiliary_loss": True}) == []


def mean_probabilities(several: list[nn.Module], scale: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """What networks take both digits of pairs for, on average: (N, 10) each."""
    inputs = (images().images[pairs] - scale[0]) / scale[1]
    with torch.no_grad():
        read = torch.stack([torch.softmax(network(inputs)[1], -1) for network in several]).mean(0)
    return read[:, 0], read[:, 1]


def measured(several: list[nn.Module], size: int, **how: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The errors of R rounds of `size` networks each, and details."""

    @torch.no_grad()
    def predict(inputs: Tensor) -> Any:
        return join([network(of) for network, of in zip(several, inputs, strict=True)], torch.stack)

    test = AllPairs(images(), TWO, SCALES, several[0], size=size, posterior=True, **how)
    return test.read(test.numbers(predict, lambda: [dict(one.state_dict()) for one in several]))


@pytest.mark.parametrize("weight_sharing", [True, False])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("is_known", [True, False])
def test_over_all_pairs_it_is_what_they_come_to_one_by_one(
    weight_sharing: bool, size: int, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by how much each image moves it, and for networks of another author's."""
    monkeypatch.setattr(all_pairs, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(all_pairs, "AT_ONCE", 6)
    monkeypatch.setattr(all_pairs, "_draw", lambda seeds, *_: all_of_them()[:20].repeat(len(seeds), 1, 1))
    several = [one for _ in range(size) for one in networks(weight_sharing=weight_sharing)]
    for number, network in enumerate(several):
        for parameter in network.parameters():
            parameter.data.mul_(2 + number / 2)  # surer, and each differently
    several = several if is_known else [Own(one, 0.0) for one in several]
    errors, details = measured(several, size, shares_weights=weight_sharing, keeps_examples=True)
    pairs, digits = all_of_them(), images().digits
    targets = digits[pairs[:, 0]] <= digits[pairs[:, 1]]
    for r in range(len(TWO)):
        both = mean_probabilities(several[r * size : (r + 1) * size], SCALES[r], pairs)
        said = torch.tensor([decided(*one) for one in zip(*both, strict=True)])
        wrong = 100 * (said != targets).double()
        assert errors["posterior"][r] == pytest.approx(float(wrong.mean()), abs=1e-9)
        assert errors["posterior"][r] != pytest.approx(errors["recognition"][r])
        moves = details["examples"]["posterior"].influences()[r]
        for image in range(COUNT):
            touching = (pairs == image).sum(1)  # 2 for an image beside itself
            assert moves[image] == pytest.approx(
                float((touching * (wrong - wrong.mean())).sum() / len(pairs)), abs=1e-4
            )
    without, _ = measured(several, size, shares_weights=weight_sharing)
    assert without == errors


@pytest.mark.parametrize("unread", [torch.nan, torch.inf, -torch.inf])
def test_all_pairs_of_an_image_that_cannot_be_read_are_wrong(unread: float) -> None:
    digits = torch.tensor([0, 4, 9])
    logits = 50 * functional.one_hot(digits, 10).double()[None, None]  # one tower, which reads all of them
    assert wrong_by_probability(logits, digits).tolist() == [[0, 0, 0]]
    logits[0, 0, 1, 7] = unread
    assert wrong_by_probability(logits, digits).tolist() == [[2, 6, 2]]
    second = torch.cat([50 * functional.one_hot(digits, 10).double()[None, None], logits], 1)
    assert wrong_by_probability(second, digits).tolist() == [[1, 4, 1]]  # as the second of a pair alone
