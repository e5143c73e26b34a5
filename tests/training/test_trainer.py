from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpo.analysis.statistics import paired_difference
from hpo.errors import RequestError
from hpo.study.task import Measurement, Metric, Params, Round
from hpo.study.training import Training
from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.batch import each, of_round
from hpo.training.network_task import Split
from hpo.training.rounds import LoopedRounds, Rounds
from hpo.training.trainer import Trainer
from tests.conftest import RECOGNITION
from tests.training.narrow import narrowed

ROUNDS = [Round(number, 0) for number in range(3)]


def task(kind: type[DigitPairs] = DigitPairs, train_pairs: int = 200, test_pairs: Any = 150) -> DigitPairs:
    made = kind(dataset="digits", train_pairs=train_pairs, test_pairs=test_pairs)
    made.prepare(Path())
    return made


def params(architecture: str = "fnn", **changes: Any) -> Params:
    return {
        **{"architecture": architecture, "weight_sharing": True, "auxiliary_loss": True, "activation": "leaky_relu"},
        **{"optimizer": "sgd", "learning_rate": 0.05},
        **changes,
    }


def trainer(measured: DigitPairs | None = None, *, epochs: int = 5, **settings: Any) -> Trainer:
    training = {key: settings.pop(key) for key in ("evaluate_at", "precision") if key in settings}
    return Trainer(measured or task(), Training(epochs=epochs, batch_size=20, **training), **settings)


def measure(chosen: Params, rounds: list[Round] = ROUNDS, **settings: Any) -> list[Measurement]:
    return list(trainer(keep=("losses",), **settings).measure(chosen, rounds))


@pytest.mark.parametrize("stacked", [True, False])
def test_a_round_does_not_depend_on_the_others(stacked: bool) -> None:
    together = measure(params(), stacked=stacked)[-1]
    alone = measure(params(), ROUNDS[1:2], stacked=stacked)[-1]
    assert together.details["losses"][1] == pytest.approx(alone.details["losses"][0], rel=1e-5)
    assert together.errors["recognition"][1] == alone.errors["recognition"][0]


class Uneven(DigitPairs):
    """Round r trains on 20 r pairs fewer, and tests on r pairs fewer."""

    def data(self, round_: Round) -> Split:
        train, test = super().data(round_)
        number = round_.number
        return Split(each(train, lambda one: one[: 200 - 20 * number]), each(test, lambda one: one[: 150 - number]))


class Accuracies(DigitPairs):
    """Pairs of which the share that is told is maximised."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("accuracy", maximize=True, worst=0.0),)

    def errors(self, output: Any, batch: Any) -> dict[str, torch.Tensor]:
        return {"accuracy": 100 - super().errors(output, batch)["recognition"]}


def test_a_round_that_diverges_has_the_worst_accuracy() -> None:
    diverged = measure(params("cnn_bn", learning_rate=1e30), measured=task(Accuracies), epochs=1)[-1]
    assert (diverged.diverged, diverged.errors) == ([0, 1, 2], {"accuracy": [0.0, 0.0, 0.0]})


def test_rounds_that_differ_in_size_are_each_what_they_are_alone() -> None:
    settings: dict[str, Any] = {"keep": ("losses", "gradient_norms"), "evaluate_at": (2,), "epochs": 3}
    uneven = trainer(task(Uneven), **settings)
    for chosen in (params(), params("cnn_bn"), params(learning_rate=1e30)):
        together = list(uneven.measure(chosen, ROUNDS))
        alone = [list(uneven.measure(chosen, [one])) for one in ROUNDS]
        for step, measured in enumerate(together):
            parts = [one[step] for one in alone]
            assert measured.errors == {
                name: [error for part in parts for error in part.errors[name]] for name in parts[0].errors
            }
            assert measured.diverged == [r for r, part in enumerate(parts) if part.diverged]
            assert len(measured.details["losses"]) == len(ROUNDS)
            for layer, norms in measured.details["gradient_norms"].items():
                assert norms == pytest.approx([part.details["gradient_norms"][layer][0] for part in parts], nan_ok=True)
    assert uneven.rehearse(params(), ROUNDS).endswith("each round for itself, for their sizes differ")
    with pytest.raises(ValueError, match="rounds whose data differ in size cannot be trained together"):
        uneven.find_rate(params(), ROUNDS)


def test_the_same_seeds_give_the_same_numbers_to_the_last_digit() -> None:
    for architecture in ("fnn", "cnn_bn"):
        first, second = (measure(params(architecture), epochs=2) for _ in range(2))
        assert first == second


def test_errors_are_measured_at_the_chosen_epochs_and_at_the_last() -> None:
    measured = measure(params(), evaluate_at=(2, 3))
    assert [one.step for one in measured if one.errors] == [2, 3, 5]
    assert [one.fraction for one in measured] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_evaluating_in_between_changes_nothing() -> None:
    often = measure(params("cnn_bn"), epochs=3, evaluate_at=(1, 2))[-1]
    assert often == measure(params("cnn_bn"), epochs=3)[-1]


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    measure(params(), epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())


class SecondIsBroken(DigitPairs):
    """Builds a second network whose first weights are infinite."""

    def network(  # type: ignore[override]
        self, architecture: str, activation: str, weight_sharing: bool, elu_alpha: float = 1.0
    ) -> nn.Module:
        made = super().network(architecture, activation, weight_sharing, elu_alpha)
        with torch.no_grad():
            if torch.initial_seed() == ROUNDS[1].seed("weights"):
                next(made.parameters()).fill_(torch.inf)
        return made


@pytest.mark.parametrize("architecture", ["fnn", "cnn"])
def test_a_diverged_round_counts_every_pair_as_wrong_and_disturbs_no_other(architecture: str) -> None:
    last = measure(params(architecture), measured=task(SecondIsBroken), epochs=2)[-1]
    healthy = measure(params(architecture), epochs=2)[-1]
    assert (last.diverged, healthy.diverged) == ([1], [])
    assert last.errors["head"][1] == last.errors["recognition"][1] == 100.0
    assert [last.errors["recognition"][r] for r in (0, 2)] == [healthy.errors["recognition"][r] for r in (0, 2)]


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
def test_rmsprop_at_learning_rate_one_never_yields_nan_errors(architecture: str) -> None:
    chosen = params(architecture, optimizer="rmsprop", learning_rate=1.0)
    for measured in measure(chosen, evaluate_at=range(1, 6)):
        for errors in (measured.errors["head"], measured.errors["recognition"]):
            assert all(0 <= error <= 100 for error in errors)


def test_both_errors_are_read_off_the_same_logits() -> None:
    """Four pairs by hand; the head says yes to all of them, and one digit logit is infinite."""
    classes = torch.tensor([[3, 5], [5, 3], [4, 4], [7, 1]])
    digits = functional.one_hot(classes, 10).float()  # (4, 2, 10), every digit recognised
    digits[3, 0, 7] = torch.inf
    comparison = torch.tensor([0.0, 1.0]).expand(4, 2)
    errors = task().errors((comparison, digits), Pairs(torch.zeros(4), classes, torch.tensor([1, 0, 1, 0])))
    assert errors["head"].tolist() == [0, 100, 0, 100]
    assert errors["recognition"][:3].tolist() == [0, 0, 0]
    assert errors["recognition"][3].isnan()  # which the trainer counts as the worst


def test_gradient_norms_are_those_of_every_layer_in_both_ways() -> None:
    stacked, looped = (
        next(trainer(keep=("gradient_norms",), epochs=1, stacked=way, dtype=torch.float64).measure(params(), ROUNDS))
        for way in (True, False)
    )
    norms = looped.details["gradient_norms"]
    assert list(norms) == ["towers.0.1", "towers.0.3", "towers.0.5", "head.0", "head.2"]
    for layer, of_rounds in norms.items():
        assert min(of_rounds) > 0
        assert stacked.details["gradient_norms"][layer] == pytest.approx(of_rounds)


def test_gradient_norm_of_the_first_step_is_the_norm_of_autograds_gradient() -> None:
    small = task(train_pairs=20)
    one = trainer(small, keep=("gradient_norms",), epochs=1, stacked=True)
    (measured,) = one.measure(params(), ROUNDS[:1])
    (network,) = trainer(small, stacked=False).prepare(params(), ROUNDS[:1]).networks  # type: ignore[attr-defined]
    batch = of_round(one.data(ROUNDS[:1]).train, 0)
    torch.autograd.backward(small.loss(network(batch[0]), Pairs(*batch), auxiliary_loss=True))
    layer = network.get_submodule("head.2")
    expected = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).norm()
    assert measured.details["gradient_norms"]["head.2"][0] == pytest.approx(float(expected))


@pytest.mark.slow
def test_stacked_and_looped_agree_in_float32_within_what_rounding_makes() -> None:
    """30 rounds, paired: the interval of the mean difference of test errors holds zero."""
    rounds, measured = [Round(number, 5) for number in range(30)], task(train_pairs=200, test_pairs=300)
    stacked, looped = (
        measure(params(), rounds, measured=measured, epochs=4, stacked=way)[-1].errors["recognition"]
        for way in (True, False)
    )
    assert stacked == looped or paired_difference(stacked, looped, RECOGNITION).holds(0)


class Narrow(DigitPairs):
    """Pairs for networks of eight channels."""

    def network(  # type: ignore[override]
        self, architecture: str, activation: str, weight_sharing: bool, elu_alpha: float = 1.0
    ) -> nn.Module:
        return narrowed(super().network(architecture, activation, weight_sharing, elu_alpha), channels=8)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cnn", "cnn_bn"])
def test_fused_layers_agree_in_float32_within_what_rounding_makes(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 rounds, paired: the interval of the mean difference of test errors holds zero."""
    rounds = [Round(number, 5) for number in range(15)]
    measured = task(Narrow if architecture == "cnn_bn" else DigitPairs, train_pairs=120, test_pairs=300)
    fused = measure(params(architecture), rounds, measured=measured)[-1].errors["recognition"]
    monkeypatch.setattr("hpo.training.ways.fuse", lambda network: network)
    plain = measure(params(architecture), rounds, measured=measured)[-1].errors["recognition"]
    assert fused != plain  # or the plain networks were not plain
    assert paired_difference(fused, plain, RECOGNITION).holds(0)


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
def test_bfloat16_computes_nearly_the_same(architecture: str) -> None:
    exact, rough = (measure(params(architecture), precision=name) for name in ("float32", "bfloat16"))
    for one, other in zip(exact, rough, strict=True):
        assert one.details["losses"] != other.details["losses"]
        assert other.details["losses"] == pytest.approx(one.details["losses"], rel=0.05, abs=0.02)


def test_bfloat16_is_refused_where_vmap_cannot_have_it() -> None:
    with pytest.raises(RequestError, match="precision 'bfloat16' is not for stacked networks with batch norm"):
        measure(params("cnn_bn"), precision="bfloat16", stacked=True)


@pytest.mark.parametrize(
    ("architecture", "way"), [("fnn", MLPRounds), ("cnn", LoopedRounds), ("residual", LoopedRounds)]
)
def test_a_cpu_trains_linear_networks_stacked_and_others_looped(architecture: str, way: type[Rounds]) -> None:
    for weight_sharing in (True, False):
        prepared = trainer().prepare(params(architecture, weight_sharing=weight_sharing), ROUNDS)
        assert type(prepared) is way
        fresh = trainer(stacked=False).prepare(params(architecture, weight_sharing=weight_sharing), ROUNDS)
        for ours, theirs in zip(prepared.states(), fresh.states(), strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
