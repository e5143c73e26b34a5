from __future__ import annotations

import gzip
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpo.errors import DatasetError
from hpo.tasks.datasets import DATASETS, Dataset, data_folder, mnist_files, prepare
from hpo.tasks.digit_pairs import pairs
from hpo.tasks.digit_pairs.pairs import Pairs, _draw_ordered, read_images
from tests.conftest import draw_pairs


def draw(
    rounds: range, *, seed: int = 0, dataset: str = "digits", folder: Path = Path(), count: int = 100
) -> tuple[Pairs, Pairs]:
    return draw_pairs(rounds, seed=seed, dataset=dataset, folder=folder, train_pairs=count, test_pairs=count)


def test_pairs_are_14x14_normalised_and_their_targets_compare_the_digits() -> None:
    train, test = draw(range(2))
    assert train.images.shape == test.images.shape == (2, 100, 2, 14, 14)
    assert train.classes.shape == (2, 100, 2)
    assert torch.equal(train.targets, (train.classes[..., 0] <= train.classes[..., 1]).long())
    for r in range(2):  # every round by its own training pairs
        assert train.images[r].mean().abs() < 1e-5
        assert (train.images[r].std() - 1).abs() < 1e-5


def test_a_round_is_the_same_in_every_study_of_its_seed_and_differs_from_other_rounds() -> None:
    (first, _), (again, _), (other_seed, _) = draw(range(3)), draw(range(2, 3)), draw(range(3), seed=1)
    assert torch.equal(first.images[2], again.images[0])
    assert not torch.equal(first.images[1], first.images[2])
    assert not torch.equal(first.images[1], other_seed.images[1])


def test_training_and_test_digits_are_disjoint_images() -> None:
    train, test = read_images("digits", Path())
    assert (len(train.digits), len(test.digits)) == (1198, 599)
    a, b = ({tuple(image.flatten().tolist()) for image in part.images} for part in (train, test))
    assert not a & b


def test_digits_of_a_damaged_or_missing_scikit_learn_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = find_spec("sklearn")
    assert package
    assert package.submodule_search_locations
    monkeypatch.setattr(pairs, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(DatasetError, match=r"digits\.csv\.gz.* not found.*; install scikit-learn again"):
        pairs._read_digits()
    original = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    changed = gzip.decompress(original.read_bytes()).replace(b"0,", b"1,", 1)
    (tmp_path / "datasets" / "data").mkdir(parents=True)
    (tmp_path / "datasets" / "data" / "digits.csv.gz").write_bytes(gzip.compress(changed))
    with pytest.raises(DatasetError, match="scikit-learn's copy has changed"):
        pairs._read_digits()
    (tmp_path / "datasets" / "data" / "digits.csv.gz").write_bytes(original.read_bytes()[:9000])
    with pytest.raises(DatasetError, match="install scikit-learn again"):
        pairs._read_digits()
    monkeypatch.setattr(pairs, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="is scikit-learn's, which is not here"):
        pairs._read_digits()


def test_ordered_pairs_are_drawn_without_replacement_up_to_the_last() -> None:
    """Of 5 images there are 20 ordered pairs of two different ones; drawing 20 gives each exactly once."""
    drawn = _draw_ordered(5, 20, torch.Generator().manual_seed(0))
    assert {tuple(pair) for pair in drawn.tolist()} == {(i, j) for i in range(5) for j in range(5) if i != j}


@pytest.mark.mnist
def test_mnist_pairs_repeat_no_image(mnist_folder: Path) -> None:
    train, _ = draw(range(1), dataset="mnist", folder=mnist_folder, count=1000)
    images = train.images[0].reshape(2000, -1)
    assert len(torch.unique(images, dim=0)) == 2000


@pytest.mark.mnist
def test_mnist_images_are_averaged_to_half_their_size(mnist_folder: Path) -> None:
    train, test = read_images("mnist", mnist_folder)
    assert train.images.shape == (60_000, 14, 14)
    assert test.images.shape == (10_000, 14, 14)
    raw = (mnist_files(mnist_folder) / "t10k-images-idx3-ubyte").read_bytes()[16 : 16 + 784]
    first = torch.tensor(list(raw), dtype=torch.float32).reshape(14, 2, 14, 2).mean((1, 3))
    assert torch.equal(test.images[0], first)


@pytest.mark.mnist
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_mnist_file_is_named_and_nothing_is_read(mnist_folder: Path, tmp_path: Path, damage: str) -> None:
    file = copy_mnist(mnist_folder, tmp_path) / "train-labels-idx1-ubyte"
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    for read in (lambda: prepare("mnist", tmp_path), lambda: read_images("mnist", tmp_path)):
        with pytest.raises(DatasetError, match="train-labels-idx1-ubyte is truncated or not MNIST's"):
            read()


@pytest.mark.mnist
def test_a_missing_mnist_file_is_downloaded_or_named(
    mnist_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy_mnist(mnist_folder, tmp_path) / "train-labels-idx1-ubyte").unlink()
    downloaded: list[Path] = []
    monkeypatch.setattr("hpo.tasks.datasets._download_mnist", downloaded.append)
    with pytest.raises(DatasetError, match="train-labels-idx1-ubyte is missing"):
        prepare("mnist", tmp_path)  # nothing has come
    assert downloaded == [tmp_path]
    with pytest.raises(DatasetError, match="train-labels-idx1-ubyte is missing"):
        read_images("mnist", tmp_path)


def copy_mnist(source: Path, target: Path) -> Path:
    shutil.copytree(mnist_files(source), mnist_files(target))
    for path in (mnist_files(target), *mnist_files(target).iterdir()):
        path.chmod(0o755)  # the source may be read-only
    return mnist_files(target)


def refuse_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every proxy that urllib would ask is one that refuses, so no download can succeed here or anywhere."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def test_wrong_files_are_named_without_mnist_at_hand(tmp_path: Path) -> None:
    mnist_files(tmp_path).mkdir(parents=True)
    for file in DATASETS["mnist"].checksums:
        (mnist_files(tmp_path) / file).write_bytes(b"not MNIST")
    with pytest.raises(DatasetError, match="train-images-idx3-ubyte is truncated or not MNIST's"):
        prepare("mnist", tmp_path)


def test_missing_mnist_that_cannot_be_downloaded_names_folder_and_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_downloads(monkeypatch)
    with pytest.raises(DatasetError) as raised:
        prepare("mnist", tmp_path)
    message = str(raised.value)
    assert str(mnist_files(tmp_path)) in message
    assert "--dataset digits" in message
    assert "\n" not in message


def test_digits_whose_checksum_differs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Dataset(name="digits", checksums={"digits": "0" * 64}, train_pairs=1, test_pairs=1, test_images=2)
    monkeypatch.setitem(DATASETS, "digits", other)
    read_images.cache_clear()
    with pytest.raises(DatasetError, match="has changed"):
        read_images("digits", Path())


def test_the_data_folder_is_the_option_then_the_environment_then_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_DATA", str(tmp_path / "environment"))
    assert data_folder(tmp_path / "option") == tmp_path / "option"
    assert data_folder() == tmp_path / "environment"
    monkeypatch.delenv("HPO_DATA")
    assert data_folder().name == "hpo"
