"""The datasets: what each holds, where its files are, and the proof that they are right; without torch.

MNIST's files are those of Y. LeCun, C. Cortes and C. Burges, as torchvision downloads them. The embedded digits are
scikit-learn's copy of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from hpo.errors import DatasetError, explain_os_error


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a dataset before it is read.

    Attributes:
        checksums: SHA-256 of each file (MNIST), or of the images' and labels' bytes (digits).
        train_pairs: the most pairs that one round can draw for training.
        test_pairs: the same for testing.
        test_images: how many images there are to test on.
        drawn_beside_all: how many test pairs a round draws where all of them are looked at in the end.
    """

    name: str
    checksums: Mapping[str, str]
    train_pairs: int
    test_pairs: int
    test_images: int
    drawn_beside_all: int = 1000

    @property
    def sha256(self) -> str:
        """One checksum for the whole dataset, stored with every study."""
        return hashlib.sha256(
            "\n".join(f"{name} {sha}" for name, sha in sorted(self.checksums.items())).encode()
        ).hexdigest()


VALIDATION_PAIRS = 1000  # that a round draws, unless told
HEAD_PAIRS = 100_000  # of all ordered pairs, that a head is measured on
DIGITS_TRAIN_IMAGES = 1198  # two thirds of the 1 797
DIGITS_TEST_IMAGES = 599

DATASETS = {
    # Images are drawn without replacement, two a pair.
    "mnist": Dataset(
        name="mnist",
        checksums={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        train_pairs=60_000 // 2,
        test_pairs=10_000 // 2,
        test_images=10_000,
    ),
    # Ordered pairs of two different images are drawn without replacement; an image may recur.
    "digits": Dataset(
        name="digits",
        checksums={"digits": "f6d9e39f37dc45d327f6db33428ee58970ccceabb2535a5c179de35886b70443"},
        train_pairs=DIGITS_TRAIN_IMAGES * (DIGITS_TRAIN_IMAGES - 1),
        test_pairs=DIGITS_TEST_IMAGES * (DIGITS_TEST_IMAGES - 1),
        test_images=DIGITS_TEST_IMAGES,
    ),
}


def data_folder(chosen: Path | None = None) -> Path:
    """Returns the folder that holds datasets: `chosen`, else `$HPO_DATA`, else the platform's cache folder."""
    if chosen is not None:
        return chosen
    return Path(os.environ.get("HPO_DATA") or platformdirs.user_cache_dir("hpo"))


def mnist_files(folder: Path) -> Path:
    """Returns where torchvision keeps MNIST's four files below a data folder."""
    return folder / "MNIST" / "raw"


def prepare(name: str, folder: Path) -> None:
    """Makes sure that a dataset can be read, downloading it with progress where it is missing.

    Raises:
        DatasetError: where it is missing and cannot be downloaded, or a file is not what it should be.
    """
    if name != "mnist":
        return  # embedded; its checksum is compared when it is read
    try:
        if not _mnist_is_there(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".download.lock"):  # one downloads, the others wait for it
                if not _mnist_is_there(folder):
                    _download_mnist(folder)
        verify_mnist(folder)
    except OSError as error:
        raise DatasetError(f"dataset 'mnist': {explain_os_error(error)}") from error


def verify_mnist(folder: Path) -> None:
    """Compares the four files with their checksums; torchvision itself only looks whether they exist.

    Raises:
        DatasetError: that names the file.
    """
    for file, expected in DATASETS["mnist"].checksums.items():
        path = mnist_files(folder) / file
        if not path.is_file():
            raise DatasetError(f"dataset 'mnist': {path} is missing")
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
        if actual != expected:
            raise DatasetError(
                f"dataset 'mnist': {path} is truncated or not MNIST's "
                f"(SHA-256 {actual[:12]}…, expected {expected[:12]}…); delete it to download MNIST again"
            )


def _mnist_is_there(folder: Path) -> bool:
    return all((mnist_files(folder) / file).is_file() for file in DATASETS["mnist"].checksums)


def _download_mnist(folder: Path) -> None:
    """Downloads to a folder beside, and moves the files to their place when they are whole and right."""
    # In a process of its own: torchvision imports torch, and who calls this supervises workers and must stay small.
    # Its progress goes to the terminal, past us; what went wrong comes last on standard output.
    program = (
        "import sys\n"
        "try:\n"
        "    from torchvision.datasets import MNIST\n"
        "    MNIST(sys.argv[1], download=True)\n"
        "except BaseException as error: print(f'{type(error).__name__}: {error}'); sys.exit(1)"
    )
    watched = sys.stderr.isatty()
    if watched:
        print(f"downloading MNIST to {mnist_files(folder)}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as beside:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, beside],  # -P: a file in the working folder is no module
            stdout=subprocess.PIPE,
            stderr=None if watched else subprocess.DEVNULL,  # else it would end when a reader of its progress leaves
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise DatasetError(
                f"dataset 'mnist' is not in {mnist_files(folder)} and could not be downloaded ({reason}); "
                "put its four files there, name the folder above MNIST by --data or HPO_DATA, "
                "or take --dataset digits, which needs no download"
            )
        verify_mnist(Path(beside))
        mnist_files(folder).mkdir(parents=True, exist_ok=True)
        for file in DATASETS["mnist"].checksums:
            os.replace(mnist_files(Path(beside)) / file, mnist_files(folder) / file)
