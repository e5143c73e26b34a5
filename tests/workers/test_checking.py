"""A study that is new, or names code, is checked before anything is created; and by each worker."""

from __future__ import annotations

import json
import time
from pathlib import Path

import optuna
import pytest

from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials, set_study_attribute
from hpo.storage.studies import read_card
from tests.program import assert_one_line, hpo, hpo_in_one_process, python_m_hpo

GOOD = "def f(params, seed):\n    return (params['x'] - 1) ** 2 + seed % 7 / 100\n"
STUDY = 'title = "t"\n[task]\nname = "mine.py:f"\n[protocol]\nrounds = 2\n[space]\nx = {low = 0.0, high = 2.0}\n'


def write(folder: Path, code: str = GOOD, study: str = STUDY) -> None:
    (folder / "mine.py").write_text(code)
    (folder / "mine.toml").write_text(study)


OPTIMIZE = ("optimize", "--study", "mine.toml", "--trials", "3", "--workers", "1")

BROKEN_FUNCTIONS = {
    "def f(params, seed): return 'abc'": "with x = 0.0: TypeError: mine.py:f must return a number, but came to 'abc'",
    "def f(params, seed): return [1.0]": "must return a number, but came to [1.0] (list)",
    "def f(params, seed): pass": "must return a number, but came to nothing",
    "def f(params, seed): return float('nan')": "came to nan; task.worst = …",
    "def f(params, seed): return {}['y']": "KeyError: 'y' (mine.py, line 1)",
    "def f(params, seed):\n  import sys\n  sys.exit(3)": "it ends the program (exit code 3) (mine.py, line 3)",
    "def f(params): return 1": "mine.py:f must take (params, seed), but takes (params)",
    "def f(params, seed, x): return 1": "mine.py:f must take (params, seed), but takes (params, seed, x)",
    "async def f(params, seed): return 1": "is asynchronous",
    "f = 3": "mine.py:f is no task",
    "f = 'text'": "is no task",
    "class f: pass": "mine.py:f is no task: it is no function (params, seed), has no measure, and none of network",
    "class f:\n  network = loss = data = None": "lacks errors",
    "class f:\n  def __init__(self, a): 0\n  def measure(self, params, rounds): yield": "missing a required argument",
    "class f:\n  def __init__(self): 1 / 0\n  def measure(self, params, rounds): yield": "cannot be made: ZeroDiv",
    "class f:\n  metrics = ('error',)\n  def measure(self, params, rounds): yield": "metrics must be a list of hpo.",
    "from hpo.study.task import Metric\nclass f:\n  metrics = [Metric(maximize=True)]\n  measure = None": (
        "its worst cannot be its highest"
    ),
    "class f:\n  def measure(self, params, rounds): yield 3": "its task must yield measurements, but yields int",
    "class f:\n  def measure(self, params, rounds): return iter(())": "its task measures nothing",
    "def g(params, seed): return 1": "mine.py has no 'f'; there are: g",
    "": "mine.py has no 'f'",
    "1 / 0": "mine.py cannot be imported: ZeroDivisionError: division by zero (mine.py, line 1)",
    "import nothing_like_it": "ModuleNotFoundError: No module named 'nothing_like_it' (mine.py, line 1)",
    "def f(:": "SyntaxError: invalid syntax (mine.py, line 1)",
    "\tdef f(): pass": "IndentationError: unexpected indent (mine.py, line 1)",
    "raise SystemExit": "it ends the program (exit code None) (mine.py, line 1)",
    "def f(params, seed): yield 'a'": "must yield a number, but came to 'a' (str)",
    "def f(params, seed):\n  if False: yield": "yields nothing",
    "def f(params, seed): raise Nothing": "NameError: name 'Nothing' is not defined (mine.py, line 1)",
    "def f(params, seed): return f(params, seed)": "RecursionError: maximum recursion depth exceeded",
    "def f(params, seed): raise ValueError('two\\nlines')": "ValueError: two (mine.py, line 1)",
}


@pytest.mark.parametrize("code", BROKEN_FUNCTIONS)
def test_code_that_cannot_be_measured_is_one_line_and_nothing_is_created(tmp_path: Path, code: str) -> None:
    write(tmp_path, code)
    done = hpo_in_one_process(*OPTIMIZE, folder=tmp_path)
    assert_one_line(done, 2, BROKEN_FUNCTIONS[code])
    assert not (tmp_path / "hpo.db").exists()
    assert hpo_in_one_process("check", "mine.toml", folder=tmp_path).stderr == done.stderr


BROKEN_STUDIES = {
    'name = "away.py:f"': "away.py is not in",
    'name = "../mine.py:f"': "must be a path below the folder of code",
    'name = "/tmp/mine.py:f"': "must be a path below the folder of code",
    'name = "mine.py:"': "must name something after the colon",
    'name = "mine.py"': "no task named 'mine.py'",
    'name = "mine"': "no task named 'mine'",
    'name = "no.such.package:f"': "no.such.package cannot be imported: ModuleNotFoundError: No module named 'no'",
    'name = "subprocess:Popen"': "subprocess:Popen is no task",
    'name = "os:system"': "os:system is of posix, which os only imports",
    'name = "mine.py:f"\nworse = 3': "no key named 'worse'",
    'name = "mine.py:f"\ndirection = "up"': "task.direction must be 'minimize' or 'maximize'",
    'name = "mine.py:f"\nlow = 5.0\nhigh = 1.0': "low must be below high",
    'name = "mine.py:f"\nlow = 1000.0': "which is not within task.low and task.high",
    'name = "mine.py:f"\nsteps = 3': "steps is for a function that yields",
    'name = "mine.py:f"\n[training]\nepochs = 3': "trains no networks, so there can be no [training]",
    'name = "mine.py:f"\n[pruner]\nname = "power_law"': "has nothing to go by: mine.py:f returns once",
    'name = "mine.py:f"\n[space.y]\nlow = 0.0\nhigh = 1.0\nwhen = {z = 1}': "must name a parameter with choices",
    'name = "mine.py:f"\n[space]\ny = {choices = [1], when = {y = 1}}': "space.y.when must name a parameter",
    'name = "mine.py:f"\n[space]\nvalue = [1, 2]': "cannot be called 'value'",
    'name = "mine.py:f"\n[space]\n"round 0" = [1, 2]': "cannot be called 'round 0'",
    'name = "mine.py:f"\nmetric = "by_step"': "none 'by_step'",
    'name = "classification"\nnetwork = "mine.py:f"': "task.data is missing",
    'name = "classification"\nnetwork = "mine.py:f"\ndata = "away.npz"': "away.npz is neither in",
    'name = "classification"\nnetwork = "mine"\ndata = "sklearn:load_wine"': "no network named 'mine'; code of",
}


@pytest.mark.parametrize("task", BROKEN_STUDIES)
def test_a_study_that_cannot_be_measured_is_one_line_and_nothing_is_created(tmp_path: Path, task: str) -> None:
    text = STUDY.replace('name = "mine.py:f"', task) if "[space]" not in task else f'title = "t"\n[task]\n{task}\n'
    write(tmp_path, study=text)
    assert_one_line(hpo_in_one_process(*OPTIMIZE, folder=tmp_path), 2, BROKEN_STUDIES[task])
    assert not (tmp_path / "hpo.db").exists()


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import os\nos._exit(3)", "the process that checked it ended with exit code 3 (loading mine.py:f)"),
        ("import os\nos.abort()", "the process that checked it was killed by SIGABRT"),
        ("import os\ndef f(params, seed): os._exit(4)", "ended with exit code 4 (taking one step)"),
    ],
)
def test_code_that_ends_its_process_is_one_line(tmp_path: Path, code: str, complaint: str) -> None:
    write(tmp_path, code)
    assert_one_line(hpo(*OPTIMIZE, folder=tmp_path), 2, complaint)
    assert not (tmp_path / "hpo.db").exists()


@pytest.mark.parametrize("where", ["import", "call"])
def test_code_that_forks_and_does_not_end_its_copy_is_measured_once(tmp_path: Path, where: str) -> None:
    fork = (
        "import os\nos.fork()\n" + GOOD
        if where == "import"
        else GOOD.replace("    return", "    import os; os.fork()\n    return")
    )
    write(tmp_path, fork)
    done = hpo(*OPTIMIZE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    trials = read_trials(open_storage(f"sqlite:///{tmp_path}/hpo.db"), "mine")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3


def test_a_copy_that_code_has_forked_tells_nothing_though_it_ends_after_its_trial(tmp_path: Path) -> None:
    late = "    import os, time; time.sleep(0.2 if os.fork() else 0.8)\n    return"
    write(tmp_path, GOOD.replace("    return", late))
    done = hpo(*OPTIMIZE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    trials = read_trials(open_storage(f"sqlite:///{tmp_path}/hpo.db"), "mine")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3


def test_what_code_prints_spoils_nothing_and_is_kept_where_it_fails(tmp_path: Path) -> None:
    write(
        tmp_path,
        "print('loading')\ndef f(params, seed):\n"
        "    print('\\x1b[31mat', params['x'])\n    return 1 / (params['x'] < 1)\n",
    )
    done = hpo("optimize", "--study", "mine.toml", "--trials", "6", "--workers", "1", folder=tmp_path)
    assert "loading" not in done.stdout + done.stderr
    assert "at 0" not in done.stdout + done.stderr
    failed = [t for t in read_trials(open_storage(f"sqlite:///{tmp_path}/hpo.db"), "mine") if t.state.name == "FAIL"]
    assert failed
    assert "\\x1b[31mat 1." in failed[0].attributes["printed"]
    shown = json.loads(hpo("check", "mine.toml", "--json", folder=tmp_path).stdout)
    assert shown["printed"].splitlines() == ["loading", "\\x1b[31mat 0.0"]


def test_trials_that_all_fail_by_one_error_end_the_run_with_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "def f(params, seed):\n    if params['x'] > 0:\n        raise RuntimeError('no such luck')\n    return 1.0\n",
    )
    done = hpo_in_one_process("optimize", "--study", "mine.toml", "--trials", "30", "--workers", "1", folder=tmp_path)
    assert done.returncode == 1
    said = (
        "3 trials in a row failed by the same error, before any finished: RuntimeError: no such luck (mine.py, line 3);"
    )
    assert said in done.stderr
    assert len(read_trials(open_storage(f"sqlite:///{tmp_path}/hpo.db"), "mine")) == 3


def test_a_study_of_code_is_joined_only_where_its_code_is_allowed_and_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    assert hpo_in_one_process(*OPTIMIZE, folder=tmp_path).returncode == 0
    other, url = tmp_path / "other", f"sqlite:///{tmp_path}/hpo.db"
    other.mkdir()
    more = ("optimize", "--study", "mine", "--trials", "4", "--workers", "1", "--storage", url)
    assert_one_line(
        hpo_in_one_process(*more, folder=other), 2, "--code DIR, the folder that has it, and --allow mine.py:f"
    )
    allowed = (*more, "--allow", "mine.py:*")
    assert "mine.py is not in" in hpo_in_one_process(*allowed, folder=other).stderr
    (other / "mine.py").write_text(GOOD.replace("1)", "2)"))
    assert "mine.py in" in (said := hpo_in_one_process(*allowed, folder=other).stderr)
    assert "differs from the one that the study was created with" in said
    assert hpo_in_one_process(*allowed, "--code", str(tmp_path), folder=other).returncode == 0
    assert (
        hpo_in_one_process(
            *more[:4], "5", *more[5:], "--code", "..", folder=other, HPO_ALLOW="a.py:* mine.py:f"
        ).returncode
        == 0
    )
    write(tmp_path, GOOD + "# a word more\n")
    assert (
        "was created with other code: mine.py differs; --name NEW"
        in hpo_in_one_process(*OPTIMIZE, folder=tmp_path).stderr
    )


def test_a_database_cannot_make_a_worker_run_anything(tmp_path: Path) -> None:
    """Whoever can write there writes what they like; nothing is imported that the worker's operator did not allow."""
    write(tmp_path)
    assert hpo_in_one_process(*OPTIMIZE, folder=tmp_path).returncode == 0
    (tmp_path / "loud.py").write_text("open('RAN', 'w')\ndef f(params, seed): return 1.0\n")
    opened = open_storage(f"sqlite:///{tmp_path}/hpo.db", write=True)
    study = optuna.load_study(study_name="mine", storage=opened)
    set_study_attribute(opened, "mine", "target", 9)
    card = read_card(opened, "mine").model_dump(mode="json")
    set_study_attribute(opened, "mine", "card", {**card, "code": {}})
    for name in (
        "loud.py:f",
        "subprocess:Popen",
        "os:system",
        "./loud.py:f",
        f"{tmp_path}/loud.py:f",
        "classification",
    ):
        table = study.user_attrs["definition"] | {"task": {"name": name}}
        if name == "classification":
            table["task"] |= {"network": "loud.py:f", "data": "sklearn:load_wine"}
        set_study_attribute(opened, "mine", "definition", table)
        for command in (
            ("worker", "--exit-when-done", "--workers", "1", "--allow", "mine.py:*"),
            ("optimize", "--study", "mine", "--workers", "1", "--allow", "mine.py:*"),
            *(("confirm", "--study", "mine", "--workers", "1"), ("lr-find", "--study", "mine"), ("status",)),
            *(("best", "--study", "mine"), ("trials", "--study", "mine"), ("show", "mine.toml")),
            ("report", "--study", "mine", "-o", "report"),
        ):
            done = hpo_in_one_process(*command, folder=tmp_path)
            assert "Traceback" not in done.stderr
            if command[0] in ("worker", "optimize", "confirm", "lr-find"):
                assert done.returncode != 0, (name, command)
    assert not (tmp_path / "RAN").exists()


def test_a_function_of_the_standard_library_alone_is_measured_without_torch(tmp_path: Path) -> None:
    write(
        tmp_path,
        "import sys\ndef f(params, seed):\n    return float('torch' in sys.modules) + params['x']\n",
        STUDY.replace("0.0, high = 2.0", "1e-9, high = 1e-9"),
    )
    began = time.monotonic()
    done = python_m_hpo("optimize", "--study", "mine.toml", "--trials", "1", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (trial,) = read_trials(open_storage(f"sqlite:///{tmp_path}/hpo.db"), "mine")
    assert trial.value == 1e-9
    assert time.monotonic() - began < 30
