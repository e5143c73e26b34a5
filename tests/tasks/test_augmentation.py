"""Images that are turned, scaled, sheared, shifted and bent by chance, anew in every epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hpo.study.task import Round
from hpo.study.training import Training
from hpo.tasks.augmentation import augment
from hpo.tasks.digit_pairs.pairs import Pairs
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.device import CPU
from hpo.training.ensembles import Member
from hpo.training.network_task import variation_of
from hpo.training.randomness import EpochNumbers
from hpo.training.trainer import Trainer
from tests.training.test_trainer import ROUNDS, params, task

ALL: dict[str, Any] = {
    "rotation": 20.0,
    "scale": 0.2,
    "stretch": 0.2,
    "shear": 0.3,
    "shift": 2.0,
    "elastic": 1.5,
    "gamma": 0.8,
}


class Told(EpochNumbers):
    """Numbers that are given, by name."""

    def __init__(self, **numbers: Any) -> None:
        self._numbers = numbers

    def uniform(self, name: str, *shape: int) -> Tensor:
        return torch.as_tensor(self._numbers[name]).reshape(-1, *shape)


def some(rounds: int = 1, count: int = 3, channels: int = 2, height: int = 5, width: int = 8) -> Tensor:
    shape = (rounds, count, channels, height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def brute(image: Tensor, where: Callable[[float, float], tuple[float, float]]) -> Tensor:
    """Takes each pixel from where it is said to come from, both from the middle; between pixels bicubically."""
    *_, height, width = image.shape
    made = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = where(column - (width - 1) / 2, row - (height - 1) / 2)
            x, y = x + (width - 1) / 2, y + (height - 1) / 2
            for below in range(math.floor(y) - 1, math.floor(y) + 3):
                for right in range(math.floor(x) - 1, math.floor(x) + 3):
                    pixel = image[..., min(max(below, 0), height - 1), min(max(right, 0), width - 1)]
                    made[..., row, column] += cubic(y - below) * cubic(x - right) * pixel
    return made


def cubic(distance: float) -> float:
    """R. Keys, "Cubic convolution interpolation", 1981, equation 4 with PyTorch's constant."""
    t, a = abs(distance), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def turned(degrees: float) -> Callable[[float, float], tuple[float, float]]:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return lambda x, y: (cosine * x - sine * y, sine * x + cosine * y)


KNOWN: dict[str, tuple[dict[str, float], dict[str, Any], Callable[[float, float], tuple[float, float]]]] = {
    "rotation": ({"rotation": 60.0}, {"rotation": [0.5]}, turned(30)),
    "scale": ({"scale": 0.5}, {"scale": [-0.6]}, lambda x, y: (0.7 * x, 0.7 * y)),
    "stretch": ({"stretch": 0.6}, {"stretch": [0.5]}, lambda x, y: (1.6**0.5 * x, 1.6**-0.5 * y)),
    "stretch, the other way": ({"stretch": 0.5}, {"stretch": [-1.0]}, lambda x, y: (x / 1.5, 1.5 * y)),
    "shear": ({"shear": 0.8}, {"shear": [0.5]}, lambda x, y: (x + 0.4 * y, y)),
    "shift": ({"shift": 3.0}, {"shift": [0.4, -0.3]}, lambda x, y: (x + 1.2, y - 0.9)),
    "elastic": ({"elastic": 2.0}, {"elastic": [0.3] * 16 + [-0.2] * 16}, lambda x, y: (x + 0.6, y - 0.4)),
    "shear, then rotation": (
        {"rotation": 60.0, "shear": 0.8},
        {"rotation": [0.5], "shear": [0.5]},
        lambda x, y: turned(30)(x + 0.4 * y, y),
    ),
    "stretch, then rotation": (
        {"rotation": 60.0, "stretch": 0.5},
        {"rotation": [0.5], "stretch": [1.0]},
        lambda x, y: turned(30)(1.5 * x, y / 1.5),
    ),
    "scale and shift": (
        {"scale": 0.5, "shift": 2.0},
        {"scale": [1.0], "shift": [0.5, 0.5]},
        lambda x, y: (1.5 * x + 1, 1.5 * y + 1),
    ),
}


@pytest.mark.parametrize("size", [(5, 8), (9, 4), (14, 14)])
@pytest.mark.parametrize("name", KNOWN)
def test_a_pixel_comes_from_where_the_numbers_say(name: str, size: tuple[int, int]) -> None:
    """Outside, an image is as its border is; of a grid whose points all move alike, everything does."""
    how, numbers, where = KNOWN[name]
    images = some(1, 1, 3, *size)
    doubled = {key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()}
    expected = brute(images, where).clamp(images.min(), images.max())
    torch.testing.assert_close(augment(images, Told(**doubled), **how), expected, rtol=0, atol=1e-6)


def test_each_image_has_its_own_numbers_and_all_its_channels_the_same() -> None:
    images = some(2, 2)
    turns = torch.tensor([1.0, 0.0, -0.5, 0.25], dtype=torch.float64)
    made = augment(images, Told(rotation=turns), rotation=40.0)
    for i, turn in enumerate(turns):
        of_round = images[i // 2]
        expected = brute(of_round[i % 2], turned(40 * float(turn))).clamp(of_round.min(), of_round.max())
        torch.testing.assert_close(made[i // 2, i % 2], expected, rtol=0, atol=1e-6)


def test_a_shift_by_whole_pixels_moves_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpochNumbers, "uniform", lambda self, name, *shape: torch.tensor([0.5, -0.25]).view(1, *shape))
    images = some(count=1).float()
    made = augment(images, EpochNumbers(ROUNDS[:1], 1, CPU, torch.float32), shift=4.0)
    torch.testing.assert_close(made[..., 1:, :-2], images[..., :-1, 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(made[..., 0, :-2], images[..., 0, 2:], rtol=0, atol=1e-5)  # as the border is


@pytest.mark.parametrize(("turn", "times"), [(1.0, 1), (-1.0, -1), (0.0, 0)])
def test_a_rotation_by_a_right_angle_is_one(turn: float, times: int) -> None:
    images = some(height=6, width=6)
    made = augment(images, Told(rotation=torch.full((3,), turn, dtype=torch.float64)), rotation=90.0)
    torch.testing.assert_close(made, torch.rot90(images, times, (-2, -1)), rtol=0, atol=1e-6)


def test_the_points_of_the_grid_are_moved_and_what_lies_between_smoothly() -> None:
    """Images whose pixels are their own coordinates show where each comes from; a grid's points are every fifth one."""
    places = torch.meshgrid(torch.arange(10.0), torch.arange(16.0), indexing="ij")
    images = torch.stack([places[1], places[0]])[None, None].double()  # x and y as channels
    bend = 2 * torch.rand(1, 1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1

    def of_grid(x: float, y: float) -> tuple[float, float]:
        by_x, by_y = 2 * bend[0, 0, :, int(y + 4.5) // 3, int(x + 7.5) // 5]
        return x + float(by_x), y + float(by_y)

    moved = augment(images, Told(elastic=bend), elastic=2.0)[0, 0]
    expected = brute(images, of_grid)[0, 0].clamp(0, 15)
    torch.testing.assert_close(moved[:, ::3, ::5], expected[:, ::3, ::5], rtol=0, atol=1e-5)
    steps = (moved - images[0, 0]).diff(dim=-1).abs().max()
    assert 0 < steps < 2  # from one pixel to the next


@pytest.mark.parametrize(("power", "number"), [(1.5, 1.0), (1 / 1.5, -1.0), (1.5**0.5, 0.5), (1.0, 0.0)])
def test_pixels_are_raised_to_a_power_in_the_range_of_their_round(power: float, number: float) -> None:
    """Whatever the round's pixels were normalised by."""
    shares = torch.stack([some(count=4), some(count=4).square()])[:, 0]  # two rounds
    shares[:, 0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    scales, means = torch.tensor([2.0, 0.5]).view(2, 1, 1, 1, 1), torch.tensor([-0.3, 5.0]).view(2, 1, 1, 1, 1)
    made = augment(shares * scales + means, Told(gamma=torch.full((2, 4), number, dtype=torch.float64)), gamma=0.5)
    torch.testing.assert_close(made, shares**power * scales + means, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"gamma": 0.5}])
def test_no_pixel_gets_brighter_than_white_or_darker_than_black_beside_an_edge(how: dict[str, float]) -> None:
    """Bicubic sampling would make it so."""
    dark, bright = (torch.zeros(1, 1, 1, 5, 8, dtype=torch.float64) for _ in range(2))
    dark[..., 4:], bright[..., :3] = 3.0, 5.0
    images = torch.stack([dark, bright - 1])[:, 0]  # two rounds, of 0 to 3 and of -1 to 4
    numbers = {"shift": torch.tensor([0.5, 0.0] * 2, dtype=torch.float64), "gamma": torch.ones(2, 1).double()}
    low, high = torch.tensor([[0.0, 3.0], [-1.0, 4.0]]).double().T.reshape(2, 2, 1, 1, 1, 1)
    expected = torch.stack([brute(image, lambda x, y: (x + 0.5, y)) for image in images])
    assert ((expected < low - 0.1) | (expected > high + 0.1)).flatten(1).any(1).all()
    shares = ((expected - low) / (high - low)).clamp(0, 1) ** (1 + how.get("gamma", 0.0))
    made = augment(images, Told(**numbers), shift=1.0, **how)
    torch.testing.assert_close(made, low + (high - low) * shares, rtol=0, atol=1e-6)


class Noting(EpochNumbers):
    """Numbers that are drawn, and noted by name."""

    noted: dict[str, list[Tensor]] = defaultdict(list)

    def uniform(self, name: str, *shape: int) -> Tensor:
        self.noted[name].append(super().uniform(name, *shape))
        return self.noted[name][-1]


def numbers(rounds: list[Round] = ROUNDS, epoch: int = 1, dtype: torch.dtype = torch.float64) -> Noting:
    made = Noting(rounds, epoch, CPU, dtype)
    made.noted = defaultdict(list)
    return made


def test_each_kind_has_a_stream_of_its_own_that_no_other_moves() -> None:
    together = numbers()
    augment(some(3), together, **ALL)
    for name, most in ALL.items():
        alone = numbers()
        made = augment(some(3), alone, **{name: most})
        assert not torch.allclose(made, some(3))
        assert list(alone.noted) == [name]
        assert torch.equal(alone.noted[name][0], together.noted[name][0])
    firsts = [float(drawn[0].flatten()[0]) for drawn in together.noted.values()]
    assert len(set(firsts)) == len(ALL)
    assert all(
        -1 <= float(drawn[0].min()) < -0.3 and 0.3 < float(drawn[0].max()) <= 1 for drawn in together.noted.values()
    )


def test_other_epochs_rounds_and_networks_have_other_numbers_and_the_same_have_the_same() -> None:
    images = some(1)
    one, member = ROUNDS[0], Member(0, 0, 1)
    made = [
        augment(images, numbers([of], epoch), **ALL)
        for of, epoch in ((one, 1), (one, 2), (ROUNDS[1], 1), (member, 1), (Round(0, 1), 1))
    ]
    assert not any(torch.allclose(made[i], made[j]) for i in range(5) for j in range(i))
    assert torch.equal(augment(images, numbers([Member(0, 0, 0)]), **ALL), made[0])
    beside = augment(images.repeat(3, 1, 1, 1, 1), numbers([ROUNDS[1], one, member]), **ALL)
    for ours, theirs in zip(beside, (made[2], made[0], made[3]), strict=True):
        torch.testing.assert_close(ours, theirs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", [{}, *({name: most} for name, most in ALL.items()), ALL])
def test_float32_is_float64_up_to_rounding(how: dict[str, float]) -> None:
    exact = augment(some(3, 4, 1, 14, 14), numbers(), **how)
    rough = augment(some(3, 4, 1, 14, 14).float(), numbers(dtype=torch.float32), **how)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=1e-4)


class Refuses(DigitPairs):
    """Pairs that nobody is to vary."""

    def vary(self, batch: Pairs, numbers: EpochNumbers, rotation: float = 0.0) -> Pairs:  # type: ignore[override]
        raise AssertionError("it is varied")


def measured(of: DigitPairs, **chosen: Any) -> Any:
    made = Trainer(of, Training(epochs=2, batch_size=50), keep=("losses",), stacked=chosen.pop("stacked", None))
    return list(made.measure(params(**chosen), ROUNDS))


def test_nothing_changes_where_all_are_none_or_zero() -> None:
    zero: dict[str, Any] = {"pairing": "fixed", **dict.fromkeys(ALL, 0.0)}
    plain = measured(task(Refuses))  # which is not asked
    assert variation_of(task(), params()) is None
    with pytest.raises(AssertionError, match="it is varied"):
        measured(task(Refuses), rotation=0.0)
    assert measured(task()) == measured(task(), **zero) == plain
    for name, most in ALL.items():
        assert measured(task(), **{**zero, name: most}) != plain


def test_all_ways_and_configurations_train_on_the_same_images_and_each_epoch_on_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Tensor] = []

    def noted(*given: Any, **how: Any) -> Tensor:
        made.append(augment(*given, **how))
        return made[-1]

    monkeypatch.setattr("hpo.tasks.augmentation.augment", noted)
    ways: list[dict[str, Any]] = [{"stacked": True}, {"stacked": False}, {"learning_rate": 0.3, "weight_decay": 0.1}]
    for way in ways:
        measured(task(), **way, **ALL)
    first, second, *others = made
    assert not torch.allclose(first, second)
    assert len(others) == 4
    assert all(torch.equal(other, (first, second)[i % 2]) for i, other in enumerate(others))


def test_both_images_of_a_pair_are_changed_each_by_itself_and_labels_stay() -> None:
    given = Trainer(task(), Training()).data(ROUNDS).train
    images, *labels = task().vary(Pairs(*given), EpochNumbers(ROUNDS, 1, CPU, torch.float32), **ALL)
    assert images.shape == given[0].shape
    assert (images - given[0]).abs().amax((-1, -2)).min() > 0.05
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(labels, given[1:], strict=True))
    twice = given[0][:, :, :1].expand(given[0].shape)
    images, *_ = task().vary(Pairs(twice, *given[1:]), EpochNumbers(ROUNDS, 1, CPU, torch.float32), **ALL)
    assert (images[:, :, 0] - images[:, :, 1]).abs().amax((-1, -2)).min() > 0.05
