"""A small part of what `benchmarks.images_and_looks` measures."""

from __future__ import annotations

import pytest

from benchmarks.images_and_looks import FLIPS, coverage, false_alarms
from hpo.analysis import sign_flips

AGREE = "agree on images"


@pytest.mark.parametrize("number", [5, 30])
def test_an_interval_on_new_images_holds_where_one_on_these_does_not(number: int) -> None:
    found = {name: held / of for name, (held, of) in coverage(AGREE, number, 150).items()}
    for name in ("mean, these images", "difference, these images", "mean, new images", "difference, new images"):
        assert found[name] >= 0.89, name  # 95 %, and three standard errors of 150 studies
    assert found["mean, these images, taken for new ones"] < (0.93 if number == 5 else 0.65)


def test_ten_looks_deceive_a_p_value_and_no_e_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_flips, "PATTERNS", FLIPS)
    at_looks, always, by_p = false_alarms("normal", 300)
    assert at_looks <= always <= 0.05 * 300
    assert by_p > 0.1 * 300
