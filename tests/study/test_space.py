"""Conditions of a space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpo.errors import StudyError
from hpo.study.definition import define_study
from hpo.study.space import IntRange, in_order, is_there
from tests.conftest import SMALL_STUDY, defined
from tests.study.test_definition import changed


def test_a_condition_may_want_one_of_several_values_and_of_whole_numbers() -> None:
    table = {
        "title": "t",
        "task": {"name": "mine.py:f"},
        "space": {
            "layers": {"low": 1, "high": 3},
            "second": {"low": 1, "high": 4, "when": {"layers": [2, 3]}},
            "third": {"choices": ["a", "b"], "when": {"layers": 3}},
        },
    }
    definition = define_study(table, name="t")
    assert define_study(definition.model_dump(mode="json"), name="t") == definition
    assert definition.configurations == 1 + 4 + 4 * 2
    second, third = definition.space["second"], definition.space["third"]
    assert [is_there(second, {"layers": n}) for n in (1, 2, 3)] == [False, True, True]
    assert [is_there(third, {"layers": n}) for n in (1, 2, 3)] == [False, False, True]
    assert not is_there(second, {})


def test_numbers_of_numpy_are_as_pythons() -> None:
    int64, float32 = np.int64, np.float32
    given = {"a": {"low": int64(1), "high": int64(9), "step": int64(2)}, "b": [int64(8), float32(0.5)], "c": int64(3)}
    given |= {"d": {"low": float32(0.5), "high": int64(2)}, "e": {"low": 0.5, "high": 2.0, "when": {"a": int64(3)}}}
    plain = {"a": {"low": 1, "high": 9, "step": 2}, "b": [8, 0.5], "c": 3}
    plain |= {"d": {"low": 0.5, "high": 2}, "e": {"low": 0.5, "high": 2.0, "when": {"a": 3}}}
    found, expected = (
        define_study({"title": "t", "task": {"name": "mine.py:f"}, "space": space}, name="t")
        for space in (given, plain)
    )
    assert isinstance(found.space["a"], IntRange)
    assert found.sha256 == expected.sha256
    with pytest.raises(StudyError) as raised:
        define_study({"title": "t", "task": {"name": "mine.py:f"}, "space": {"x": np.eye(3)}}, name="t")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([], "must name a value, but names none"),
        ([2, 9], "is there only where layers is 9, which it never is"),
        ([[2]], "must be a finite number, a text, true or false"),
        (0, "is there only where layers is 0, which it never is"),
    ],
)
def test_a_condition_that_never_holds_is_refused(wanted: Any, said: str) -> None:
    space = {"layers": {"low": 1, "high": 3}, "second": {"low": 1, "high": 4, "when": {"layers": wanted}}}
    with pytest.raises(StudyError, match=said):
        define_study({"title": "t", "task": {"name": "mine.py:f"}, "space": space}, name="t")


def test_a_condition_may_name_what_has_one_that_always_holds() -> None:
    """As a depth beside the only architecture of a study, which takes one."""
    table = changed(SMALL_STUDY, "space.architecture", "fnn")
    width = {"choices": [4, 8], "when": {"depth": 2}}
    space = {"width": width, **table["space"], "depth": [1, 2]}  # chosen after what it names, wherever it stands
    definition = defined({**table, "space": space}, name="small")
    assert defined(definition.model_dump(mode="json"), name="small") == definition
    assert definition.always_has("depth")
    assert not definition.always_has("width")
    names = [name for name, _ in in_order(definition.space)]
    assert names.index("architecture") < names.index("depth") < names.index("width")
    several = changed({**table, "space": space}, "space.architecture", ["fnn", "fully_connected"])
    with pytest.raises(StudyError, match=r"'depth' is there only where architecture is 'fnn'$"):
        defined(several, name="small")
    circle = {"a": {"choices": [1], "when": {"b": 1}}, "b": {"choices": [1], "when": {"a": 1}}}
    with pytest.raises(
        StudyError, match="must name a parameter that is always there, but 'b' is there only where a is 1"
    ):
        define_study({"title": "t", "task": {"name": "mine.py:f"}, "space": circle}, name="t")


def test_all_values_that_would_do_are_named_where_none_is_there() -> None:
    with pytest.raises(StudyError, match=r"optimizer is 'sgd' or 'rmsprop', which it never is; there are: adam"):
        defined(changed(changed(SMALL_STUDY, "space.optimizer", "adam"), "space.momentum", 0.9), name="small")
