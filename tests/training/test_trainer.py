from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpo.analysis.statistics import paired_difference
from hpo.errors import RequestError
from hpo.study import catalog
from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds
from hpo.tasks.digit_pairs.pairs import Pairs, draw_rounds
from hpo.training.cuda_graph import EAGER_STEPS, CudaGraphRounds, Recorder
from hpo.training.optimizers import OPTIMIZERS, TrainingConfig
from hpo.training.rounds import LoopedRounds, Rounds, StackedRounds
from hpo.training.trainer import Epoch, build_networks, make_rounds, measure, train

PROTOCOL = {"batch_size": 20, "epochs": 5}
SEEDS = [1, 2, 3]


def make_networks(architecture: str, *, weight_sharing: bool = True, seeds: Sequence[int] = SEEDS) -> list[nn.Module]:
    activation = catalog.load_activations()("leaky_relu")
    build = catalog.load_architecture(architecture)
    return build_networks(lambda: build(activation, weight_sharing=weight_sharing), seeds)


def config(**changes: object) -> TrainingConfig:
    settings = {"optimizer": "sgd", "learning_rate": 0.05, "auxiliary_loss": True, **PROTOCOL, **changes}
    return TrainingConfig(**settings)  # type: ignore[arg-type]


def plain_loop(network: nn.Module, pairs: Pairs, r: int, how: TrainingConfig, order_seed: int) -> list[float]:
    """One round as a textbook has it: `torch.optim`, one network, the reports' losses written out."""
    optimizer = getattr(torch.optim, {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam"}[how.optimizer])(
        network.parameters(), lr=how.learning_rate
    )
    images, classes, targets = pairs.images[r], pairs.classes[r], pairs.targets[r]
    generator, losses = torch.Generator().manual_seed(order_seed), []
    network.train()
    for _ in range(how.epochs):
        order, epoch = torch.randperm(len(targets), generator=generator), []
        for i in range(0, len(order), how.batch_size):
            j = order[i : i + how.batch_size]
            comparison, digits = network(images[j])
            loss = functional.cross_entropy(comparison, targets[j])
            if how.auxiliary_loss:
                first = functional.cross_entropy(digits[:, 0], classes[j, 0])
                second = functional.cross_entropy(digits[:, 1], classes[j, 1])
                loss = how.main_weight * loss + how.auxiliary_weight * (first + second)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            epoch.append(loss.item())
        losses.append(sum(epoch) / len(epoch))
    return losses


@pytest.mark.parametrize("architecture", ["fnn", "cnn", "cnn_bn"])
@pytest.mark.parametrize(
    ("optimizer", "auxiliary_loss"), [*((optimizer, True) for optimizer in OPTIMIZERS), ("sgd", False)]
)
def test_stacked_and_looped_rounds_are_what_a_plain_loop_makes_of_each(
    architecture: str, optimizer: str, auxiliary_loss: bool, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    """In float64, to 1e-6, over 30 steps: losses after every epoch, and the logits of the test pairs at the end."""
    train_pairs, test_pairs = (pairs.to(torch.device("cpu"), torch.float64) for pairs in digit_pairs)
    how = config(
        epochs=3,
        optimizer=optimizer,
        learning_rate=0.05 if optimizer == "sgd" else 0.003,
        auxiliary_loss=auxiliary_loss,
        main_weight=0.8,
        auxiliary_weight=0.2,
    )
    weight_sharing = architecture == "cnn_bn"
    orders = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    shuffles = [torch.stack([torch.randperm(200, generator=g) for g in orders]) for _ in range(how.epochs)]
    results = []
    ways: list[type[Rounds]] = [StackedRounds, LoopedRounds, *([MLPRounds] if architecture == "fnn" else [])]
    for way in ways:
        networks = [n.double() for n in make_networks(architecture, weight_sharing=weight_sharing)]
        rounds = way(networks, how)
        losses = torch.stack([rounds.train_epoch(train_pairs, order, None) for order in shuffles])
        results.append((losses, *rounds.predict(test_pairs.images)))

    networks = [n.double() for n in make_networks(architecture, weight_sharing=weight_sharing)]
    plain = [plain_loop(network, train_pairs, r, how, SEEDS[r]) for r, network in enumerate(networks)]
    with torch.no_grad():
        logits = [network.eval()(test_pairs.images[r]) for r, network in enumerate(networks)]
    expected = (
        torch.tensor(plain, dtype=torch.float64).T,
        *(torch.stack(parts) for parts in zip(*logits, strict=True)),
    )
    for result in results:
        for actual, wanted in zip(result, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-6)


def run(architecture: str, pairs: tuple[Pairs, Pairs], how: TrainingConfig, **settings: object) -> list[Epoch]:
    networks = make_networks(architecture)
    return list(train(networks, *pairs, how, shuffle_seeds=SEEDS, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("stacked", [True, False])
def test_a_round_does_not_depend_on_the_others(digit_pairs: tuple[Pairs, Pairs], stacked: bool) -> None:
    together = run("fnn", digit_pairs, config(), stacked=stacked)[-1]
    one, one_test = (Pairs(p.images[1:2], p.classes[1:2], p.targets[1:2]) for p in digit_pairs)
    *_, alone = train(make_networks("fnn", seeds=[2]), one, one_test, config(), shuffle_seeds=[2], stacked=stacked)
    torch.testing.assert_close(together.losses[1:2], alone.losses)
    assert together.errors is not None
    assert alone.errors is not None
    assert together.errors.recognition[1] == alone.errors.recognition[0]


def test_the_same_seeds_give_the_same_numbers_to_the_last_digit(digit_pairs: tuple[Pairs, Pairs]) -> None:
    for architecture in ("fnn", "cnn_bn"):
        first, second = (run(architecture, digit_pairs, config(epochs=2)) for _ in range(2))
        assert [epoch.losses.tolist() for epoch in first] == [epoch.losses.tolist() for epoch in second]


def test_errors_are_measured_at_the_chosen_epochs_and_at_the_last(digit_pairs: tuple[Pairs, Pairs]) -> None:
    epochs = run("fnn", digit_pairs, config(), evaluate_at=(2, 3))
    assert [epoch.number for epoch in epochs if epoch.errors is not None] == [2, 3, 5]


def test_evaluating_in_between_changes_nothing(digit_pairs: tuple[Pairs, Pairs]) -> None:
    often = run("cnn_bn", digit_pairs, config(epochs=3), evaluate_at=(1, 2))[-1]
    once = run("cnn_bn", digit_pairs, config(epochs=3))[-1]
    assert often.losses.tolist() == once.losses.tolist()


def test_training_leaves_the_global_random_state_alone(digit_pairs: tuple[Pairs, Pairs]) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    run("fnn", digit_pairs, config(epochs=1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("architecture", ["fnn", "cnn"])
def test_a_diverged_round_counts_every_pair_as_wrong_and_disturbs_no_other(
    architecture: str, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    networks = make_networks(architecture)
    with torch.no_grad():
        next(networks[1].parameters()).fill_(torch.inf)
    *_, last = train(networks, *digit_pairs, config(epochs=2), shuffle_seeds=SEEDS)
    healthy = run(architecture, digit_pairs, config(epochs=2))[-1]
    assert last.errors is not None
    assert healthy.errors is not None
    assert last.errors.diverged.tolist() == [False, True, False]
    assert last.errors.head[1] == last.errors.recognition[1] == 100.0
    assert last.errors.recognition[[0, 2]].tolist() == healthy.errors.recognition[[0, 2]].tolist()


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
def test_rmsprop_at_learning_rate_one_never_yields_nan_errors(
    architecture: str, digit_pairs: tuple[Pairs, Pairs]
) -> None:
    for epoch in run(architecture, digit_pairs, config(optimizer="rmsprop", learning_rate=1.0), evaluate_at=range(6)):
        assert epoch.errors is not None
        assert ((epoch.errors.head >= 0) & (epoch.errors.head <= 100)).all()
        assert ((epoch.errors.recognition >= 0) & (epoch.errors.recognition <= 100)).all()


def test_both_decisions_are_read_off_the_same_logits() -> None:
    """Four pairs by hand; the head says yes to all of them, and one digit logit is infinite."""
    classes = torch.tensor([[[3, 5], [5, 3], [4, 4], [7, 1]]])
    digits = functional.one_hot(classes, 10).float()  # (1, 4, 2, 10), every digit recognised
    digits[0, 3, 0, 7] = torch.inf
    comparison = torch.tensor([0.0, 1.0]).expand(1, 4, 2)
    errors = measure(comparison, digits, Pairs(torch.zeros(1), classes, torch.tensor([[1, 0, 1, 0]])))
    assert errors.head.tolist() == [50.0]
    assert errors.recognition.tolist() == [25.0]  # right, right, right, and the last not finite
    assert errors.diverged.tolist() == [True]


def test_gradient_norms_are_those_of_every_layer_in_both_ways(digit_pairs: tuple[Pairs, Pairs]) -> None:
    stacked, looped = (
        run("fnn", digit_pairs, config(epochs=1), stacked=way, gradient_norms=True, dtype=torch.float64)[0]
        for way in (True, False)
    )
    assert list(looped.gradient_norms) == ["towers.0.1", "towers.0.3", "towers.0.5", "head.0", "head.2"]
    for layer, norms in looped.gradient_norms.items():
        assert (norms > 0).all()
        torch.testing.assert_close(stacked.gradient_norms[layer], norms)


def test_gradient_norm_of_the_first_step_is_the_norm_of_autograds_gradient(digit_pairs: tuple[Pairs, Pairs]) -> None:
    train_pairs, test_pairs = (Pairs(p.images[:1, :20], p.classes[:1, :20], p.targets[:1, :20]) for p in digit_pairs)
    networks = make_networks("fnn", seeds=[1])
    (epoch,) = train(
        networks, train_pairs, test_pairs, config(epochs=1), shuffle_seeds=[1], gradient_norms=True, stacked=True
    )
    (network,) = make_networks("fnn", seeds=[1])
    comparison, digits = network(train_pairs.images[0])
    batch = Pairs(train_pairs.images[0], train_pairs.classes[0], train_pairs.targets[0])
    torch.autograd.backward(config().loss(comparison, digits, batch))
    layer = network.get_submodule("head.2")
    expected = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(epoch.gradient_norms["head.2"][0], expected)


@pytest.mark.slow
def test_stacked_and_looped_agree_in_float32_within_what_rounding_makes() -> None:
    """30 rounds, paired: the interval of the mean difference of test errors holds zero."""
    pairs = draw_rounds("digits", Path(), study_seed=5, rounds=range(30), train_pairs=300, test_pairs=300)
    seeds = list(range(30))
    errors = []
    for stacked in (True, False):
        *_, last = train(
            make_networks("fnn", seeds=seeds), *pairs, config(epochs=8), shuffle_seeds=seeds, stacked=stacked
        )
        assert last.errors is not None
        errors.append(last.errors.recognition)
    difference = errors[0] - errors[1]
    half_width = 2.045 * difference.std() / 30**0.5  # t, 29 degrees of freedom, 95 %
    assert difference.mean().abs() <= half_width + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cnn", "cnn_bn"])
def test_fused_layers_agree_in_float32_within_what_rounding_makes(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 rounds, paired: the interval of the mean difference of test errors holds zero."""
    pairs = draw_rounds("digits", Path(), study_seed=5, rounds=range(15), train_pairs=300, test_pairs=300)
    seeds, errors = list(range(15)), []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr("hpo.training.rounds.fuse", lambda network: network)
        *_, last = train(make_networks(architecture, seeds=seeds), *pairs, config(epochs=5), shuffle_seeds=seeds)
        assert last.errors is not None
        errors.append(last.errors.recognition.tolist())
    assert errors[0] != errors[1]  # or the plain networks were not plain
    difference = paired_difference(*errors)
    assert difference.holds(0)


class Tape(Recorder):
    """What a CUDA graph does, for a CPU: it does again what it was given, and reads what was there when recorded."""

    def __init__(self) -> None:
        self.ran = self.recorded = self.replayed = 0

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        self.ran += 1
        return function()

    def record(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        result = torch.zeros(len(SEEDS))

        def replay() -> Tensor:
            self.replayed += 1
            return result.copy_(function())  # always to the same place

        return replay


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_step_trains_as_an_ordinary_one(optimizer: str, digit_pairs: tuple[Pairs, Pairs]) -> None:
    how, tape = config(optimizer=optimizer, learning_rate=0.003, batch_size=30), Tape()  # 200 pairs: six and a third
    ordinary = StackedRounds(make_networks("cnn_bn"), how)
    captured = CudaGraphRounds(make_networks("cnn_bn"), how, tape)
    orders = torch.stack([torch.randperm(200) for _ in SEEDS])
    for _ in range(3):
        ours, theirs = (rounds.train_epoch(digit_pairs[0], orders, None) for rounds in (captured, ordinary))
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(
        captured.predict(digit_pairs[1].images), ordinary.predict(digit_pairs[1].images), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert (tape.ran, tape.recorded, tape.replayed) == (EAGER_STEPS + 3, 1, 3 * 6 - EAGER_STEPS)


@pytest.mark.parametrize("architecture", ["fnn", "cnn_bn"])
def test_bfloat16_computes_nearly_the_same(architecture: str, digit_pairs: tuple[Pairs, Pairs]) -> None:
    exact, rough = (run(architecture, digit_pairs, config(precision=name)) for name in ("float32", "bfloat16"))
    for one, other in zip(exact, rough, strict=True):
        assert not torch.equal(one.losses, other.losses)
        torch.testing.assert_close(one.losses, other.losses, rtol=0.05, atol=0.02)
    assert rough[-1].losses.dtype == torch.float32


def test_bfloat16_is_refused_where_vmap_cannot_have_it(digit_pairs: tuple[Pairs, Pairs]) -> None:
    with pytest.raises(RequestError, match="precision 'bfloat16' is not for stacked networks with batch norm"):
        run("cnn_bn", digit_pairs, config(precision="bfloat16"), stacked=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cuda_graph_trains_as_ordinary_steps(optimizer: str, digit_pairs: tuple[Pairs, Pairs]) -> None:
    """On the last GPU, where a stream of the first would leave the graph empty; an epoch's last batch is short."""
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    how = config(optimizer=optimizer, learning_rate=0.003, batch_size=30)
    pairs, test = (part.to(device, torch.float32) for part in digit_pairs)
    captured, ordinary = (
        make_rounds([n.to(device) for n in make_networks("cnn_bn")], how, device, captured=way) for way in (True, False)
    )
    assert isinstance(captured, CudaGraphRounds)
    orders = torch.stack([torch.randperm(200) for _ in SEEDS]).to(device)
    for _ in range(3):
        torch.testing.assert_close(*(rounds.train_epoch(pairs, orders, None) for rounds in (captured, ordinary)))
    for ours, theirs in zip(captured.predict(test.images), ordinary.predict(test.images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "way"), [("fnn", MLPRounds), ("cnn", LoopedRounds), ("residual", LoopedRounds)]
)
def test_a_cpu_trains_linear_networks_stacked_and_others_looped(architecture: str, way: type[Rounds]) -> None:
    for weight_sharing in (True, False):
        networks = make_networks(architecture, weight_sharing=weight_sharing)
        before = [parameter.clone() for network in networks for parameter in network.parameters()]
        assert type(make_rounds(networks, config(), torch.device("cpu"))) is way
        after = [parameter for network in networks for parameter in network.parameters()]
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
