"""Ensembles: networks of a round, each trained alone, whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpo.study.references import Sources
from hpo.study.task import Measurement, Params, Round
from hpo.study.training import Training
from hpo.tasks.classification import Classification
from hpo.tasks.digit_pairs import all_pairs
from hpo.tasks.digit_pairs.pairs import Images, Pairs, read_images
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.tasks.regression import Regression
from hpo.tasks.supervised import SupervisedSettings
from hpo.training.batch import of_round
from hpo.training.ensembles import Member, average_logits
from hpo.training.network_task import NetworkTask
from hpo.training.rounds import Rounds
from hpo.training.together import seconds_of_an_epoch
from hpo.training.trainer import Trainer
from tests.tasks.test_supervised import Net
from tests.training.test_rounds import Tape
from tests.training.test_trainer import Uneven, params, task

ROUNDS = [Round(number, 4) for number in range(2)]
SIZE = 3
KEPT = ("losses", "gradient_norms")
TRAINING = Training(epochs=3, batch_size=30, evaluate_at=(1,))


def digit_pairs(**settings: Any) -> DigitPairs:
    made = DigitPairs(dataset="digits", posterior=True, **{"train_pairs": 200, "test_pairs": 150, **settings})
    made.prepare(Path())
    return made


def trainer(of: NetworkTask, **how: Any) -> Trainer:
    return Trainer(of, TRAINING, **{"dtype": torch.float64, "keep": KEPT, **how})


def measure(made: Trainer, chosen: Params, rounds: Sequence[Round] = ROUNDS) -> list[Measurement]:
    return list(made.measure(chosen, rounds))


@dataclass
class Alone:
    """A network of an ensemble that is trained alone."""

    networks: Rounds
    measured: list[Measurement]

    def outputs(self, inputs: Tensor) -> Any:
        """What it makes of inputs (N, ...)."""
        return self.networks.predict(inputs[None])


def members(made: Trainer, chosen: Params, one: Round) -> list[Alone]:
    """The networks of a round, each trained alone."""
    found = []
    for number in range(SIZE):
        own = [Member(one.number, one.study_seed, number)]
        networks = made.prepare(chosen, own)
        found.append(Alone(networks, list(made.train(networks, chosen, own))))
    return found


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
def test_an_ensemble_of_one_is_the_network_that_is_trained_alone(architecture: str) -> None:
    made = trainer(digit_pairs(), dtype=torch.float32)
    alone = measure(made, params(architecture))
    assert measure(made, params(architecture, ensemble=1)) == alone
    first = [Member(one.number, one.study_seed, 0) for one in ROUNDS]
    assert measure(made, params(architecture), first) == alone
    second = [Member(one.number, one.study_seed, 1) for one in ROUNDS]
    assert measure(made, params(architecture), second)[-1].details != alone[-1].details


def decided(comparison: Tensor, digits: Tensor) -> dict[str, Tensor]:
    """What networks' probabilities (M, N, ...) say of pairs when they are averaged: (N,), by each decision."""
    head, first, second = (
        torch.softmax(logits, -1).mean(0) for logits in (comparison, digits[:, :, 0], digits[:, :, 1])
    )
    ordered = sum(first[:, a] * second[:, b] for a, b in product(range(10), repeat=2) if a <= b)
    return {
        "recognition": first.argmax(-1) <= second.argmax(-1),
        "head": head[:, 1] > head[:, 0],
        "posterior": torch.as_tensor(ordered) >= 0.5,
    }


@pytest.mark.parametrize(
    ("architecture", "more"), [("fnn", {}), ("cnn_bn", {"weight_sharing": False}), ("fnn", {"dropout": 0.3})]
)
def test_it_is_the_mean_prediction_of_networks_that_are_trained_alone(architecture: str, more: dict[str, Any]) -> None:
    made, chosen = trainer(digit_pairs()), params(architecture, **more)
    together = measure(made, {**chosen, "ensemble": SIZE})
    for r, one in enumerate(ROUNDS):
        alone, test = members(made, chosen, one), Pairs(*of_round(made.data([one]).test, 0))
        outputs = [member.outputs(test.images) for member in alone]
        found = decided(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
        for name, says in found.items():
            expected = 100 * float((says.long() != test.targets).double().mean())
            assert together[-1].errors[name][r] == pytest.approx(expected), name
        for epoch, measured in enumerate(together):
            details = [member.measured[epoch].details for member in alone]
            assert measured.details["losses"][r] == pytest.approx(fmean(d["losses"][0] for d in details))
            for layer, norms in measured.details["gradient_norms"].items():
                assert norms[r] == pytest.approx(fmean(d["gradient_norms"][layer][0] for d in details))
    assert [one.step for one in together if one.errors] == [1, 3]


@pytest.mark.parametrize(("architecture", "weight_sharing"), [("fnn", True), ("fnn", False), ("cnn_bn", True)])
def test_over_all_pairs_it_is_what_all_pairs_one_by_one_come_to(
    architecture: str, weight_sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fifteen test images, all pairs of which the head compares too."""
    _, whole = read_images("digits", Path())
    few = Images(whole.images[:15].double(), whole.digits[:15])
    pairs = torch.tensor(list(product(range(15), repeat=2)))
    monkeypatch.setattr("hpo.tasks.digit_pairs.pairs.test_images_on", lambda *_: few)
    monkeypatch.setattr(all_pairs, "_draw", lambda seeds, *_: torch.stack([pairs, pairs.flip(0)])[: len(seeds)])
    made = trainer(digit_pairs(test_pairs="all"))
    chosen = params(architecture, weight_sharing=weight_sharing)
    last = measure(made, {**chosen, "ensemble": SIZE})[-1]
    for r, one in enumerate(ROUNDS):
        mean, deviation = made.task.normalisation(one)  # type: ignore[attr-defined]
        inputs = (few.images[pairs] - mean) / deviation
        outputs = [member.outputs(inputs) for member in members(made, chosen, one)]
        found = decided(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
        targets = few.digits[pairs[:, 0]] <= few.digits[pairs[:, 1]]
        for name, says in found.items():
            assert last.errors[name][r] == pytest.approx(100 * float((says != targets).double().mean())), name


@pytest.mark.parametrize("kind", [Classification, Regression])
def test_of_other_tasks_it_is_the_mean_prediction_too(kind: type[Any], tmp_path: Path) -> None:
    """Of classes, the mean probability of each; of numbers, the mean."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 4))
    y = (
        np.digitize(x[:, 0] + x[:, 1] ** 2 + draw.normal(size=300), [0, 1])
        if kind is Classification
        else x[:, 0] * x[:, 1]
    )
    np.savez(tmp_path / "some.npz", x=x, y=y)
    of = kind(SupervisedSettings(network="n.py:Net", data="some.npz"), Net, Sources(tmp_path, tmp_path))
    chosen: Params = {"optimizer": "adam", "learning_rate": 0.3, "hidden": 16}
    made = trainer(of)
    together, by_logits = measure(made, {**chosen, "ensemble": SIZE})[-1], []
    for r, one in enumerate(ROUNDS):
        test = of_round(made.data([one]).test, 0)
        outputs = torch.cat([member.outputs(test[0]) for member in members(made, chosen, one)])  # (M, N, K)
        if kind is Classification:
            wrong = torch.softmax(outputs, -1).mean(0).argmax(-1) != test[1]
            assert together.errors["error"][r] == pytest.approx(100 * float(wrong.double().mean()))
            by_logits.append(100 * float((outputs.mean(0).argmax(-1) != test[1]).double().mean()))
        else:
            off = (outputs.mean(0) - test[1]) * test[2]
            assert together.errors["rmse"][r] == pytest.approx(float(off.square().mean().sqrt()))
            assert together.errors["mae"][r] == pytest.approx(float(off.abs().mean()))
    assert kind is Regression or together.errors["error"] != pytest.approx(by_logits)


def test_a_mean_of_probabilities_is_no_mean_of_logits() -> None:
    """Two that are nearly sure of the first of two classes, and one that is surer of the second than both."""
    logits = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 9.0]]])
    expected = torch.softmax(logits, -1).mean(0)
    assert torch.allclose(torch.softmax(average_logits(logits), -1), expected)
    assert expected.argmax() != logits.mean(0).argmax()


@pytest.mark.parametrize("test_pairs", [150, "all"])
def test_examples_of_an_ensemble_are_kept(test_pairs: Any) -> None:
    made = trainer(digit_pairs(test_pairs=test_pairs), keep=("examples",))
    last = measure(made, params(ensemble=SIZE))[-1]
    for name, errors in last.errors.items():
        outcomes = last.details["examples"][name]
        influences = outcomes.influences()
        assert len(influences) == len(errors) == len(ROUNDS)
        assert influences.sum(1) == pytest.approx(0, abs=1e-4)
        assert influences.any()
        if test_pairs == 150:
            wrong = outcomes.influence.argmax(1)[:, None] == outcomes.outcomes
            assert 100 * wrong.mean(1) == pytest.approx(errors)


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
def test_stacked_looped_and_recorded_ensembles_are_the_same(architecture: str) -> None:
    more = {"ensemble": 2, "ema_decay": 0.5, "rotation": 10.0, "pairing": "every epoch"}
    chosen = params(architecture, **more, label_smoothing=0.1)  # which no loops of the task's own have
    of, found = digit_pairs(train_pairs=70, test_pairs=60), []
    for how in ({"stacked": True}, {"stacked": False}, {"stacked": True, "recorder": Tape}):
        found.append(measure(trainer(of, keep=("losses",), **how), chosen))
    for other in found[1:]:
        for one, theirs in zip(found[0], other, strict=True):
            assert one.details["losses"] == pytest.approx(theirs.details["losses"], rel=1e-9)
            assert one.errors == theirs.errors


def test_recorded_ensembles_run_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = iter((1.0, 1.2, 2.3))
    of_an_epoch = "hpo.training.together.seconds_of_an_epoch"
    monkeypatch.setattr(of_an_epoch, lambda *given: (seconds_of_an_epoch(*given), next(told))[1])
    made = trainer(digit_pairs(), stacked=True, recorder=Tape, keep=())
    assert made.at_once(None, params("fully_connected", ensemble=2, label_smoothing=0.1), ROUNDS) == 2
    assert capsys.readouterr().err == ""


def test_a_range_test_is_made_with_one_network_of_each_round() -> None:
    """An average, or a schedule, has no part in it."""
    made, rates = trainer(digit_pairs()), np.geomspace(1e-3, 1.0, 8)
    alone = made.range_test(params(), ROUNDS, rates)
    more: dict[str, Any] = {"ensemble": SIZE, "ema_decay": 0.9, "schedule": "cosine", "warmup": 0.5, "epochs": 1}
    assert np.array_equal(made.range_test(params(**more), ROUNDS, rates).losses, alone.losses)
    assert made.find_rate(params(**more), ROUNDS)["mean"] == made.find_rate(params(), ROUNDS)["mean"]


def test_rounds_that_differ_in_size_have_ensembles_too() -> None:
    made = trainer(task(Uneven))
    together = measure(made, params(ensemble=2))
    for r, one in enumerate(ROUNDS):
        for step, alone in zip(together, measure(made, params(ensemble=2), [one]), strict=True):
            assert step.details["losses"][r] == alone.details["losses"][0]
            assert {name: [errors[r]] for name, errors in step.errors.items()} == alone.errors


class SecondMemberIsBroken(DigitPairs):
    """The second network of the first round begins with weights that are infinite."""

    def network(self, *given: Any, **named: Any) -> nn.Module:
        made = super().network("fnn", "relu", True)
        with torch.no_grad():
            if torch.initial_seed() == Member(0, 4, 1).training_seed("weights"):
                next(made.parameters()).fill_(torch.inf)
        return made


def test_a_round_has_diverged_where_one_of_its_networks_has() -> None:
    of = SecondMemberIsBroken(dataset="digits", train_pairs=200, test_pairs=150)
    of.prepare(Path())
    last = measure(trainer(of), params(ensemble=2))[-1]
    assert last.diverged == [0]
    assert {name: errors[0] for name, errors in last.errors.items()} == {"recognition": 100.0, "head": 100.0}
    assert last.errors["recognition"][1] < 100


@pytest.mark.parametrize("infinite", [torch.inf, -torch.inf])
def test_a_mean_of_predictions_is_no_number_where_a_logit_of_one_is_infinite(infinite: float) -> None:
    """Alone it would count as diverged: in a mean of probabilities it would be lost."""
    logits = torch.zeros(2, 3, 4)
    logits[1, 2, 0] = infinite
    assert average_logits(logits).isfinite().all(-1).tolist() == [True, True, False]
