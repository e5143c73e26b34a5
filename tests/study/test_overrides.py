"""Settings that a command changes: what they come to, and how the study is called whose own they are."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo.errors import RequestError
from hpo.study.catalog import load_study
from hpo.study.overrides import Override, parse_override

MEDIAN = """
title = "Mine"
[task]
name = "mine.py:f"
low = 0.0
steps = 9
[pruner]
name = "median"
n_startup_trials = 3
[space]
degree = { low = 1, high = 9 }
a = { low = 0.0, high = 1.0 }
b = { low = 0.0, high = 1.0 }
kind = ["x", "y"]
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(MEDIAN)
    return str(tmp_path / "mine.toml")


def named(study: str, *overrides: Override) -> str:
    return load_study(study, overrides)[0]


@pytest.mark.parametrize(
    ("key", "value", "end"),
    [
        ("protocol.seed", 1, "-seed-1"),
        ("protocol.rounds", 3, "-3-rounds"),
        ("space.architecture", "fnn", "-architecture-fnn"),
        ("space.architecture", ["fnn", "cnn"], "-architecture-fnn-cnn"),
        ("space.learning_rate", 0.1, "-learning_rate-0.1"),
        ("space.learning_rate", {"low": 0.1, "high": 1}, "-low-0.1-log-false"),
        ("space.activation", "relu", "-activation-relu"),
        ("space.elu_alpha", 1.0, "-elu_alpha-1.0"),
        ("sampler.name", "random", "-random"),
        ("sampler.n_startup_trials", 3, "-n_startup_trials-3"),
        ("pruner.name", "none", "-none"),
        ("task.dataset", "mnist", "-mnist"),
        ("training.epochs", 20, "-epochs-20"),
        ("run.max_failed_trials", 3, ""),
        ("title", "Another", ""),
    ],
)
def test_a_study_is_called_by_what_differs(key: str, value: Any, end: str) -> None:
    assert named("quickstart", (key, value)) == f"quickstart{end}"


def test_different_studies_have_different_names_and_equal_ones_the_same(mine: str) -> None:
    percentile, three = ("pruner.name", "percentile"), ("pruner.n_startup_trials", 3)
    assert named(mine, percentile) == "mine-percentile"
    assert named(mine, percentile, three) == "mine-percentile-pruner-n_startup_trials-3"
    assert named(mine, percentile, ("pruner.n_startup_trials", 5)) == "mine-percentile"
    assert named(mine, ("space.a.low", 0.5)) == "mine-a-low-0.5"
    assert named(mine, ("space.b.low", 0.5)) == "mine-b-low-0.5"
    assert named(mine, ("space.a.high", 2)) == named(mine, ("space.a.high", 2.0)) == "mine-a-high-2"
    assert named(mine, ("space.a.low", -1)) != named(mine, ("space.a.low", 1), ("space.a.high", 1))
    assert named("quickstart", ("space.auxiliary_loss", True)) == "quickstart"
    assert named(mine, ("space", {"a": {"low": 0.0, "high": 1.0}, "b": 1})).endswith("-without-degree-without-kind")


def test_the_order_in_which_settings_are_given_says_nothing(mine: str) -> None:
    overrides: list[Override] = [("sampler.n_startup_trials", 3), ("sampler.name", "gp"), ("protocol.seed", 1)]
    found = [load_study(mine, order) for order in permutations(overrides)]
    assert {name for name, _ in found} == {"mine-seed-1-gp-sampler-n_startup_trials-3"}
    assert {definition.sampler.model_dump()["n_startup_trials"] for _, definition in found} == {3}


def test_a_range_of_whole_numbers_becomes_one_of_floats(mine: str) -> None:
    definition = load_study(mine, [("space.degree.low", 0.5)])[1]
    assert definition.space["degree"].values == (0.5, 9.0)


DEEP = """
title = "Deep"
[task]
name = "digit_pairs"
dataset = "digits"
[space]
architecture = "deep_cnn"
width = 4
weight_sharing = true
auxiliary_loss = true
activation = "relu"
optimizer = "sgd"
momentum = 0.9
learning_rate = 0.1
"""


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("architecture", '"deep_cnn"', '["deep_cnn", "cnn"]'),
        ("architecture", '"deep_cnn"', '"residual"'),
        ("optimizer", '"sgd"', '["sgd", "rmsprop"]'),
        ("optimizer", '"sgd"', '"rmsprop"'),
    ],
)
def test_a_setting_comes_to_what_the_file_would_with_it(key: str, before: str, after: str, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(DEEP)
    (tmp_path / "edited.toml").write_text(DEEP.replace(f"{key} = {before}", f"{key} = {after}"))
    override = parse_override(f"space.{key}={after}")
    name, definition = load_study(str(tmp_path / "deep.toml"), [override])
    assert definition == load_study(str(tmp_path / "edited.toml"))[1]
    assert name == f"deep-{key}-{'-'.join(np.atleast_1d(override[1]))}"


def test_numbers_of_numpy_are_numbers(mine: str) -> None:
    name, definition = load_study(mine, [("protocol.seed", np.int64(3)), ("space.a.low", np.float32(0.5))])
    assert name == "mine-seed-3-a-low-0.5"
    assert definition.protocol.seed == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampler=random", "--set needs a key with a point: --sampler random, as in"),
        ("pruner=none", "--set needs a key with a point: --pruner none, as in"),
        ("dataset=digits", "--set needs a key with a point: --dataset digits, as in"),
        ("title=Mine", "--set needs a key with a point, but 'title' has none, as in"),
        ("seed=1", "--set protocol.seed=1, as in"),
        ("popsize=8", "--set sampler.popsize=8, as in"),
        ("max_resource=8", "--set pruner.max_resource=8, as in"),
        ("degree=3", "--set space.degree=3, as in"),
    ],
)
def test_a_key_without_a_point_is_told_where_it_belongs(text: str, said: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_override(text)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([parse_override("space.kind=2020-01-01")], "space.kind must be a number, a text, true or false, a list or"),
        (
            [("protocol.seed", {3})],
            "protocol.seed must be a number, a text, true or false, a list or table, but",
        ),
        ([("protocol.seed", np.arange(2))], "protocol.seed must be a number"),
        ([(3, 3)], "settings must be named by texts, as 'protocol.seed', but one is by 3"),
        ([("protocol.rounds", 5), ("protocol.rounds", 7)], "protocol.rounds is to be 5 and 7; give it once"),
        ([("sampler", {"name": "gp"}), ("sampler.name", "tpe")], "sampler.name is to be 'gp' and 'tpe'; give it once"),
        ([("task.dataset", "digits")], "study 'mine': task.dataset cannot be set, for its task has no dataset"),
        ([("space", 3)], "space must be a table"),
    ],
)
def test_what_cannot_be_set_is_one_line(overrides: list[Any], said: str, mine: str) -> None:
    with pytest.raises(RequestError) as raised:
        load_study(mine, overrides)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
