"""A function of one's own, with what such functions do: print, fail, start processes, ignore the seed."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from optuna_dashboard import get_note

from tests.program import assert_one_line, hpo, hpo_in_one_process, python_m_hpo

BOOST = """
print("hello from the module")


def boost(params, seed):
    print("hello from a call")
    if params["kind"] == "other":
        return params["depth"]
    return 3000 + 100 * params["learning_rate"] + seed % 97
"""
STUDY = """
title = "Boosting"
[task]
name = "boost.py:boost"
metric = "squares"
[protocol]
rounds = 3
[run]
max_failed_trials = 20
[space]
kind = ["one", "other"]
learning_rate = { low = 0.01, high = 1.0, log = true }
n_estimators = { low = 100, high = 600 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boost")
    (folder / "boost.py").write_text(BOOST)
    (folder / "boost.toml").write_text(STUDY)
    optimize = ("optimize", "--study", "boost.toml", "--trials", "6", "--workers", "1")
    done = hpo_in_one_process(*optimize, folder=folder)
    assert done.returncode == 0, done.stderr
    failed = "trials failed, by: KeyError: 'depth' (boost.py, line 8)"
    assert failed in done.stderr or failed.replace("trials", "trial") in done.stderr
    assert "hello" not in done.stdout + done.stderr
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = hpo_in_one_process(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done


def test_a_rate_without_an_optimizer_and_a_large_error_are_reported(folder: Path) -> None:
    run(folder, "report", "--study", "boost.toml", "-o", "report")
    page = (folder / "report" / "boost.md").read_text()
    assert "Squares against learning rate" in page
    assert "| trial | squares |" in page
    assert "None" not in page


def test_what_code_prints_spoils_no_json(folder: Path) -> None:
    for command in (("confirm", "--top", "2", "--rounds", "5"), ("drift",)):
        done = hpo(*command, "--study", "boost.toml", "--json", folder=folder)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
        assert "hello" not in done.stderr


def test_a_function_has_no_network_to_export(folder: Path) -> None:
    done = hpo_in_one_process("export", "--study", "boost.toml", "-o", "winner", folder=folder)
    assert done.returncode == 2
    assert done.stderr.endswith("hpo: task 'boost.py:boost' trains no networks, so there is none to export\n")


def test_a_confirmation_without_its_code_creates_nothing(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{folder}/hpo.db"
    before = run(folder, "status").stdout
    confirm = ("confirm", "--study", "boost", "--top", "3", "--rounds", "7", "--storage", url)
    assert_one_line(hpo_in_one_process(*confirm, folder=tmp_path), 2, "--allow boost.py:boost")
    allowed = hpo_in_one_process(*confirm, "--allow", "boost.py:*", folder=tmp_path)
    assert_one_line(allowed, 2, "boost.py is not in", "--code names the folder that has it")
    assert run(folder, "status").stdout == before


def test_studies_of_several_folders_need_the_folder_of_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "def f(params, seed): return 1.0")
    worker = ("worker", "--study", "a/mine.toml", "--study", "b/mine.toml")
    assert_one_line(hpo_in_one_process(*worker, folder=tmp_path), 2, "different folders need --code DIR")


def test_a_suggested_command_says_where_the_code_is(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    write(tmp_path / "code", "def f(params, seed): return params['x'] + seed % 7")
    (tmp_path / "code" / "mine.toml").rename(tmp_path / "mine.toml")
    search = run(tmp_path, "optimize", "--study", "mine.toml", "--code", "code", "--trials", "2", "--workers", "1")
    assert "hpo confirm mine --code code" in search.stdout
    run(tmp_path, "confirm", "--study", "mine.toml", "--code", "code", "--rounds", "5")


def write(folder: Path, code: str, space: str = "x = { low = 0.0, high = 1.0 }") -> None:
    (folder / "mine.py").write_text(code)
    table = 'title = "Mine"\n[task]\nname = "mine.py:f"\n[protocol]\nrounds = 2\n[space]\n'
    (folder / "mine.toml").write_text(table + space + "\n")


def test_a_seed_that_changes_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path, "def f(params, seed): return params['x'] ** 2 + 0.1")
    run(tmp_path, "optimize", "--study", "mine.toml", "--trials", "3", "--workers", "1")
    said = run(tmp_path, "confirm", "--study", "mine.toml", "--rounds", "5").stdout
    assert "every round of a configuration came to the same; if it should not, its seed is not used" in " ".join(
        said.split()
    )
    assert "too optimistic" not in said
    assert "too pessimistic" not in said


def test_a_functions_text_is_handed_on_as_it_stands(tmp_path: Path) -> None:
    """Also one that a network's learning rate might be: a function has no rate that a range test could find."""
    code = "def f(params, seed): return {'range_test': 1.0, 'fast': 2.0}[params['learning_rate']] + seed % 7"
    write(tmp_path, code, 'learning_rate = ["fast", "range_test"]')
    assert "study mine: can be measured" in run(tmp_path, "check", "mine").stdout
    entry = '[[trial]]\nlabel = "{0}"\nparams.learning_rate = "{0}"\n'
    listed = "".join(map(entry.format, ("range_test", "fast")))
    (tmp_path / "mine.toml").write_text((tmp_path / "mine.toml").read_text().split("[space]")[0] + listed)
    assert "study mine: can be measured" in run(tmp_path, "check", "mine").stdout
    run(tmp_path, "optimize", "mine", "--workers", "1")
    with (tmp_path / "mine.toml").open("a") as file:
        file.write("".join(f'[[trial]]\nlabel = "{one}"\nparams.learning_rate = {one}\n' for one in ("true", "0.5")))
    mixed = hpo_in_one_process("check", "mine.toml", folder=tmp_path)
    assert_one_line(mixed, 2, "must not be truth values and numbers, but is ['range_test', 'fast', True, 0.5]")


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "os._exit(0)", "raise SystemExit"])
def test_a_function_that_ends_its_process_fails_and_the_run_ends(end: str, tmp_path: Path) -> None:
    code = f"import os\nDONE = []\ndef f(params, seed):\n    if DONE: {end}\n    DONE.append(1)\n    return 1.0\n"
    write(tmp_path, code)
    text = (tmp_path / "mine.toml").read_text().replace("rounds = 2", "rounds = 1\n[run]\nmax_failed_trials = 2")
    (tmp_path / "mine.toml").write_text(text)
    done = hpo("optimize", "mine", "--trials", "9", "--workers", "1", folder=tmp_path)
    assert done.returncode == 1
    assert "trials failed by an error" in done.stderr or "trials in a row failed by the same error" in done.stderr


def test_a_function_that_always_interrupts_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "def f(params, seed): raise KeyboardInterrupt\n")
    assert_one_line(hpo("check", "mine", folder=tmp_path), 2, "the code of the study raises KeyboardInterrupt")


def test_a_parameter_that_a_study_has_not_is_not_set(tmp_path: Path) -> None:
    write(tmp_path, "def f(params, seed): return 1.0 + seed % 7\n")
    done = hpo_in_one_process("optimize", "mine", "--set", "space.y=3", "--trials", "1", folder=tmp_path)
    assert_one_line(done, 2, "--set space.y: no parameter has this name")
    done = hpo_in_one_process("check", "mine", "--set", "space.x=3", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_processes_of_a_function_do_not_hold_up_the_end(tmp_path: Path) -> None:
    write(
        tmp_path,
        "import multiprocessing, time\n"
        "def f(params, seed):\n"
        "    multiprocessing.get_context('fork').Process(target=time.sleep, args=(100,)).start()\n"
        "    return seed % 7\n",
    )
    began = time.monotonic()
    done = python_m_hpo("optimize", "--study", "mine.toml", "--trials", "1", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60


def test_joblibs_workers_are_limited_as_threads_are(tmp_path: Path) -> None:
    write(tmp_path, "import joblib\ndef f(params, seed): return joblib.effective_n_jobs(-1) + seed % 2 / 10")
    run(tmp_path, "optimize", "--study", "mine.toml", "--trials", "1", "--workers", "1")
    assert json.loads(run(tmp_path, "best", "--study", "mine", "--json").stdout)["value"] < 2


def test_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    write(
        tmp_path,
        "def f(params, seed): return seed % 7",
        "n_units_l0 = { low = 1, high = 9 }\nn_units_l1 = { low = 1, high = 9 }\nsome_costs = [1]\nsoft_c = [2]",
    )
    run(tmp_path, "optimize", "--study", "mine.toml", "--trials", "1", "--workers", "1")
    shown = run(tmp_path, "trials", "--study", "mine").stdout
    for part in ("nul0=", "nul1=", "some_costs=1", "soft_c=2"):
        assert part in shown


def test_a_study_that_ends_says_in_its_note_and_its_trials_how_often_it_diverged(tmp_path: Path) -> None:
    (tmp_path / "wild.py").write_text("def f(params, seed):\n    return float('nan')\n")
    head = 'title = "Wild"\n[task]\nname = "wild.py:f"\nworst = 9.0\n[protocol]\nrounds = 3\n'
    (tmp_path / "wild.toml").write_text(f"{head}[space]\nx = [1, 2]\n")
    run(tmp_path, "optimize", "wild", "--trials", "1", "--workers", "1")
    assert "(3/3 diverged)" in " ".join(run(tmp_path, "trials", "wild").stdout.split())
    (trial,) = json.loads(run(tmp_path, "trials", "wild", "--json").stdout)
    assert trial["convergence"]["percent_interval"] == {"low": pytest.approx(29.24, abs=0.01), "high": 100}
    (row,) = csv.DictReader(run(tmp_path, "trials", "wild", "--csv").stdout.splitlines())
    assert (row["diverged_percent"], row["diverged_percent_high"], row["converged_mean"]) == ("100.0", "100.0", "")
    study = optuna.load_study(study_name="wild", storage=f"sqlite:///{tmp_path}/hpo.db")
    assert "trial 0, the best, diverged in 3 of 3 rounds (100 %, 95 %: 29 to 100 %)" in get_note(study)
