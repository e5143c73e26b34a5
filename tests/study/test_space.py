"""Conditions of a space."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import StudyError
from hpo.study.definition import define_study
from hpo.study.space import is_there


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
