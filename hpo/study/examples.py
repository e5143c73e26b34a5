"""What became of every test example in every round, from which it follows how much hangs on the examples themselves.

A mean over rounds says nothing of other test examples: all rounds may be tested on the same ones. So it is kept what
each example came to, and computed by how much a round's error would grow if an image counted a little more. An example
may be of several images, as a pair of digits is of two, and an image may be in several examples.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo import limits

Array = npt.NDArray[Any]
EXAMPLES_FILE = "examples.npz"  # of a trial that keeps them
KEPT_AS_FILE = "examples"  # what of a measurement's details is kept so, and not in the database
PACKED = "bits"  # the name of outcomes in a file, where there are but two: 8 in a byte


@dataclass(frozen=True)
class ExampleOutcomes:
    """What became of N test examples in R rounds.

    Attributes:
        influence: (R, O): by how much a round's error grows with an example of this outcome, per unit of its weight; 0
            in the mean over the round's examples. Without outcomes (R, M), the same of each image.
        outcomes: (R, N), a byte each: 0 for right and 1 for wrong, or whatever else `influence` tells apart.
        members: (R, N, K), of which images an example is, as numbers from 0 on; (1, N, K) where that is the same in all
            rounds; None where it is the image itself.
    """

    influence: npt.NDArray[np.floating[Any]]
    outcomes: npt.NDArray[np.uint8] | None = None
    members: npt.NDArray[np.int32] | None = None

    @staticmethod
    def of_errors(errors: Array, members: Array | None = None) -> ExampleOutcomes:
        """Returns the examples of rounds whose error is the mean of theirs, (R, N); with their members (R, N, K)."""
        centred = (errors - errors.mean(axis=1, keepdims=True)) / errors.shape[1]
        values = np.unique(errors)
        if len(values) > 2:
            return ExampleOutcomes(summed(centred, members).astype(np.float32))
        influence = (values - errors.mean(axis=1, keepdims=True)) / errors.shape[1]
        return ExampleOutcomes(influence, np.searchsorted(values, errors).astype(np.uint8), members)

    def influences(self) -> npt.NDArray[np.float64]:
        """Returns by how much each round's error grows with an image, per unit of its weight: (R, M)."""
        if self.outcomes is None:
            return self.influence.astype(np.float64)
        of_examples = np.take_along_axis(self.influence, self.outcomes.astype(np.intp), axis=1)  # (R, N)
        return summed(of_examples.astype(np.float64), self.members)

    def as_bytes(self) -> bytes:
        """Returns the content of a file, NumPy's .npz."""
        kept: dict[str, Array] = {"influence": self.influence}
        if self.outcomes is not None and self.outcomes.max(initial=0) <= 1:
            kept |= {PACKED: np.packbits(self.outcomes, axis=1), "examples": np.array(self.outcomes.shape[1])}
        elif self.outcomes is not None:
            kept["outcomes"] = self.outcomes
        if self.members is not None:
            kept["members"] = self.members
        file = io.BytesIO()
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]
        return file.getvalue()

    @staticmethod
    def from_bytes(content: bytes) -> ExampleOutcomes:
        """Reads the content of such a file.

        Raises:
            ValueError: where it is none.
        """
        try:
            kept = dict(_read(content))
            outcomes = kept.get("outcomes")
            if PACKED in kept:
                outcomes = np.unpackbits(kept[PACKED], axis=1, count=int(kept["examples"]))
            found = ExampleOutcomes(kept["influence"], outcomes, kept.get("members"))
        except (KeyError, IndexError, TypeError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise ValueError(f"these are no tested examples: {error}") from error
        _check(found)
        return found


def joined(groups: Sequence[ExampleOutcomes]) -> ExampleOutcomes:
    """Returns the examples of several groups of rounds, one after another."""
    outcomes = [one.outcomes for one in groups if one.outcomes is not None]
    members = [
        np.broadcast_to(one.members, (len(one.influence), *one.members.shape[1:]))
        for one in groups
        if one.members is not None
    ]
    if len(outcomes) < len(groups):
        return ExampleOutcomes(stacked([one.influences() for one in groups]).astype(np.float32))
    influence = stacked([one.influence for one in groups])
    return ExampleOutcomes(influence, np.concatenate(outcomes), np.concatenate(members) if members else None)


def stacked(parts: Sequence[Array]) -> Array:
    """Returns rows of several widths as one array, 0 where a row has no more."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def summed(of_examples: Array, members: Array | None) -> npt.NDArray[np.float64]:
    """Returns the sum (R, M) over the examples of each image, (R, N), by their members (R, N, K)."""
    if members is None:
        return of_examples
    rounds, images = len(of_examples), int(members.max()) + 1
    places = np.arange(rounds)[:, None, None] * images + members  # (R, N, K)
    weights = np.broadcast_to(of_examples[:, :, None], places.shape)
    added: Array = np.bincount(places.ravel(), weights.ravel(), minlength=rounds * images)
    return added.reshape(rounds, images)


def _read(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > limits.EXAMPLES_BYTES:
            raise ValueError("tested examples are larger than any that are written")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        yield from arrays.items()


def _check(found: ExampleOutcomes) -> None:
    """Makes sure that the arrays of a file, which anybody may have written, fit each other."""
    outcomes, influence, members = found.outcomes, found.influence, found.members
    fits = influence.dtype.kind == "f" and influence.ndim == 2 and influence.size > 0
    fits = fits and bool(np.isfinite(influence).all())
    if fits and outcomes is not None:
        fits = outcomes.dtype == np.uint8 and outcomes.ndim == 2 and len(outcomes) == len(influence)
        fits = fits and int(outcomes.max(initial=0)) < influence.shape[1]
    if fits and members is not None:
        fits = (
            outcomes is not None
            and members.dtype == np.int32
            and members.ndim == 3
            and members.shape[:2] in (outcomes.shape, (1, outcomes.shape[1]))
            and members.size > 0
            and int(members.min()) >= 0
            and int(members.max()) < limits.COUNT
        )
    if not fits:
        raise ValueError("the arrays of tested examples do not fit each other")
