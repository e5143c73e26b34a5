"""Studies in Python: what the command line does, with functions that nobody else can import."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hpo
import hpo.api.study
from hpo.errors import HpoError, RequestError, StorageError, StudyError, UnknownName
from hpo.workers.supervisor import Supervisor
from tests.api.functions import bowl
from tests.program import clean_environment
from tests.program import hpo as run_hpo

SPACE = {"x": {"low": 0.0, "high": 1.0}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HPO_STORAGE", "HPO_STORAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def quietly(study: hpo.Study, trials: int | None = None, **how: Any) -> hpo.Study:
    return study.optimize(trials, progress=False, **how)


def test_the_examples_of_its_docstrings_hold() -> None:
    done = doctest.testmod(hpo.api.study)
    assert (done.failed, done.attempted > 3) == (0, True)


def test_a_study_is_that_of_the_command_line(here: Path) -> None:
    study = quietly(hpo.Study(bowl, space=SPACE, rounds=5), 12)
    best = json.loads(run_hpo("best", "bowl", "--json", folder=here).stdout)
    assert (study.best().trial, study.best().value) == (best["trial"], best["value"])
    assert study.trials() == hpo.load_results("bowl")
    assert study.confirm(top=2, rounds=6, progress=False).rounds == 6
    assert str(study.compare()) == " ".join(run_hpo("compare", "bowl", folder=here).stdout.split("\n\n")[0].split())
    assert study.report("report").read_text().startswith("<!doctype html>")
    assert len(quietly(hpo.Study(bowl, space=SPACE, rounds=5), 14).trials()) == 14
    more = run_hpo("optimize", "bowl", "--trials", "15", "--workers", "1", folder=here)
    assert "--allow tests.api.functions:bowl" in more.stderr


def test_several_workers_take_a_function_that_they_can_import() -> None:
    study = quietly(hpo.Study(bowl, space=SPACE, rounds=3), 8, workers=2)
    trials = study.trials()
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 8
    with pytest.raises(RequestError, match=r"2 workers are processes of their own, which cannot import"):
        quietly(hpo.Study(lambda params, seed: 1.0, space=SPACE, name="lambda"), 2, workers=2)


def ab(factor: float) -> hpo.Study:
    listed = {"low": {"x": 1.0}, "high": {"x": 2.0}}
    return hpo.Study(lambda params, seed: factor * params["x"] + seed % 7, configurations=listed, name="ab", rounds=6)


def test_a_lambda_is_measured_here_and_a_changed_one_is_another_study() -> None:
    quietly(ab(1.0))
    assert str(ab(1.0).compare()).startswith("study ab: low is better than high, by 1")
    assert ab(1.0).compare("high", "low").compared[0].name == "low"
    with pytest.raises(StudyError, match="created with other code: python_session:function differs"):
        quietly(ab(2.0))


class Scaled:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, params: dict[str, Any], seed: int) -> float:
        return float(params["x"]) * self.factor

    def method(self, params: dict[str, Any], seed: int) -> float:
        return float(params["x"]) * self.factor


@pytest.mark.parametrize(
    "make",
    [
        lambda factor: Scaled(factor),
        lambda factor: Scaled(factor).method,
        lambda factor: partial(lambda params, seed, by: params["x"] * by, by=factor),
        lambda factor: lambda params, seed, by=[factor]: params["x"] * by[0],
    ],
    ids=["object", "method", "partial", "default"],
)
def test_what_a_function_holds_is_part_of_it(make: Callable[[float], Callable[..., Any]]) -> None:
    quietly(hpo.Study(make(1.0), space=SPACE, name="held", rounds=2), 2)
    assert len(quietly(hpo.Study(make(1.0), space=SPACE, name="held", rounds=2), 3).trials()) == 3
    with pytest.raises(StudyError, match="was created with other code"):
        quietly(hpo.Study(make(2.0), space=SPACE, name="held", rounds=2), 4)


def test_a_notebook_shows_answers_as_sentences() -> None:
    study = quietly(hpo.Study(bowl, space=SPACE, rounds=5), 4)
    for found in (study.best(), study.confirm(top=2, rounds=6, progress=False), study.compare()):
        shown: list[str] = []
        found._repr_pretty_(SimpleNamespace(text=shown.append), cycle=False)
        assert shown == [str(found)]
        assert str(found).startswith("study bowl: ")


def test_what_is_wrong_is_said_before_anything_is_created(here: Path) -> None:
    odd: list[Any] = [[1], {"a": 3}, 3, 2.5, {3: 3}, {"protocol.seed": {3}}]
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: hpo.Study(bowl), RequestError, "needs a space to search, or configurations to measure, and not both"),
        (lambda: hpo.Study(bowl, space={}), StudyError, "either a"),
        (lambda: hpo.Study(bowl, space=SPACE, sampler="tpee"), StudyError, "sampler.name must be one of"),
        (lambda: hpo.Study("quickstart", space=SPACE), RequestError, "space is of a function"),
        (lambda: hpo.Study(bowl, space=odd[0]), RequestError, "space must be a dictionary, but is"),
        (lambda: hpo.Study(bowl, configurations=odd[1]), RequestError, "configurations.'a'. must be a dictionary"),
        (lambda: hpo.Study(bowl, space=SPACE, settings=odd[0]), RequestError, "settings must be a dictionary"),
        (lambda: hpo.Study(odd[2]), RequestError, "a study is a function, a name, a file or a dictionary, but not 3"),
        (lambda: quietly(hpo.Study(bowl, space=SPACE), -1), RequestError, "trials must be a whole number from 1 to"),
        (
            lambda: quietly(hpo.Study(bowl, space=SPACE), odd[3]),
            RequestError,
            "trials must be a whole number from 1 to",
        ),
        (lambda: hpo.Study(bowl, space=SPACE).confirm(top=0), RequestError, "top must be a whole number from 1 to"),
        (lambda: hpo.Study(bowl, space=SPACE).report("deep/er"), HpoError, "does not exist"),
        (
            lambda: hpo.Study(bowl, space={"x": (0.0, 1.0)}),
            RequestError,
            r"space\['x'\] must be a list of values",
        ),
        (lambda: hpo.Study(bowl, space=SPACE, name=odd[2]), RequestError, "name must be a text, but is 3"),
        (lambda: hpo.load_results(odd[2]), RequestError, "a study's name must be a text, but is 3"),
        (lambda: hpo.Study(bowl, space=SPACE, direction="up"), RequestError, "direction must be 'minimize' or"),
        (lambda: hpo.Study(bowl, space=SPACE, metric=" "), RequestError, "metric must be a text"),
        (lambda: hpo.Study(bowl, space=SPACE, device="gpu"), RequestError, "^device must be auto, cpu"),
        (lambda: hpo.Study(bowl, space=SPACE, name="a/b"), RequestError, "; name gives another$"),
        (lambda: hpo.Study(bowl, space=SPACE, storage="hpo.db"), StorageError, "is no database URL"),
        (lambda: quietly(hpo.Study(bowl, space=SPACE), 2, workers="x"), RequestError, "^workers must be a number"),
        (
            lambda: hpo.Study(bowl, configurations={"a": {"x": 1}}, sampler="gp"),
            RequestError,
            "the study lists its trials: there is no sampler",
        ),
        (
            lambda: hpo.Study(bowl, space=SPACE, rounds=5, settings={"protocol.rounds": 7}),
            RequestError,
            "^protocol.rounds is to be 5 and 7; give it once$",
        ),
        (
            lambda: hpo.Study("quickstart", rounds=5, settings={"protocol.rounds": 7}),
            RequestError,
            "^protocol.rounds is to be 5 and 7; give it once$",
        ),
        (lambda: hpo.Study(bowl, space=SPACE, settings={"protocol.ronds": None}), StudyError, "no key named 'ronds'"),
        (lambda: hpo.Study(bowl, space=SPACE, settings=odd[4]), RequestError, "settings must be named by texts"),
        (lambda: hpo.Study("quickstart", settings=odd[5]), RequestError, "^protocol.seed must be a number, a text"),
        (lambda: hpo.Study("boost", settings={"task.dataset": "x"}), HpoError, "no study named"),
        (
            lambda: hpo.Study("quickstart", settings={"space.y": 3}),
            StudyError,
            "space.y: no parameter has this name",
        ),
        (lambda: hpo.Study(bowl, space=SPACE, allow=odd[2]), RequestError, "allow must be a list of patterns, as"),
        (lambda: hpo.Study("quickstar"), UnknownName, "did you mean 'quickstart'"),
        (lambda: quietly(hpo.Study(bowl, space=SPACE)), RequestError, "needs a number of trials"),
        (lambda: quietly(hpo.Study(lambda params: 1.0, space=SPACE), 2), StudyError, r"must take \(params, seed\)"),
        (lambda: quietly(hpo.Study(lambda params, seed: "x", space=SPACE), 2), StudyError, "must return a number"),
    ]
    for make, error, complaint in cases:
        with pytest.raises(error, match=complaint):
            make()
    assert list(here.iterdir()) == []


def test_another_study_of_the_same_name_is_refused_at_once() -> None:
    quietly(hpo.Study(bowl, space=SPACE, rounds=2), 2)
    for other in ({"rounds": 3}, {"sampler": "random"}, {"space": {"x": {"low": 0.0, "high": 2.0}}}, {"seed": 1}):
        with pytest.raises(StudyError, match=r"was created with another definition: .*; name NEW starts a new study$"):
            hpo.Study(bowl, **{"space": SPACE, "rounds": 2, **other})  # type: ignore[arg-type]
    assert hpo.Study(bowl, space=SPACE, rounds=2).best().rounds == 2


def test_a_script_that_starts_workers_as_it_is_imported_is_told_of_the_guard(here: Path) -> None:
    script = here / "script.py"
    script.write_text(
        "import hpo\nfrom tests.api.functions import bowl\n"
        "hpo.Study(bowl, space={'x': [1, 2, 3]}, rounds=2).optimize(3, workers=2, progress=False)\n"
    )
    environment = clean_environment(PYTHONPATH=str(Path(hpo.__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=here, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1  # the caller's own
    assert "RequestError: several workers are processes of their own" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr
    assert list(here.glob("hpo.db")) == []


def test_settings_and_names_are_those_of_the_command_line(here: Path) -> None:
    (here / "mine.toml").write_text('title = "Mine"\n[task]\nname = "mine.py:f"\n[space]\nx = [1, 2, 3]\n')
    (here / "mine.py").write_text("def f(params, seed): return params['x'] + seed % 3\n")
    study = hpo.Study("mine", sampler={"name": "grid"}, rounds=3, settings={"run.max_failed_trials": 2})
    assert study.name == "mine-3-rounds-grid"
    assert len(quietly(study, 3).trials()) == 3
    table = {"title": "t", "task": {"name": "digit_pairs", "dataset": "digits"}, "space": {"learning_rate": [0.1]}}
    with pytest.raises(StudyError, match="space lacks architecture"):
        quietly(hpo.Study(table), 1)


def test_threads_are_as_many_afterwards_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    quietly(hpo.Study(bowl, space=SPACE, rounds=2), 2)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


SCRIPT = """
import hpo, os, signal

def slow(params, seed):
    os.kill(os.getpid(), signal.SIGINT) if params["x"] > 1 else None
    return params["x"]

hpo.Study(slow, configurations={"a": {"x": 1}, "b": {"x": 2}}, rounds=1).optimize(progress=False)
"""


def test_ctrl_c_gives_the_running_trial_back(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
        env=clean_environment(PYTHONPATH=str(Path(hpo.__file__).parents[1])),
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    status = json.loads(run_hpo("status", "slow", "--json", folder=here).stdout)
    assert (status["complete"], status["running"], status["interrupted"]) == (1, 0, 1)


def test_a_limit_that_does_not_hold_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    quietly(hpo.Study(bowl, space=SPACE, rounds=2, settings={"run.trial_timeout_seconds": 60}), 1)
    assert "study 'bowl': run.trial_timeout_seconds does not hold in this process" in capsys.readouterr().err
    quietly(hpo.Study(bowl, space=SPACE, rounds=2), 2)
    assert capsys.readouterr().err == ""


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(Supervisor, "_start", started)
    quietly(hpo.Study(bowl, space=SPACE, rounds=2), 2)


def test_more_fresh_rounds_until_it_is_sure_and_what_is_expected() -> None:
    study = quietly(hpo.Study(bowl, space=SPACE, rounds=3), 14)
    found = study.confirm_until_sure(top=2, margin=10.0, most_rounds=40, progress=False)
    assert found.is_over
    assert len(found.contenders) == 2
    assert str(found).startswith("study bowl: ")
    expected = study.expected()
    assert str(expected).startswith("study bowl: most can be expected of ")
    assert set(expected.params) == set(SPACE)
    assert study.ledger().looks == 14 + len(found.names)
