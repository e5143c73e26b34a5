"""Range tests that a study keeps, of configurations that leave their learning rate to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hpo.study.space import LEARNING_RATE
from hpo.study.task import Params
from hpo.study.training import NOT_OF_RANGE_TESTS

PREFIX = "range_test "  # of the study attributes that hold them


def range_test_key(params: Params) -> str:
    """Returns the name of the study attribute that holds the range test of a configuration: of what it may go by."""
    without = {LEARNING_RATE, *NOT_OF_RANGE_TESTS}
    return PREFIX + json.dumps({name: params[name] for name in params if name not in without}, sort_keys=True)


def read_range_tests(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the range tests that a study's attributes hold, as `describe_curve` in lr_curve.py has described them."""
    return [kept for key, kept in attributes.items() if key.startswith(PREFIX) and is_range_test(kept)]


def is_range_test(kept: Any) -> bool:
    """Says whether an attribute holds a range test."""
    keys = {"optimizer": str, "rates": list, "losses": list, "optima": list, "mean": float}
    return isinstance(kept, dict) and all(isinstance(kept.get(key), kind) for key, kind in keys.items())
