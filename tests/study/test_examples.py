"""What became of each test example: packed, read again, and by how much an image moves a round's error."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import default_rng

from hpo.study.examples import Array, ExampleOutcomes, joined

RANDOM = default_rng(0)
IMAGES = 12
PAIRS = np.stack([RANDOM.permutation(IMAGES)[:10].reshape(5, 2) for _ in range(3)]).astype(np.int32)  # (3, 5, 2)
WRONG = 100.0 * (RANDOM.random((3, 5)) < 0.4)


def weighted(weights: Array, round_: int) -> float:
    """Returns a round's error where images count so much."""
    of_pairs = weights[PAIRS[round_]].prod(axis=1)
    return float((of_pairs * WRONG[round_]).sum() / of_pairs.sum())


def test_an_image_moves_the_error_by_as_much_as_the_error_changes_where_it_counts_a_little_more() -> None:
    found = ExampleOutcomes.of_errors(WRONG, PAIRS).influences()
    for round_ in range(3):
        for image in range(int(PAIRS.max()) + 1):
            more, less = np.ones(IMAGES), np.ones(IMAGES)
            more[image], less[image] = 1 + 1e-5, 1 - 1e-5
            slope = (weighted(more, round_) - weighted(less, round_)) / 2e-5
            assert found[round_, image] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    "examples",
    [
        ExampleOutcomes.of_errors(WRONG, PAIRS),
        ExampleOutcomes.of_errors(WRONG, PAIRS[:1]),
        ExampleOutcomes.of_errors(WRONG),
        ExampleOutcomes.of_errors(np.zeros((2, 9))),
        ExampleOutcomes.of_errors(RANDOM.random((2, 9)), PAIRS[:1, :, :1].repeat(2, axis=1)[:, :9]),
        ExampleOutcomes(RANDOM.random((2, 200)), RANDOM.integers(200, size=(2, 30)).astype(np.uint8)),
    ],
)
def test_what_is_written_is_read_again(examples: ExampleOutcomes) -> None:
    again = ExampleOutcomes.from_bytes(examples.as_bytes())
    np.testing.assert_array_equal(again.influences(), examples.influences())


def test_examples_that_are_right_or_wrong_take_a_bit_each() -> None:
    wrong = 100.0 * (RANDOM.random((30, 10_000)) < 0.5)
    assert len(ExampleOutcomes.of_errors(wrong).as_bytes()) < 30 * 10_000 / 8 + 2_000


def test_groups_of_rounds_come_one_after_another() -> None:
    all_wrong = np.full((2, 5), 100.0)
    parts = [ExampleOutcomes.of_errors(WRONG, PAIRS), ExampleOutcomes.of_errors(all_wrong, PAIRS[:1])]
    expected = np.concatenate([part.influences() for part in parts])
    np.testing.assert_allclose(joined(parts).influences(), expected)
    with_numbers = [*parts, ExampleOutcomes.of_errors(RANDOM.random((2, 5)), PAIRS[:2])]
    np.testing.assert_allclose(joined(with_numbers).influences()[:5], expected, atol=1e-6)


def damaged(change: Callable[[dict[str, Array]], object]) -> bytes:
    with np.load(io.BytesIO(ExampleOutcomes.of_errors(WRONG, PAIRS).as_bytes())) as file:
        arrays = dict(file)
    change(arrays)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK no archive",
        damaged(lambda arrays: arrays.pop("influence")),
        damaged(lambda arrays: arrays.update(influence=np.array([[np.nan, 1.0]] * 3))),
        damaged(lambda arrays: arrays.update(influence=np.ones((2, 2)))),
        damaged(lambda arrays: arrays.update(influence=np.ones(3))),
        damaged(lambda arrays: arrays.update(influence=np.array(["a"] * 6).reshape(3, 2))),
        damaged(lambda arrays: arrays.update(examples=np.array([1, 2]))),
        damaged(lambda arrays: arrays.update(examples=np.array(10**12))),
        damaged(lambda arrays: arrays.update(members=-PAIRS - 1)),
        damaged(lambda arrays: arrays.update(members=PAIRS.astype(np.int64))),
        damaged(lambda arrays: arrays.update(members=PAIRS[:, :3])),
        damaged(lambda arrays: arrays.update(members=PAIRS + 10**9)),
        damaged(lambda arrays: arrays.update(influence=np.array([[{}, {}]] * 3, dtype=object))),
    ],
)
def test_a_file_of_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever NumPy says of it
        ExampleOutcomes.from_bytes(content)
