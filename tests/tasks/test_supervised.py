"""Networks on examples: where these come from, how rounds draw them, and what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpo.errors import RequestError
from hpo.study.references import Sources
from hpo.study.task import Round
from hpo.study.training import Training
from hpo.tasks.arrays import read_examples
from hpo.tasks.classification import Classification
from hpo.tasks.regression import Regression
from hpo.tasks.supervised import SupervisedSettings
from hpo.training.trainer import Trainer

ROUNDS = [Round(number, 3) for number in range(3)]


class Net(nn.Module):
    """A hidden layer, as wide as it is told; it asks for the shapes of the data."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int, hidden: int = 8) -> None:
        super().__init__()
        size = int(np.prod(input_shape))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.fixture
def here(tmp_path: Path) -> Sources:
    draw = np.random.default_rng(0)
    x = draw.normal(3.0, 2.0, (90, 4)) * [1, 10, 100, 0]
    np.savez(tmp_path / "whole.npz", x=x, y=np.where(x[:, 0] > 3, "big", "small"))
    np.savez(tmp_path / "split.npz", x_train=x[:60], y_train=x[:60, 0] > 3, x_test=x[60:], y_test=x[60:, 0] > 3)
    np.savez(tmp_path / "line.npz", x=x, y=5 * x[:, 0] + 100)
    np.savez(tmp_path / "images.npz", x=draw.integers(0, 255, (40, 2, 6, 6), dtype=np.uint8), y=np.arange(40) % 3)
    (tmp_path / "cars.csv").write_text(
        "weight,maker,price\n" + "".join(f"{i},{'ab'[i % 2]},{2 * i}\n" for i in range(40))
    )
    return Sources(tmp_path / "nothing", tmp_path)


def classification(sources: Sources, data: str, **settings: Any) -> Classification:
    return Classification(SupervisedSettings(network="n.py:Net", data=data, **settings), Net, sources)


def regression(sources: Sources, data: str, **settings: Any) -> Regression:
    return Regression(SupervisedSettings(network="n.py:Net", data=data, **settings), Net, sources)


def test_every_round_draws_its_own_examples_and_none_for_both(here: Sources) -> None:
    task = classification(here, "whole.npz", train_examples=50, test_examples=30, standardize=False)
    seen = []
    for one in (*ROUNDS, ROUNDS[0]):
        split = task.data(one)
        train, test = ({float(x[0]) for x in part[0]} for part in (split.train, split.test))
        assert (len(train), len(test), train & test) == (50, 30, set())
        seen.append((train, test))
    assert seen[0] == seen[3]
    assert seen[0] != seen[1] != seen[2]


def test_a_test_set_that_is_fixed_stays_as_it_is(here: Sources) -> None:
    whole = classification(here, "split.npz")
    assert all(a is b for a, b in zip(whole.data(ROUNDS[0]).train, whole.data(ROUNDS[1]).train, strict=True))
    drawn = classification(here, "split.npz", train_examples=20, test_examples=10, standardize=False)
    first, second = drawn.data(ROUNDS[0]), drawn.data(ROUNDS[1])
    assert torch.equal(first.test[0], second.test[0])
    assert not torch.equal(first.train[0], second.train[0])
    assert {float(x[0]) for x in first.test[0]} <= {
        float(x[0]) for x in np.load(here.code / "split.npz")["x_test"].astype(np.float32)
    }


@pytest.mark.parametrize(("data", "axes"), [("whole.npz", (0,)), ("images.npz", (0, 2, 3))])
def test_inputs_are_standardised_by_the_rounds_training_examples(
    here: Sources, data: str, axes: tuple[int, ...]
) -> None:
    task = classification(here, data)
    inputs = task.data(ROUNDS[1]).train[0].double()
    assert inputs.mean(axes).abs().max() < 1e-6
    deviations = inputs.std(axes, correction=0)
    assert torch.allclose(deviations[:3], torch.ones_like(deviations[:3]), atol=1e-5)  # the last column is constant
    mean, _ = task.normalisation(ROUNDS[1])
    assert np.asarray(mean).shape == ((4,) if data == "whole.npz" else (2, 1, 1))


def test_words_in_a_table_are_columns_of_zeros_and_ones(here: Sources) -> None:
    found = read_examples("cars.csv", "price", here)
    assert found.x[:3].tolist() == [[0, 1, 0], [1, 0, 1], [2, 1, 0]]
    assert found.y[:3].tolist() == [0, 2, 4]


def trained(task: Classification | Regression, **params: Any) -> dict[str, list[float]]:
    trainer = Trainer(task, Training(epochs=30, batch_size=10))
    *_, last = trainer.measure({"optimizer": "adam", "learning_rate": 0.03, **params}, ROUNDS)
    return {name: list(errors) for name, errors in last.errors.items()}


def test_a_classifier_learns(here: Sources) -> None:
    (errors,) = trained(classification(here, "whole.npz"), hidden=16).values()
    assert 0 <= np.mean(errors) < 15


def test_a_regression_learns_and_errs_in_the_targets_unit(here: Sources) -> None:
    task = regression(here, "line.npz")
    errors = trained(task, hidden=16)
    assert task.outputs == 1
    assert 0 < np.mean(errors["mae"]) <= np.mean(errors["rmse"]) < 3  # of a target whose deviation is 10


def test_what_diverges_counts_as_the_worst(here: Sources) -> None:
    task = regression(here, "line.npz")
    errors = trained(task, learning_rate=1e30)
    assert errors["rmse"] == [task.metrics[0].worst] * 3


@pytest.mark.parametrize(
    ("kind", "settings", "complaint"),
    [
        (classification, {"data": "away.npz"}, "away.npz is neither in .* nor in"),
        (classification, {"data": "/etc/passwd.npz"}, "data must be a path below"),
        (classification, {"data": "../whole.npz"}, "data must be a path below"),
        (classification, {"data": "whole.txt"}, "data must be a file ending in .npz or .csv"),
        (classification, {"data": "line.npz"}, "line.npz has 90 classes in 90 examples; name = 'regression'"),
        (regression, {"data": "whole.npz"}, "targets must be numbers, but are such as"),
        (classification, {"data": "whole.npz", "target": "y"}, "target = 'y' names a column of a CSV file"),
        (
            regression,
            {"data": "cars.csv"},
            "target must name the column of cars.csv .*; there are: weight, maker, price",
        ),
        (regression, {"data": "cars.csv", "target": "prize"}, "no column 'prize'; did you mean 'price'"),
        (classification, {"data": "whole.npz", "train_examples": 80}, "train_examples must be at most 72"),
        (classification, {"data": "whole.npz", "test_examples": 90}, "test_examples must be at most 89"),
        (classification, {"data": "split.npz", "test_examples": 31}, "test_examples must be at most 30"),
        (classification, {"data": "sklearn:load_wein"}, "no dataset 'load_wein'; did you mean 'load_wine'"),
        (classification, {"data": "sklearn:os"}, "scikit-learn has no dataset 'os'"),
        (classification, {"data": "torchvision:FashionMINST"}, "did you mean 'FashionMNIST'"),
    ],
)
def test_what_cannot_be_read_is_one_line(here: Sources, kind: Any, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as raised:
        kind(here, **settings)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": np.zeros((3, 2))}, "must hold x and y, or x_train, y_train, x_test, y_test, but holds x"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "has 3 examples, but 4 targets"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "x must have a row for each example"),
        ({"x": np.array([{}, {}, {}]), "y": np.zeros(3)}, "cannot be read as NumPy's .npz"),
        ({"x": np.full((3, 2), "a"), "y": np.zeros(3)}, "x must hold numbers"),
        (
            {"x": np.array([[1.0], [np.nan], [2.0]]), "y": np.arange(3)},
            "x is not finite in 1 of 3 examples, the first of which is 1",
        ),
        ({"x": np.zeros((3, 2)), "y": np.array([0, np.inf, 1])}, "y is not finite in 1 of 3 examples"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3)}, "has a single class"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "has 0 examples"),
    ],
)
def test_arrays_that_are_none_are_one_line(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(RequestError, match=complaint):
        classification(Sources(tmp_path, tmp_path), "bad.npz")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read as CSV"),
        ("a,b\n1,2\n3\n", "line 3: 1 values, but 2 columns"),
        ("a,b\n1,2\n,3\n", "line 3: nothing in column 'a'"),
        ("b\n1\n2\n", "cannot be read as CSV|no column besides its target"),
        ("a,a,b\n1,2,3\n4,5,6\n", "two columns of one name"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(RequestError, match=complaint):
        regression(Sources(tmp_path, tmp_path), "bad.csv", target="b")


@pytest.mark.parametrize("data", ["whole.npz", "split.npz"])
def test_the_examples_of_a_round_are_known_by_their_place_among_all(here: Sources, data: str) -> None:
    task = classification(here, data, standardize=False)
    everything = read_examples(data, None, here).x.astype(np.float32)
    for one in ROUNDS:
        assert np.array_equal(everything[task.test_members(one)[:, 0]], task.data(one).test[0].numpy())


def test_an_example_moves_the_errors_of_a_regression_by_what_they_would_be_without_it(here: Sources) -> None:
    task = regression(here, "line.npz")
    trainer = Trainer(task, Training(epochs=3, batch_size=10), keep=["examples"])
    *_, last = trainer.measure({"optimizer": "adam", "learning_rate": 0.03}, ROUNDS)
    for metric in ("rmse", "mae"):
        influences = last.details["examples"][metric].influences()
        assert influences.shape[0] == len(ROUNDS)
        assert influences.sum(1) == pytest.approx(0, abs=1e-3)
        assert (influences != 0).sum(1).tolist() == [18] * len(ROUNDS)  # a fifth of the examples
    output, batch = torch.zeros(18, 1), tuple(tensor[0] for tensor in trainer.data(ROUNDS).test)
    found = task.influences(output, batch)["rmse"]  # type: ignore[arg-type]
    squares = ((output - batch[1]).double() * batch[2]).square().mean(-1)
    weights = torch.ones(18).double().requires_grad_()
    (slopes,) = torch.autograd.grad(((weights * squares).sum() / weights.sum()).sqrt(), weights)
    assert torch.allclose(found, slopes)
