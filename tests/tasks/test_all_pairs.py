"""The errors over all ordered pairs of test images: what going through the pairs one by one comes to."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpo.study.task import Measurement, Round
from hpo.study.training import Training
from hpo.tasks.digit_pairs import all_pairs
from hpo.tasks.digit_pairs.all_pairs import AllPairs, confusion, recognition_error
from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture
from hpo.tasks.digit_pairs.pairs import Images
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.batch import join
from hpo.training.network_task import States
from hpo.training.trainer import Trainer

ROUNDS = [Round(number, 0) for number in range(2)]
COUNT = 13  # images: an odd number
SCALES = torch.tensor([[0.2, 1.5], [-0.1, 0.7]])
PARAMS: dict[str, Any] = {"activation": "relu", "auxiliary_loss": True, "optimizer": "sgd", "learning_rate": 0.1}


def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randn(COUNT, 14, 14, generator=generator), torch.randint(10, (COUNT,), generator=generator))


def networks(*, weight_sharing: bool) -> list[nn.Module]:
    torch.manual_seed(0)
    build = load_architecture("fully_connected")
    return [build(load_activations()("relu"), weight_sharing=weight_sharing).eval() for _ in ROUNDS]


def measured(
    several: list[nn.Module], *, shares_weights: bool, states: States | None = None
) -> tuple[dict[str, list[float]], Any]:
    """Returns errors and confusion matrices of networks that read each image in batches of four pairs."""
    errors, details = all_measured(several, shares_weights=shares_weights, states=states)
    return errors, details["confusion_matrices"]


def all_measured(
    several: list[nn.Module], *, shares_weights: bool, states: States | None = None, keeps_examples: bool = False
) -> tuple[dict[str, list[float]], Any]:
    """Returns the same, with all details."""

    @torch.no_grad()
    def predict(inputs: Tensor) -> Any:
        return join([network(of) for network, of in zip(several, inputs, strict=True)], torch.stack)

    how = {"shares_weights": shares_weights, "keeps_examples": keeps_examples}
    test = AllPairs(images(), ROUNDS, SCALES, several[0], **how)
    errors, details = test.read(test.numbers(predict, states or (lambda: [dict(one.state_dict()) for one in several])))
    return {name: list(of) for name, of in errors.items()}, details


def all_of_them() -> Tensor:
    return torch.tensor(list(product(range(COUNT), range(COUNT))))  # (M^2, 2)


@torch.no_grad()
def one_by_one(network: nn.Module, scale: Tensor, pairs: Tensor) -> dict[str, float]:
    """Returns the errors of pairs, each looked at."""
    of = images()
    comparison, digits = network((of.images[pairs] - scale[0]) / scale[1])
    first, second = digits.argmax(-1).unbind(-1)
    targets = of.digits[pairs[:, 0]] <= of.digits[pairs[:, 1]]
    wrong = {"recognition": (first <= second) != targets, "head": comparison.argmax(-1).bool() != targets}
    return {name: 100 * float(of_pairs.double().mean()) for name, of_pairs in wrong.items()}


@pytest.mark.parametrize("weight_sharing", [True, False])
def test_they_are_what_all_pairs_one_by_one_come_to(monkeypatch: pytest.MonkeyPatch, weight_sharing: bool) -> None:
    monkeypatch.setattr(all_pairs, "AT_ONCE", 4)
    monkeypatch.setattr(all_pairs, "HEADS_AT_ONCE", 17)
    drawn = all_of_them().repeat(len(ROUNDS), 1, 1)
    monkeypatch.setattr(all_pairs, "_draw", lambda *_: drawn)
    several = networks(weight_sharing=weight_sharing)
    errors, matrices = measured(several, shares_weights=weight_sharing)
    for r, network in enumerate(several):
        expected = one_by_one(network, SCALES[r], all_of_them())
        assert errors["recognition"][r] == pytest.approx(expected["recognition"], abs=1e-12)
        assert errors["head"][r] == pytest.approx(expected["head"], abs=1e-12)
        assert len(matrices[r]) == (1 if weight_sharing else 2)
        assert sum(map(sum, matrices[r][0])) == COUNT


@pytest.mark.parametrize("weight_sharing", [True, False])
def test_an_image_moves_an_error_by_what_its_pairs_say(monkeypatch: pytest.MonkeyPatch, weight_sharing: bool) -> None:
    drawn = all_of_them()[torch.randperm(COUNT**2, generator=torch.Generator().manual_seed(1))[:40]]
    monkeypatch.setattr(all_pairs, "_draw", lambda *_: drawn.repeat(len(ROUNDS), 1, 1))
    monkeypatch.setattr(all_pairs, "HEAD_PAIRS", len(drawn))
    several = networks(weight_sharing=weight_sharing)
    _, details = all_measured(several, shares_weights=weight_sharing, keeps_examples=True)
    for metric, pairs in (("recognition", all_of_them()), ("head", drawn)):
        found = details["examples"][metric].influences()
        for r, network in enumerate(several):
            wrong = torch.tensor([one_by_one(network, SCALES[r], pair[None])[metric] for pair in pairs])
            for image in range(COUNT):
                touching = (pairs == image).sum(1)  # 2 for an image beside itself
                expected = float((touching * (wrong - wrong.mean())).sum() / len(pairs))
                assert found[r, image] == pytest.approx(expected, abs=1e-4)


class Own(nn.Module):
    """Another author's: towers and head are what it says, or what is read in an image depends on the other."""

    def __init__(self, inner: nn.Module, mixing: float) -> None:
        super().__init__()
        self.inner, self.mixing = inner, mixing

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        comparison, digits = self.inner(pairs)
        return comparison, digits + self.mixing * digits.flip(1)


@pytest.mark.parametrize("weight_sharing", [True, False])
def test_networks_of_others_are_measured_too_where_they_read_each_image_by_itself(weight_sharing: bool) -> None:
    several = networks(weight_sharing=weight_sharing)
    known = measured(several, shares_weights=weight_sharing)
    own = measured([Own(one, 0.0) for one in several], shares_weights=weight_sharing)
    assert own[1] == known[1]
    assert own[0]["head"] == pytest.approx(known[0]["head"], abs=0.01)
    with pytest.raises(ValueError, match="networks that read each image by itself"):
        measured([Own(one, 0.5) for one in several], shares_weights=weight_sharing)
    if not weight_sharing:  # two towers that are said to be one
        with pytest.raises(ValueError, match="networks that read each image by itself"):
            measured([Own(one, 0.0) for one in several], shares_weights=True)


def test_an_image_that_cannot_be_read_makes_each_of_its_pairs_wrong() -> None:
    digits, reads = torch.tensor([3, 5, 5]), torch.tensor([3, all_pairs.UNREAD, 5])
    matrix = confusion(reads, digits)
    assert matrix[5].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert recognition_error(matrix, matrix) == pytest.approx(100 * 5 / 9)


def trainer(**settings: Any) -> Trainer:
    task = DigitPairs(dataset="digits", train_pairs=300, **settings)
    task.prepare(Path())
    return Trainer(task, Training(epochs=2, batch_size=100, evaluate_at=(1,)))


def last_of(made: Trainer, **params: Any) -> tuple[Measurement, Measurement]:
    first, last = made.measure({**PARAMS, **params}, ROUNDS)
    return first, last


@pytest.mark.parametrize(("architecture", "weight_sharing"), [("fnn", True), ("cnn_bn", True), ("simple_cnn", False)])
def test_only_the_last_epoch_is_measured_on_all_pairs(architecture: str, weight_sharing: bool) -> None:
    chosen = {"architecture": architecture, "weight_sharing": weight_sharing}
    first, last = last_of(trainer(test_pairs="all"), **chosen)
    before, after = last_of(trainer(test_pairs=1000), **chosen)
    assert first.errors == before.errors
    assert "confusion_matrices" not in first.details
    for metric in ("recognition", "head"):
        differences = [ours - theirs for ours, theirs in zip(last.errors[metric], after.errors[metric], strict=True)]
        assert max(map(abs, differences)) < 5  # one thousand pairs among 358 801: at most 1.6 points of standard error
        assert any(differences)
    for towers, error in zip(last.details["confusion_matrices"], last.errors["recognition"], strict=True):
        assert recognition_error(torch.tensor(towers[0]), torch.tensor(towers[-1])) == error
    resolution = {metric.name: metric.resolution for metric in trainer(test_pairs="all").metrics}
    assert resolution == {"recognition": 100 / 599**2, "head": 100 / 100_000}


@pytest.mark.parametrize("test_pairs", ["all", 150])
def test_examples_are_kept_where_that_is_asked_for(test_pairs: Any) -> None:
    chosen = {"architecture": "fnn", "weight_sharing": False}
    made = trainer(test_pairs=test_pairs)
    keeping = Trainer(made.task, made.training, keep=["examples"])
    first, last = last_of(keeping, **chosen)
    assert "examples" not in first.details
    assert "examples" not in last_of(made, **chosen)[1].details
    assert last.errors == last_of(made, **chosen)[1].errors
    for name in ("recognition", "head"):
        outcomes = last.details["examples"][name]
        assert outcomes.influences().sum(1) == pytest.approx(0, abs=1e-4)
        assert outcomes.influences().any()
        if test_pairs == 150:
            assert outcomes.members.shape == (2, 150, 2)
            wrong = outcomes.influence.argmax(1)[:, None] == outcomes.outcomes
            assert 100 * wrong.mean(1) == pytest.approx(last.errors[name])


def test_rounds_that_diverge_count_as_the_worst() -> None:
    _, last = last_of(trainer(test_pairs="all"), architecture="cnn_bn", weight_sharing=True, learning_rate=1e30)
    assert last.diverged == [0, 1]
    assert last.errors["recognition"] == last.errors["head"] == [100.0, 100.0]
