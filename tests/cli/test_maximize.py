"""A metric of which more is better: every table, sentence, figure and stored number says it as it is."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection

from hpo.analysis.confirmation import read_confirmations
from hpo.analysis.effects import read_importances
from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials
from hpo.storage.studies import create_study, read_card, read_definition
from hpo.workers.status import read_status
from tests.program import hpo, hpo_in_one_process

SCORE = """
import random


def score(params, seed):
    noise = random.Random(seed).gauss(0, 0.002)
    for stage in (0.5, 0.8, 1.0):
        yield stage * (0.9 - (params["x"] - 0.3) ** 2) + noise
"""
STUDY = """
title = "Accuracies"
[task]
name = "score.py:score"
metric = "accuracy"
direction = "maximize"
low = 0.0
high = 1.0
steps = 3
[protocol]
rounds = 4
[sampler]
name = "tpe"
n_startup_trials = 5
[pruner]
name = "percentile"
percentile = 25.0
n_startup_trials = 4
[space]
x = { low = 0.0, high = 1.0 }
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maximized")
    (folder / "score.py").write_text(SCORE)
    (folder / "score.toml").write_text(STUDY)
    run("optimize", "--study", "score.toml", "--trials", "30", "--workers", "1", folder=folder)
    return folder


def run(*arguments: str, folder: Path) -> str:
    done = hpo_in_one_process(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def read(folder: Path, *arguments: str) -> Any:
    return json.loads(hpo_in_one_process(*arguments, "--json", folder=folder).stdout)


def test_the_best_is_the_highest_everywhere(searched: Path) -> None:
    opened = open_storage(f"sqlite:///{searched}/hpo.db")
    trials = [trial for trial in read_trials(opened, "score") if trial.state.name == "COMPLETE"]
    highest = max(trials, key=lambda trial: trial.value or 0.0)
    assert 0.88 < (highest.value or 0.0) < 0.91
    best = read(searched, "best", "--study", "score")
    assert (best["trial"], best["value"], best["direction"]) == (highest.number, highest.value, "maximize")
    said = run("best", "--study", "score", folder=searched)
    assert re.search(rf"trial {highest.number} has the highest accuracy, 0\.(89|90)\d\d ± 0\.00\d\d \(mean", said)
    status = read_status(opened, "score")
    assert status.best is not None
    assert status.best["trial"] == highest.number
    assert read_trials(opened, "score", best=2)[0].number == highest.number


def test_the_search_and_its_pruner_go_for_more(searched: Path) -> None:
    study = optuna.load_study(study_name="score", storage=open_storage(f"sqlite:///{searched}/hpo.db"))
    assert study.direction is StudyDirection.MAXIMIZE
    whole = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert max(t.intermediate_values[1] for t in pruned) < max(t.intermediate_values[1] for t in whole)
    later = [trial.params["x"] for trial in study.trials[15:]]
    assert sum(abs(x - 0.3) < 0.25 for x in later) > len(later) / 2


def test_trials_are_listed_as_they_are(searched: Path) -> None:
    assert "trial state accuracy s configuration" in run("trials", "--study", "score", folder=searched)
    rows = list(csv.DictReader(hpo("trials", "--study", "score", "--csv", folder=searched).stdout.splitlines()))
    assert all(0 < float(row["round 0"]) <= 1 for row in rows if row["state"] == "COMPLETE")


def test_fresh_rounds_say_by_how_much_the_figure_was_too_good(searched: Path) -> None:
    said = run("confirm", "--study", "score.toml", "--top", "3", "--rounds", "20", folder=searched)
    found = read(searched, "confirm", "--study", "score.toml", "--top", "3", "--rounds", "20")
    for one in found["confirmed"]:
        assert one["optimism"] == pytest.approx(one["searched"] - one["mean"])
        assert 0.8 < one["low"] < one["mean"] < one["high"] <= 1
    assert f"too {'optimistic' if found['confirmed'][0]['optimism'] > 0 else 'pessimistic'}" in said
    opened = open_storage(f"sqlite:///{searched}/hpo.db")
    (confirmation,) = read_confirmations(opened, "score")
    significant = [contrast for contrast in confirmation.contrasts if contrast.is_significant]
    assert significant  # a round's noise is the same for all
    for contrast in significant:
        word = "worse" if contrast.difference.estimate < 0 else "better"
        assert f"{contrast.second} is {word} than {contrast.first}" in said


def test_the_report_draws_and_says_it(searched: Path) -> None:
    run("report", "--study", "score", "-o", "report", folder=searched)
    page = (searched / "report" / "score.md").read_text()
    assert re.search(r"Highest accuracy: 0\.(89|90)", page)
    assert "| trial | accuracy |" in page
    assert read_importances(open_storage(f"sqlite:///{searched}/hpo.db"), "score").shares == {} or "x" in page


def test_a_study_of_the_other_direction_is_not_joined(searched: Path) -> None:
    opened = open_storage(f"sqlite:///{searched}/hpo.db", write=True)
    card, definition = read_card(opened, "score"), read_definition(opened, "score")
    turned = card.model_dump(mode="json")
    turned["metrics"][0]["maximize"] = False
    attributes = {"definition": definition.model_dump(mode="json"), "card": turned}
    with pytest.raises(Exception, match="was not made by hpo"):
        create_study(opened, "score", attributes, 40)
