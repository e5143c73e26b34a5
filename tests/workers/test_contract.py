"""What every task promises: kept by all that hpo brings and by the examples, and found out where one breaks it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.program import hpo_in_one_process

PROMISES = [
    "what is measured is numbers, of every round, that JSON can say",
    "the same seeds give the same numbers",
    "nothing of another configuration is left",
    "nothing of an interrupted measurement is left",
    "a configuration is not changed",
    "a round is the same alone",
    "other seeds give other numbers",
]
WAYS = "stacked and looped rounds agree"
EXAMPLES = Path("examples").resolve()
SLOW = ("mnist", "diabetes", "boosting")  # a minute or more
QUICK = ("focal", "forest", "pairs", "tiny")  # seconds, searched and confirmed
STUDIES = sorted(file for file in EXAMPLES.rglob("*.toml") if file.stem not in SLOW)


def broken(study: str, folder: Path) -> dict[str, Any]:
    """Returns the promises that a task breaks."""
    done = hpo_in_one_process("check", "--contract", study, "--json", folder=folder)
    assert done.returncode in (0, 1), done.stderr
    promises: dict[str, Any] = json.loads(done.stdout)["promises"]
    found = {text: fault for text, fault in promises.items() if fault is not None}
    if PROMISES[0] not in found:  # else nothing more is looked at
        assert list(promises)[: len(PROMISES)] == PROMISES
    assert (done.returncode, f"its task breaks {len(found)} promise" in done.stderr) == (bool(found), bool(found))
    return found


@pytest.mark.parametrize("study", [*(str(file.relative_to(EXAMPLES)) for file in STUDIES), "quickstart"])
def test_what_hpo_brings_keeps_its_promises(study: str, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    assert broken(study, tmp_path) == {}


@pytest.mark.parametrize("study", QUICK)
def test_an_example_is_searched_and_confirmed(study: str, tmp_path: Path) -> None:
    for file in EXAMPLES.glob(f"{study}.*"):
        shutil.copy(file, tmp_path)
    table = (tmp_path / f"{study}.toml").read_text()
    (tmp_path / f"{study}.toml").write_text(re.sub(r"(?m)^rounds = \d+", "rounds = 2", table))
    done = hpo_in_one_process("optimize", study, "--trials", "3", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = hpo_in_one_process("confirm", study, "--rounds", "6", "--top", "2", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "on 6 fresh rounds" in " ".join(done.stdout.split()) or "6 fresh rounds of" in " ".join(done.stdout.split())


def test_boosting_can_be_measured(tmp_path: Path) -> None:
    for file in EXAMPLES.glob("boosting.*"):
        shutil.copy(file, tmp_path)
    done = hpo_in_one_process("check", "boosting", folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.mnist
def test_the_example_on_mnist_can_be_measured(tmp_path: Path, mnist_folder: Path) -> None:
    shutil.copy(EXAMPLES / "mnist.toml", tmp_path)
    done = hpo_in_one_process("check", "mnist", folder=tmp_path, HPO_DATA=str(mnist_folder.resolve()))
    assert done.returncode == 0, done.stderr


def test_epochs_of_a_trials_own_break_no_promise(tmp_path: Path) -> None:
    """Of more epochs than the contract trains several would count as the same step."""
    for file in EXAMPLES.glob("tiny.*"):
        shutil.copy(file, tmp_path)
    table = (tmp_path / "tiny.toml").read_text().replace("[space]\n", "[space]\nepochs = [50, 60]\n")
    assert "epochs = [50, 60]" in table
    (tmp_path / "tiny.toml").write_text(table)
    assert broken("tiny", tmp_path) == {}


def test_a_task_without_an_error_in_any_round_breaks_no_promise(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(params, seed):\n    return 0.0")
    (tmp_path / "mine.toml").write_text(
        'title = "Mine"\n[task]\nname = "mine.py:f"\nlow = 0.0\n[protocol]\nrounds = 3\n[space]\nx = [1, 2]\n'
    )
    assert broken("mine.toml", tmp_path) == {}


def test_a_list_breaks_no_promise_though_it_keeps_what_became_of_each_example(tmp_path: Path) -> None:
    table = (Path("studies") / "report_a_best.toml").read_text().replace('"mnist"', '"digits"')
    (tmp_path / "listed.toml").write_text(table.replace("_pairs = 1000", "_pairs = 50"))
    assert broken("listed.toml", tmp_path) == {}


FUNCTIONS = {
    "does not use its seed": (
        "def f(params, seed):\n    return params['x'] + 1",
        "other seeds give other numbers",
    ),
    "draws from a generator of all": (
        "import random\ndef f(params, seed):\n    return random.random()",
        "the same seeds give the same numbers",
    ),
    "remembers": (
        "seen = set()\ndef f(params, seed):\n    seen.add(params['x'])\n    return len(seen)",
        "nothing of another configuration is left",
    ),
    "is left half-way": (
        "done = True\n"
        "def f(params, seed):\n"
        "    global done\n"
        "    value = 1.0 if done else 2.0\n"
        "    yield value\n"
        "    done = False\n"
        "    yield value\n"
        "    done = True\n",
        "nothing of an interrupted measurement is left",
    ),
}
TASK = """
from hpo.study.task import Measurement, Metric
class Mine:
    metrics = (Metric("error"),)
    device = "cpu"
    def measure(self, params, rounds):
        {body}
"""
TASKS = {
    "looks at the other rounds": ("yield Measurement(1, 1.0, {'error': [len(rounds)] * len(rounds)})", PROMISES[5]),
    "depends on the order": ("yield Measurement(1, 1.0, {'error': list(range(len(rounds)))})", PROMISES[5]),
    "changes its parameters": ("params['x'] = 1\n        yield Measurement(1, 1.0, {'error': [1.0] * 3})", PROMISES[4]),
    "never ends": ("yield Measurement(1, 0.5, {'error': [1.0] * len(rounds)})", PROMISES[0]),
    "goes back": (
        "yield Measurement(2, 0.5, {'error': [1.0] * len(rounds)})\n"
        "        yield Measurement(1, 1.0, {'error': [1.0] * len(rounds)})",
        PROMISES[0],
    ),
    "is out of its bounds": ("yield Measurement(1, 1.0, {'error': [-1.0] * len(rounds)})", PROMISES[0]),
    "has no errors": ("yield Measurement(1, 1.0, {})", PROMISES[0]),
    "is sometimes no number": (
        "self.calls = getattr(self, 'calls', 0) + 1\n"
        "        error = float('nan') if self.calls > 2 else 1.0\n"
        "        yield Measurement(1, 1.0, {'error': [error] * len(rounds)})",
        PROMISES[1],
    ),
    "measures objects": ("yield Measurement(1, 1.0, {'error': [1.0] * len(rounds)}, (), {'x': object()})", PROMISES[0]),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *TASKS])
def test_a_promise_that_is_broken_is_found(name: str, tmp_path: Path) -> None:
    if name in FUNCTIONS:
        code, promise = FUNCTIONS[name]
        task = 'name = "mine.py:f"\nlow = 0.0'
    else:
        body, promise = TASKS[name]
        code, task = TASK.format(body=body), 'name = "mine.py:Mine"'
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.toml").write_text(
        f'title = "Mine"\n[task]\n{task}\n[protocol]\nrounds = 3\n[space]\nx = {{ low = 0.0, high = 1.0 }}\n'
    )
    assert promise in broken("mine.toml", tmp_path)


NETWORK = """
import torch
from torch import nn
from hpo.training.network_task import Split

def examples(seed, n):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draw)
    return x, x.sum(1)

class Mine:
    seen = []
    def network(self):
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    def loss(self, output, batch):
        return (output[:, 0] - batch[1]).square().mean() * {factor}
    def data(self, round_):
        return Split(train=examples({seed}, 40), test=examples(7, 20))
    def errors(self, output, batch):
        return {{"error": (output[:, 0] - batch[1]).abs()}}
"""


@pytest.mark.parametrize(
    ("factor", "seed", "promise"),
    [
        ("1.0", "round_.seed('data')", None),
        ("1.0", "torch.randint(1000, ()).item()", PROMISES[5]),  # the data are drawn by nobody's seed
        (
            "(len(self.__dict__.setdefault('seen', [])) + (self.seen.append(1) or 1))",
            "round_.seed('data')",
            PROMISES[1],
        ),
    ],
)
def test_promises_of_networks(factor: str, seed: str, promise: str | None, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORK.format(factor=factor, seed=seed))
    (tmp_path / "mine.toml").write_text(
        'title = "Mine"\n[task]\nname = "mine.py:Mine"\n[training]\nepochs = 3\nbatch_size = 10\n'
        '[protocol]\nrounds = 3\n[space]\noptimizer = ["sgd"]\nlearning_rate = { low = 0.001, high = 0.01 }\n'
    )
    found = broken("mine.toml", tmp_path)
    assert (found == {}) if promise is None else (promise in found), found
