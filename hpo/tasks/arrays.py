"""Examples as arrays, from wherever a study says that they are; without torch.

    data = "digits.npz"                    x and y; or x_train, y_train, x_test and y_test
    data = "cars.csv"                      a row each, its target in the column that `target` names
    data = "sklearn:load_wine"             scikit-learn's, of those that come with it
    data = "torchvision:FashionMNIST"      torchvision's, from the folder of datasets, downloaded where they are missing

Files are looked for below the folder of code, then in the folder of datasets. Nothing in them is executed.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import DatasetError, suggestion
from hpo.study.references import Sources, is_below
from hpo.text.files import NotUtf8, read_text

Array = NDArray[Any]

WHOLE, SPLIT = ("x", "y"), ("x_train", "y_train", "x_test", "y_test")
TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN")


@dataclass(frozen=True)
class Examples:
    """All examples that there are, in the order of their source.

    Attributes:
        x: (N, ...), as numbers.
        y: (N,), or (N, T) where a target is several numbers; as the source has them.
        tests: so many of the last are a test set that is fixed; 0 where every round draws its own.
        sha256: the hash of both.
    """

    x: Array
    y: Array
    tests: int = 0
    sha256: str = ""


@lru_cache(maxsize=4)
def read_examples(name: str, target: str | None, sources: Sources) -> Examples:
    """Returns the examples of a name.

    Args:
        target: the column of a CSV file that is to be told from the others.

    Raises:
        DatasetError: where they are not there, cannot be read, or are no numbers.
    """
    kind, colon, member = name.partition(":")
    if target is not None and not name.endswith(".csv"):
        raise DatasetError(f"target = {target!r} names a column of a CSV file, but data is {name!r}")
    if colon and kind == "sklearn":
        found = _read_sklearn(member)
    elif colon and kind == "torchvision":
        found = _read_torchvision(member, sources.data)
    elif name.endswith(".npz"):
        found = _read_npz(_find(name, sources), name)
    elif name.endswith(".csv"):
        found = _read_csv(_find(name, sources), name, target)
    else:
        raise DatasetError(
            f"data must be a file ending in .npz or .csv, 'sklearn:…' or 'torchvision:…', but is {name!r}"
        )
    _check(found, name)
    digest = hashlib.sha256()
    for array in (found.x, found.y):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return replace(found, sha256=digest.hexdigest())


def _find(name: str, sources: Sources) -> Path:
    if not is_below(name):
        raise DatasetError(f"data must be a path below the folder of code, or of datasets, but is {name!r}")
    for folder in (sources.code, sources.data):
        file = folder / name
        try:
            is_there = file.is_file()
        except OSError:  # a name that is too long, a folder that may not be looked into
            is_there = False
        if is_there:
            if not file.resolve().is_relative_to(folder.resolve()):
                raise DatasetError(f"{name} is a link that leads out of {folder.resolve()}")
            return file
    code, data = sources.code.resolve(), sources.data.resolve()
    raise DatasetError(f"{name} is neither in {code} (--code) nor in {data} (--data)")


def _check(found: Examples, name: str) -> None:
    if len(found.x) != len(found.y):
        raise DatasetError(f"{name} has {len(found.x)} examples, but {len(found.y)} targets")
    if len(found.x) < 2:
        raise DatasetError(f"{name} has {len(found.x)} examples, which cannot be split")
    if found.x.ndim < 2:
        raise DatasetError(f"{name}: x must have a row for each example, but is of shape {found.x.shape}")
    for what, array in (("x", found.x), ("y", found.y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
            raise DatasetError(
                f"{name}: {what} is not finite in {len(rows)} of {len(array)} examples, the first of which is {rows[0]}"
            )


def _read_npz(file: Path, name: str) -> Examples:
    try:
        with np.load(file, allow_pickle=False) as opened:
            names = list(opened)
            wanted = SPLIT if set(SPLIT) <= set(names) else WHOLE
            if not set(wanted) <= set(names):
                raise DatasetError(
                    f"{name} must hold {' and '.join(WHOLE)}, or {', '.join(SPLIT)}, but holds {', '.join(names)}"
                )
            arrays: list[Array] = [np.asarray(opened[one]) for one in wanted]  # a member that is no .npy comes as bytes
    except DatasetError:
        raise
    except Exception as error:  # numpy, zipfile and zlib have a dozen
        raise DatasetError(f"{name} cannot be read as NumPy's .npz: {error}") from error
    for one, array in zip(wanted, arrays, strict=True):
        if array.dtype.kind not in "biuf" and not (one.startswith("y") and array.dtype.kind == "U"):
            raise DatasetError(f"{name}: {one} must hold numbers, but its type is {array.dtype}")
    if wanted is WHOLE:
        return Examples(arrays[0], arrays[1])
    x, y, x_test, y_test = arrays
    if x.shape[1:] != x_test.shape[1:] or y.shape[1:] != y_test.shape[1:]:
        shapes = f"{x.shape} and {x_test.shape}"
        raise DatasetError(f"{name}: training and test examples must be of one shape, but are {shapes}")
    if len(x_test) != len(y_test):
        raise DatasetError(f"{name} has {len(x_test)} test examples, but {len(y_test)} targets")
    return Examples(np.concatenate([x, x_test]), np.concatenate([y, y_test]), tests=len(x_test))


def _read_csv(file: Path, name: str, target: str | None) -> Examples:
    """Returns a row each; a column of words becomes one of zeros and ones for each word."""
    try:
        text = read_text(file).removeprefix("\ufeff")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        header, *rows = [row for row in csv.reader(StringIO(text), delimiter=delimiter, strict=True) if row]
    except (OSError, NotUtf8, csv.Error, ValueError) as error:
        raise DatasetError(f"{name} cannot be read as CSV: {error}") from error
    header = [column.strip() for column in header]
    if target is None:
        raise DatasetError(
            f"target must name the column of {name} that is to be told from the others; there are: {', '.join(header)}"
        )
    if target not in header:
        raise DatasetError(f"{name} has no column {target!r}; {suggestion(target, header)}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise DatasetError(f"{name}, line {number}: {len(row)} values, but {len(header)} columns")
        if missing := [column for column, value in zip(header, row, strict=True) if not value.strip()]:
            raise DatasetError(f"{name}, line {number}: nothing in column {missing[0]!r}")
    columns = {column: [row[i].strip() for row in rows] for i, column in enumerate(header)}
    if len(columns) != len(header):
        raise DatasetError(f"{name} has two columns of one name")
    wanted = columns.pop(target)
    if not columns:
        raise DatasetError(f"{name} has no column besides its target")
    features = [part for values in columns.values() for part in _features(values)]
    return Examples(np.stack(features, axis=1), np.asarray(_numbers(wanted) or wanted))


def _features(values: Sequence[str]) -> list[Array]:
    numbers = _numbers(values)
    if numbers is not None:
        return [np.asarray(numbers, dtype=np.float64)]
    return [np.asarray([value == word for value in values], dtype=np.float64) for word in sorted(set(values))]


def _numbers(values: Sequence[str]) -> list[float] | None:
    """Returns values as numbers; None where one of them is none."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _read_sklearn(member: str) -> Examples:
    import sklearn.datasets

    known = [
        name
        for name in dir(sklearn.datasets)
        if name.startswith("load_") and "return_X_y" in inspect.signature(getattr(sklearn.datasets, name)).parameters
    ]
    if member.startswith("fetch_"):
        raise DatasetError(
            f"sklearn:{member} is kept as a pickle, which can run anything; save its arrays as .npz, and name that"
        )
    if member not in known:
        raise DatasetError(f"scikit-learn has no dataset {member!r}; {suggestion(member, known)}")
    x, y = getattr(sklearn.datasets, member)(return_X_y=True)
    if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray) or x.dtype.kind not in "biuf":
        raise DatasetError(f"sklearn:{member} is no array of numbers")
    return Examples(x, y)


def _read_torchvision(member: str, data_folder: Path) -> Examples:
    """Returns images with their channels first, (N, C, H, W), of 0 to 1; the test set is torchvision's."""
    if member not in TORCHVISION:
        raise DatasetError(f"there is no torchvision:{member} here; {suggestion(member, TORCHVISION)}")
    import torchvision.datasets

    parts = []
    for split in ({"split": "train"}, {"split": "test"}) if member == "SVHN" else ({"train": True}, {"train": False}):
        try:
            with redirect_stdout(StringIO()):
                parts.append(getattr(torchvision.datasets, member)(str(data_folder), download=True, **split))
        except Exception as error:  # urllib's, zipfile's, RuntimeError where a file is corrupted
            raise DatasetError(
                f"torchvision:{member} is not in {data_folder} and could not be downloaded ({_line(error)}); "
                "put its files there, as torchvision keeps them"
            ) from error
    x = np.concatenate([np.asarray(part.data) for part in parts])
    y = np.concatenate([np.asarray(part.labels if member == "SVHN" else part.targets) for part in parts])
    y = y[:, 0] if y.ndim > 1 else y  # QMNIST keeps where a digit comes from beside it
    if x.ndim == 3:
        x = x[:, None]
    elif member.startswith("CIFAR"):
        x = x.transpose(0, 3, 1, 2)
    return Examples(x / np.float32(255), y, tests=len(parts[1]))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
