"""The configuration of which most can be expected: luck counts for less, and noise is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from optuna.storages import RDBStorage

from hpo.analysis.expected import Surrogate, as_trial, read_expected
from hpo.analysis.fresh_rounds import EXPECTED, define_confirmation, name_of
from hpo.cli.read.best import expected_view
from hpo.errors import RequestError, StorageError
from hpo.study.space import Choices, FloatRange, Space
from tests.analysis.test_confirmation import add
from tests.conftest import LISTED_STUDY, SMALL_STUDY, create, defined

SPACE: Space = {
    "kind": Choices(choices=("a", "b")),
    "rate": FloatRange(low=1e-4, high=1.0, log=True),
    "share": FloatRange(low=0.0, high=1.0),
}


def truth(params: Any) -> Any:
    return 1.0 + (params["kind"] == "b") * 0.4 + 0.5 * (math.log10(params["rate"]) + 2) ** 2 + 0.1 * params["share"]


def test_its_intervals_hold_what_is_true() -> None:
    held = []
    for seed in range(6):
        random = np.random.default_rng(seed)
        known: list[dict[str, Any]] = [
            {"kind": "ab"[int(random.integers(2))], "rate": 10 ** random.uniform(-4, 0), "share": random.random()}
            for _ in range(40)
        ]
        errors = np.full(len(known), 0.1)
        model = Surrogate(SPACE, known)
        model.fit(np.array([truth(one) for one in known]) + random.normal(0, errors), errors)
        means, deviations = model.predict(known)
        held += [abs(truth(one) - mean) <= 2 * sd for one, mean, sd in zip(known, means, deviations, strict=True)]
    assert np.mean(held) >= 0.9


def searched(opened: RDBStorage, errors: dict[float, list[float]]) -> None:
    create(opened, "small", defined(SMALL_STUDY, name="small"), 40)
    for rate, of_rounds in errors.items():
        add(opened, "small", rate, of_rounds)


def test_a_lucky_trial_among_worse_ones_is_not_what_is_expected(fresh_storage: RDBStorage) -> None:
    rates = np.geomspace(0.01, 0.5, 15)
    errors = {float(rate): 3 + 20 * (math.log10(rate) + 1.5) ** 2 for rate in rates}  # lowest near 0.03
    of_rounds = {rate: [error - 0.3, error, error + 0.3] for rate, error in errors.items()}
    lucky = float(rates[-4])
    of_rounds[lucky] = [0.0, 1.0, 8.0]  # a mean of 3.0, by chance
    searched(fresh_storage, of_rounds)
    found = read_expected(fresh_storage, "small")
    assert abs(math.log10(found.params["learning_rate"]) + 1.5) < 0.3
    assert (found.trials, found.whole) == (15, 15)
    low, high = found.error.low, found.error.high
    assert low is not None
    assert high is not None
    assert low < found.error.estimate < high < 4
    assert found == read_expected(fresh_storage, "small")
    assert "one of 90 %" in " ".join(expected_view(found)[-1])


def test_it_is_confirmed_beside_the_best(fresh_storage: RDBStorage) -> None:
    rates = np.geomspace(0.01, 0.5, 12)
    searched(fresh_storage, {float(rate): [2 + rate, 2.2 + rate, 2.4 + rate] for rate in rates})
    expected = as_trial(fresh_storage, read_expected(fresh_storage, "small"))
    _, definition, confirms = define_confirmation(fresh_storage, "small", top=2, rounds=6, others=[expected])
    if expected.number == EXPECTED:
        assert name_of(expected, ()) == "expected"
        assert [entry.label for entry in definition.trial][-1] == "expected"
        assert confirms["trials"][-1] == EXPECTED
    assert definition.trial[-1].params == expected.params


def test_too_few_trials_say_so_and_a_list_has_nothing_to_expect(fresh_storage: RDBStorage) -> None:
    searched(fresh_storage, {0.1: [2.0, 2.1, 2.2]})
    with pytest.raises(StorageError, match="has 1 trial that was measured to the end, but it takes 10"):
        read_expected(fresh_storage, "small")
    create(fresh_storage, "listed", defined(LISTED_STUDY, name="listed"), 2)
    with pytest.raises(RequestError, match="lists its trials"):
        read_expected(fresh_storage, "listed")


def test_one_round_a_trial_does_not_say_how_far_a_trial_may_be_off(fresh_storage: RDBStorage) -> None:
    create(fresh_storage, "small", defined({**SMALL_STUDY, "protocol": {"rounds": 1}}, name="small"), 20)
    for place in range(12):
        add(fresh_storage, "small", 0.05 * (place + 1), [2.0])
    with pytest.raises(RequestError, match="has one round a trial"):
        read_expected(fresh_storage, "small")
