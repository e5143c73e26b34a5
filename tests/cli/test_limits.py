"""Whatever number a user types, in a study's file or a command, is refused in one line or can be worked with."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hpo import limits
from hpo.cli.arguments import Number, WholeNumber
from hpo.cli.main import main
from hpo.errors import StudyError
from hpo.study.definition import Protocol, read_study
from hpo.study.run import Run
from hpo.study.training import Training
from hpo.tasks.digit_pairs.task import DigitPairs
from tests.conftest import LISTED_STUDY, SMALL_STUDY, defined
from tests.program import commands

NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    0.5,
    1e308,
    -1e308,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
    10**30,
    -(10**30),
    "1e3",
    "",
    True,
    [],
    {},
)
IMPOSSIBLE: tuple[Any, ...] = (-1, 1e308, -1e308, math.inf, -math.inf, math.nan, 10**30, -(10**30), "1e3", "", [], {})
TRAINING = {**SMALL_STUDY["training"], "epochs": 3, "evaluate_at": [1, 2]}
PRUNERS: list[dict[str, Any]] = [
    {"name": "percentile", "percentile": 50.0},
    {"name": "power_law"},
    {"name": "successive_halving"},
]


def whole(table: dict[str, Any]) -> dict[str, Any]:
    """Returns a study's table with every default filled in."""
    found = defined({**table, "run": {"trial_timeout_seconds": 60.0}}, name="x").model_dump(mode="json")
    return {key: value for key, value in found.items() if value}


def numbers(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the way to every number in a table."""
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        if isinstance(value, dict | list):
            yield from numbers(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key)


SHARE = {"auxiliary_share": {"low": 0.0, "high": 1.0}}
TABLES = [
    *(whole({**SMALL_STUDY, "training": TRAINING, "pruner": pruner}) for pruner in PRUNERS),
    whole({**SMALL_STUDY, "space": {**SMALL_STUDY["space"], **SHARE, "learning_rate": [0.1, 0.2]}}),
    whole(LISTED_STUDY),
]
PLACES = {path: table for table in TABLES for path in numbers(table)}


def changed(table: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    table = copy.deepcopy(table)
    inner: Any = table
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return table


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_a_number_of_a_study_is_refused_in_one_line_that_names_it_or_is_finite(path: tuple[Any, ...]) -> None:
    for value in NUMBERS:
        said = complaint(changed(PLACES[path], path, value))
        if said is None:
            assert repr(value) not in map(repr, IMPOSSIBLE), f"{path} = {value!r} was accepted"
        else:
            assert said.startswith("study 'x': ")
            assert "\n" not in said
            assert len(said) < 300
            assert any(str(key) in said for key in path if key != "choices")


def complaint(table: dict[str, Any]) -> str | None:
    """Returns what is wrong with a study's table; None where it can be worked with, and comes back from its JSON."""
    try:
        definition = defined(table, name="x")
    except StudyError as error:
        return str(error)
    assert defined(json.loads(json.dumps(definition.model_dump(mode="json"))), name="x") == definition
    return None


def test_every_number_of_a_study_was_tried() -> None:
    tried = {str(path[-1]) for path in PLACES}
    for table in (DigitPairs, Training, Protocol, Run):
        kinds = {name: str(field.annotation) for name, field in table.model_fields.items()}
        assert {name for name, kind in kinds.items() if "'int'" in kind or "'float'" in kind} <= tried
    assert {"low", "high", "margin", "percentile", "n_ei_candidates", "reduction_factor", "learning_rate"} <= tried


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        ("1" + "0" * 5000, "cannot be read: Exceeds the limit"),
        ("0x" + "f" * 5000, "cannot be read: Exceeds the limit"),
        ("[" * 5000 + "]" * 5000, "cannot be read: "),
        ("1e400", "protocol.rounds must be a whole number, but is inf"),
        ("0x7fffffffffffffff", "protocol.rounds must be at most 10000, but is 9223372036854775807"),
        ("2024-01-01", "protocol.rounds must be a whole number, but is datetime.date(2024, 1, 1)"),
    ],
    ids=["decimal", "hexadecimal", "lists", "float", "largest", "date"],
)
def test_a_number_that_no_program_can_hold_is_one_line(tmp_path: Path, number: str, complaint: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'title = "x"\n[task]\nname = "digit_pairs"\ndataset = "digits"\n[protocol]\nrounds = {number}\n')
    with pytest.raises(StudyError) as raised:
        read_study(file)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("choices", "twice"),
    [
        ({"optimizer": ["sgd", "adam", "sgd"]}, "space.optimizer: its values must differ, but 'sgd' stands twice"),
        ({"learning_rate": [1, 0.1, 1.0]}, "space.learning_rate: its values must differ, but 1.0 stands twice"),
        ({"learning_rate": [0.1, 1e-1]}, "space.learning_rate: its values must differ, but 0.1 stands twice"),
        ({"weight_sharing": [True, True]}, "space.weight_sharing: its values must differ, but True stands twice"),
        ({"architecture": {"choices": ["fnn", "fnn"]}}, "space.architecture: its values must differ, but 'fnn' stands"),
        (
            {"weight_sharing": [True, 1]},
            "space.weight_sharing: its values must not be truth values and numbers",
        ),
        ({"architecture": []}, "space.architecture must name at least one value, but is []"),
        ({"learning_rate": {"low": 1e-300, "high": 1e300, "log": True}}, "space.learning_rate must be at least 1e-30"),
        ({"learning_rate": [0.1, 1e300]}, "space.learning_rate must be at most 1e+09, but is 1e+300"),
        ({"elu_alpha": 1e300}, "space.elu_alpha must be at most 1e+09, but is 1e+300"),
    ],
)
def test_values_that_cannot_be_are_named(choices: dict[str, Any], twice: str) -> None:
    with pytest.raises(StudyError) as raised:
        defined({**SMALL_STUDY, "space": {**SMALL_STUDY["space"], **choices}}, name="x")
    assert twice in str(raised.value)


def test_a_listed_rate_has_the_limits_of_a_space() -> None:
    for rate in (limits.SMALLEST / 2, limits.LARGEST * 2, 1e308, math.nan, -1, True):
        with pytest.raises(StudyError, match=r"(must be .*, but is .*; 'range_test' finds one|a finite number)"):
            defined(changed(whole(LISTED_STUDY), ("trial", 0, "params", "learning_rate"), rate), name="x")


OPTIONS = [
    (command.name, option)
    for command in commands().values()
    for option in command.params
    if isinstance(option.type, WholeNumber | Number) or option.name == "workers"
]
TYPED = ("0", "-1", "1e308", "-1e308", "inf", "nan", "1" + "0" * 30, "0.5", "1e3", "", "9" * 5000, "0x10", "１e３")


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_a_number_on_the_command_line_has_limits_and_is_refused_in_one_line(
    command: str, option: click.Parameter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = ["--study", "quickstart"] if command in ("optimize", "confirm", "drift", "export", "ablate") else []
    more = {"optimize": ["--trials", "1"], "export": ["-o", "x"], "ablate": ["--from", "cnn"]}.get(command, [])
    if option.name != "workers":
        assert isinstance(option.type, WholeNumber | Number)
        assert option.type.least <= option.type.most < math.inf
    for typed in TYPED:
        if option.name != "workers" and can_be(option, typed):
            continue
        done = CliRunner().invoke(main, [command, *study, *more, option.opts[0], typed])
        assert done.exit_code == 2, (typed, done.output, done.exception)
        assert len(done.stderr.strip().splitlines()) == 1
        assert option.opts[0] in done.stderr
    assert list(tmp_path.iterdir()) == []


def can_be(option: click.Parameter, typed: str) -> bool:
    try:
        option.type.convert(typed, None, None)
    except click.BadParameter:
        return False
    return True


def test_every_command_with_a_number_was_tried() -> None:
    for command in commands().values():
        for option in command.params:
            assert not isinstance(option.type, click.types.IntParamType | click.types.FloatParamType), option.name
    assert {command for command, _ in OPTIONS} >= {
        *("optimize", "confirm", "drift", "worker", "lr-find", "reproduce", "export", "dashboard")
    }
