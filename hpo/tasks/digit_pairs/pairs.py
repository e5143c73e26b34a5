"""Pairs of digits as tensors: what a round trains on and is tested on.

Both reports work on pairs of 14x14 images (report A, section II; report B, section I.B).
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from hpo.errors import DatasetError
from hpo.seeding import derive_seed
from hpo.study.task import Round
from hpo.tasks.datasets import DATASETS, DIGITS_TRAIN_IMAGES, mnist_files, verify_mnist
from hpo.training.randomness import EpochNumbers


class Pairs(NamedTuple):
    """N pairs of digits; of R rounds each has R in front.

    Attributes:
        images: (N, 2, 14, 14), normalised.
        classes: (N, 2), the two digits.
        targets: (N,), 1 where the first digit is <= the second, else 0.
    """

    images: Tensor
    classes: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Images:
    """All images of a dataset, N of them: (N, 14, 14), and their digits (N,)."""

    images: Tensor
    digits: Tensor


def draw_round(dataset: str, folder: Path, round_: Round, *, train_pairs: int, test_pairs: int) -> tuple[Pairs, Pairs]:
    """Draws a round's own training and test pairs, the same in every trial of a study.

    Both sets are normalised by the mean and deviation of the round's training pairs.

    Raises:
        DatasetError: where the files are missing or wrong.
    """
    train_images, test_images = read_images(dataset, folder)
    train = _draw(dataset, train_images, train_pairs, round_.seed("train pairs"))
    test = _draw(dataset, test_images, test_pairs, round_.seed("test pairs"))
    mean, deviation = train.images.mean(), train.images.std()
    return (
        train._replace(images=(train.images - mean) / deviation),
        test._replace(images=(test.images - mean) / deviation),
    )


def pair_anew(pairs: Pairs, numbers: EpochNumbers) -> Pairs:
    """Returns the images of R rounds' pairs (R, N, ...) in other pairs, as many.

    Of `digits`, where an image is in several pairs, one may come beside itself.
    """
    rounds, count = pairs.targets.shape
    order = numbers.permutations("pairing", 2 * count).view(rounds, count, 2)
    which = torch.arange(rounds, device=order.device).view(-1, 1, 1)
    images, classes = pairs.images.flatten(1, 2)[which, order], pairs.classes.flatten(1, 2)[which, order]
    return Pairs(images, classes, (classes[..., 0] <= classes[..., 1]).long())


def draw_test_images(dataset: str, folder: Path, round_: Round, *, test_pairs: int) -> npt.NDArray[np.int64]:
    """Draws of which test images a round's test pairs are, (N, 2), as `draw_round` does.

    Raises:
        DatasetError: where the files are missing or wrong.
    """
    _, images = read_images(dataset, folder)
    drawn: npt.NDArray[np.int64] = _indices(dataset, images, test_pairs, round_.seed("test pairs")).numpy()
    return drawn


def draw_validation(dataset: str, folder: Path, round_: Round, *, train_pairs: int, validation_pairs: int) -> Pairs:
    """Draws a round's validation pairs: of training images that are in none of the pairs that it trains on.

    Raises:
        DatasetError: where the files are missing or wrong, or too few images are left.
    """
    images, _ = read_images(dataset, folder)
    left = torch.ones(len(images.digits), dtype=torch.bool)
    left[_indices(dataset, images, train_pairs, round_.seed("train pairs")).flatten()] = False
    others = Images(images.images[left], images.digits[left])
    count = len(others.digits)
    if validation_pairs > (count // 2 if dataset == "mnist" else count * (count - 1)):
        raise DatasetError(
            f"validation_pairs is {validation_pairs}, but round {round_.number} trains on all but {count} images of "
            f"{dataset!r}; fewer train_pairs leave more"
        )
    pairs = _draw(dataset, others, validation_pairs, round_.seed("validation pairs"))
    mean, deviation = draw_normalisation(dataset, folder, round_, train_pairs=train_pairs)
    return pairs._replace(images=(pairs.images - mean) / deviation)


@lru_cache(maxsize=2)
def test_images_on(dataset: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Images:
    """Returns all test images of a dataset, not normalised, on a device.

    Raises:
        DatasetError: where the files are missing or wrong.
    """
    _, test = read_images(dataset, folder)
    return Images(test.images.to(device, dtype), test.digits.to(device))


@lru_cache(maxsize=128)
def draw_normalisation(dataset: str, folder: Path, round_: Round, *, train_pairs: int) -> tuple[float, float]:
    """Returns a round's mean and deviation of training pixels, by which its pairs are normalised.

    Raises:
        DatasetError: where the files are missing or wrong.
    """
    train_images, _ = read_images(dataset, folder)
    images = _draw(dataset, train_images, train_pairs, round_.seed("train pairs")).images
    return images.mean().item(), images.std().item()


@lru_cache(maxsize=2)
def read_images(dataset: str, folder: Path) -> tuple[Images, Images]:
    """Returns the training and the test images of a dataset.

    Raises:
        DatasetError: where the files are missing or wrong.
    """
    return _read_mnist(folder) if dataset == "mnist" else _read_digits()


def _read_mnist(folder: Path) -> tuple[Images, Images]:
    # Not by torchvision, which downloads them: importing it takes two seconds, a third of a worker's start, and the
    # checksums leave no doubt of what is where in the files.
    verify_mnist(folder)

    def read(part: str) -> Images:
        pixels, labels = (
            np.fromfile(mnist_files(folder) / f"{part}-{kind}-ubyte", dtype=np.uint8, offset=header)
            for kind, header in (("images-idx3", 16), ("labels-idx1", 8))
        )
        images = torch.from_numpy(pixels).reshape(-1, 1, 28, 28).float()
        halved = functional.avg_pool2d(images, 2).squeeze(1)  # (N, 1, 28, 28) -> (N, 14, 14)
        return Images(halved, torch.from_numpy(labels).long())

    return read("train"), read("t10k")


def _read_digits() -> tuple[Images, Images]:
    # Not by scikit-learn's load_digits, which reads this file: importing it takes most of a second of a worker's start.
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DatasetError("dataset 'digits' is scikit-learn's, which is not here; install it")
    (folder,) = package.submodule_search_locations
    file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
    try:
        rows = np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"dataset 'digits': {file}: {error}; install scikit-learn again, which brings it") from error
    images, digits = rows[:, :-1], rows[:, -1].astype(int)
    actual = hashlib.sha256(images.astype("<f8").tobytes() + digits.astype("<i8").tobytes()).hexdigest()
    if actual != DATASETS["digits"].checksums["digits"]:
        raise DatasetError(
            f"dataset 'digits': scikit-learn's copy has changed (SHA-256 {actual[:12]}…); install another release"
        )
    small = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    enlarged = functional.interpolate(small, size=(14, 14), mode="bilinear").squeeze(1)  # (N, 1, 8, 8) -> (N, 14, 14)
    labels = torch.from_numpy(digits).long()
    # One split for every study: the file is in writers' order, so it is shuffled first.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed("digits", "split")))
    train, test = order[:DIGITS_TRAIN_IMAGES], order[DIGITS_TRAIN_IMAGES:]
    return Images(enlarged[train], labels[train]), Images(enlarged[test], labels[test])


def _draw(dataset: str, source: Images, n: int, seed: int) -> Pairs:
    return _pair(source, _indices(dataset, source, n, seed))


def _indices(dataset: str, source: Images, n: int, seed: int) -> Tensor:
    """Draws which images n pairs are of, (n, 2)."""
    draw = _draw_disjoint if dataset == "mnist" else _draw_ordered
    return draw(len(source.digits), n, torch.Generator().manual_seed(seed))


def _draw_disjoint(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Draws n pairs in which no image recurs."""
    return torch.randperm(count, generator=generator)[: 2 * n].reshape(n, 2)


def _draw_ordered(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Draws n different ordered pairs of two different images; an image may recur in another pair."""
    drawn = torch.randperm(count * (count - 1), generator=generator)[:n]
    first, second = drawn // (count - 1), drawn % (count - 1)
    return torch.stack([first, second + (second >= first)], dim=1)  # skipping the diagonal


def _pair(source: Images, indices: Tensor) -> Pairs:
    classes = source.digits[indices]  # (N, 2)
    return Pairs(source.images[indices], classes, (classes[:, 0] <= classes[:, 1]).long())
