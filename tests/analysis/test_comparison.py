"""Comparisons are those of SciPy on the same errors, under the names that the user gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hpo import Study
from hpo.cli.read.compare import comparison_json
from hpo.errors import RequestError, StorageError, UnknownName, WorkError
from tests.program import assert_one_line, hpo, hpo_in_one_process

NOISE = """
import random


def f(params, seed):
    return params["x"] + random.Random(seed).gauss(0, 1) + random.Random(f"{seed} {params['x']}").gauss(0, 0.5)
"""
HEAD = """
title = "Three"
[task]
name = "noise.py:f"
DIRECTION
[protocol]
rounds = 8
"""
LABELS = {"theirs": 11.0, "mine": 10.0, "another": 10.1}


def run(folder: Path, *arguments: str) -> str:
    done = hpo_in_one_process(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module", params=["minimize", "maximize"])
def listed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    (folder / "noise.py").write_text(NOISE)
    head = HEAD.replace("DIRECTION", f'direction = "{request.param}"')
    for name, labels in (("three", ["theirs", "mine", "another"]), ("two", ["theirs", "mine"])):
        trials = (f'[[trial]]\nlabel = "{label}"\n[trial.params]\nx = {LABELS[label]}\n' for label in labels)
        (folder / f"{name}.toml").write_text(head + "".join(trials))
    (folder / "search.toml").write_text(head + "[space]\nx = { low = 9.0, high = 12.0 }\n")
    return folder


def test_a_comparison_is_scipys_on_the_same_errors(listed: Path) -> None:
    said = run(listed, "optimize", "three", "--workers", "1")
    found: dict[str, Any] = json.loads(hpo("compare", "three", "--json", folder=listed).stdout)
    errors = {one["name"]: one["errors"] for one in found["compared"]}
    sign = -1 if found["direction"] == "maximize" else 1
    assert [one["name"] for one in found["compared"]] == sorted(errors, key=lambda name: sign * sum(errors[name]))
    corrected = _by_the_book(errors)
    for contrast in found["contrasts"]:
        test = stats.ttest_rel(errors[contrast["second"]], errors[contrast["first"]])
        reach = test.confidence_interval()
        assert contrast["p_value"] == pytest.approx(corrected[frozenset((contrast["first"], contrast["second"]))])
        assert (contrast["low"], contrast["high"]) == pytest.approx((reach.low, reach.high))
        assert contrast["is_significant"] == (contrast["p_value"] < 0.05)
    best = found["compared"][0]["name"]
    assert f"study three: {best} is better than" in said
    for label in LABELS:
        assert label in said


def _by_the_book(errors: dict[str, list[float]]) -> dict[frozenset[str], float]:
    """Goes through all signs: how often the largest t of all pairs is as large as a pair's own."""
    pairs = list(combinations(errors, 2))
    differences = [np.subtract(errors[one], errors[other]) for one, other in pairs]

    def largest(signs: Sequence[int]) -> list[float]:
        flipped = [np.multiply(signs, by) for by in differences]
        return [abs(by.sum()) / np.sqrt(len(by) * np.square(by).sum()) for by in flipped]

    observed = largest([1] * len(differences[0]))
    of_all = [max(largest(signs)) for signs in product((1, -1), repeat=len(differences[0]))]
    shares = [np.mean([one >= own - 1e-12 for one in of_all]) for own in observed]
    return {frozenset(pair): float(share) for pair, share in zip(pairs, shares, strict=True)}


def test_two_are_answered_in_a_sentence(listed: Path) -> None:
    said = run(listed, "optimize", "two", "--workers", "1")
    better, worse = ("mine", "theirs") if "minimize" in (listed / "two.toml").read_text() else ("theirs", "mine")
    assert f"study two: {better} is better than {worse}, by " in said
    assert said.startswith(run(listed, "compare", "two"))
    assert f"{better} is better than {worse}, by" in run(listed, "compare", "--study", "two.toml", "mine", "theirs")
    run(listed, "report", "two", "-o", "report")
    page = (listed / "report" / "two.md").read_text()
    assert page.index(f"{better} is better than {worse}, by") < page.index(
        "## Errors" if "## Errors" in page else "##", 9
    )


def test_a_search_is_compared_with_what_it_says_of_its_choice(listed: Path) -> None:
    run(listed, "optimize", "search", "--trials", "4", "--workers", "1")
    said = run(listed, "compare", "search")
    assert "The best of many noisy results looks better than it is (selection bias)" in said
    assert "trial 0" in run(listed, "compare", "search", "0", "trial 3")
    run(listed, "confirm", "search", "--rounds", "6", "--top", "2", "--workers", "1")
    fresh = run(listed, "compare", "search")
    assert "6 fresh rounds" in fresh
    assert "selection bias" not in fresh
    headline = json.loads(hpo("confirm", "search", "--rounds", "6", "--top", "2", "--json", folder=listed).stdout)
    first = f"trial {headline['confirmed'][0]['trial']}"
    best = json.loads(hpo("compare", "search", "--json", folder=listed).stdout)["compared"][0]["name"]
    warned = f"{first} was first in the study; picking a different one now is a new selection" in fresh
    assert warned == (best != first)
    run(listed, "optimize", "search", "--trials", "40", "--workers", "1")
    assert json.loads(hpo("best", "search", "--json", folder=listed).stdout)["confirmed"] is None
    later = run(listed, "compare", "search")  # one of an earlier best says nothing of the best by now
    assert "fresh rounds (" not in later
    assert "hpo confirm search --allow noise.py:f compares the best on fresh rounds" in later


def test_a_list_is_confirmed_under_its_labels(listed: Path) -> None:
    run(listed, "optimize", "three", "--workers", "1")
    said = run(listed, "confirm", "three", "--rounds", "6", "--workers", "1")
    best, *_ = (one["name"] for one in json.loads(hpo("compare", "three", "--json", folder=listed).stdout)["compared"])
    assert said.startswith(f"study three: {best}, the list's best: ")
    assert "trial" not in said
    assert "mine and another do not differ" in said or "another and mine do not differ" in said


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "noise.py").write_text(NOISE)
    trials = (f'[[trial]]\nlabel = "{label}"\n[trial.params]\nx = {x}\n' for label, x in (("1", 10.0), ("0", 13.0)))
    (tmp_path / "widths.toml").write_text(HEAD.replace("DIRECTION", "") + "".join(trials))
    run(tmp_path, "optimize", "widths", "--workers", "1")
    assert "study widths: 1 is better than 0, by" in run(tmp_path, "compare", "widths", "0", "1")


COMPLAINTS = {
    ("three", "mine", "their"): "no configuration named 'their'; did you mean 'theirs'?",
    ("three", "mine"): "name two to compare, or none, but there is 'mine' alone",
    ("three", "mine", "mine"): "'mine' is named twice",
    ("search", "best", "other"): "a search's trials are named by their numbers, as in 3 7, but not as 'best'",
    ("nothing",): "no study named 'nothing'",
    (): "name a study, as in hpo compare quickstart",
}


@pytest.mark.parametrize("listed", ["minimize"], indirect=True)
def test_what_cannot_be_compared_is_one_line(listed: Path) -> None:
    run(listed, "optimize", "three", "--workers", "1")
    run(listed, "optimize", "search", "--trials", "4", "--workers", "1")
    for words, complaint in COMPLAINTS.items():
        done = hpo("compare", *words, folder=listed)
        assert_one_line(done, done.returncode, complaint)
        assert done.returncode != 0


def listed_of(values: dict[str, float | None], rounds: int, **settings: Any) -> Study:
    """A list that is measured, but for what has no value."""

    def measured(params: dict[str, Any], seed: int) -> float:
        return float(params["x"]) + seed % 97 / 1000 if params["x"] >= 0 else 1 / 0

    listed = {label: {"x": -1.0 if value is None else value} for label, value in values.items()}
    study = Study(measured, configurations=listed, name="of", rounds=rounds, settings=settings)
    with suppress(WorkError):
        study.optimize(progress=False)
    return study


def test_what_is_not_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = listed_of({"A": 1.0, "B": None, "C": 3.0}, 4)
    assert str(study.compare()).endswith(", 4 rounds; 1 of 3 is not measured)")
    assert comparison_json(study.compare())["missing"] == ["B"]
    assert "not measured" not in str(study.compare("A", "C"))
    with pytest.raises(StorageError, match="study 'of': 'B' is not measured yet; hpo status"):
        study.compare("A", "B")
    with pytest.raises(UnknownName, match="no configuration named 'D'"):
        study.compare("A", "D")
    number = study.compare().compared[0].trial
    with pytest.raises(RequestError, match=f"trial {number} is named twice, as 'A' and '{number}'; name two"):
        study.compare("A", number)


def test_without_a_test_there_is_no_p_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = listed_of({"A": 1.0, "B": 2.0}, 2).compare()
    assert [(one.p_value, one.is_significant) for one in found.contrasts] == [(None, False)]
    assert json.loads(json.dumps(comparison_json(found)))["contrasts"][0]["p_value"] is None


def test_two_best_of_a_search_are_two_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study(
        lambda params, seed: float(params["x"]),
        space={"x": [1, 2, 3]},
        name="again",
        rounds=3,
        sampler="random",
        settings={"run.repeat_configurations": True},
    ).optimize(12, progress=False)
    assert len({one.params["x"] for one in study.compare().compared}) == 2
    for names in (("0", "00"), ("3", "trial 3"), ("3", "3")):
        with pytest.raises(RequestError, match="is named twice"):
            study.compare(*names)
