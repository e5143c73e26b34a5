"""What others write into a database makes nobody run more than they allowed, nor with other values than a file has."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from safetensors.torch import save_file

import hpo
from hpo.errors import RequestError
from hpo.storage.backends import open_storage
from hpo.storage.queries import set_study_attribute
from hpo.storage.studies import read_card
from tests.program import assert_one_line, hpo_in_one_process

MINE = """
from subprocess import getoutput, run

DEFAULT = "fine"


def f(params, seed):
    open("SEEN", "a").write(f"{params['mode']}\\n")
    return {"fast": 1.0, "slow": 2.0}.get(params["mode"], 3.0) + seed % 7


class Task:
    def __init__(self, weights):
        open("SEEN", "a").write(f"{weights}\\n")

    def measure(self, params, rounds):
        from hpo.study.task import Measurement

        yield Measurement(1, 1.0, {"error": [1.0 + one.number for one in rounds]})
"""
FUNCTION = """
title = "Mine"
[task]
name = "mine.py:f"
[protocol]
rounds = 5
[space]
mode = ["fast", "slow"]
x = { low = 0.0, high = 1.0 }
"""
CLASS = """
title = "Mine"
[task]
name = "mine.py:Task"
weights = "start"
[protocol]
rounds = 5
[space]
mode = ["fast", "slow"]
x = { low = 0.0, high = 1.0 }
"""
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "mine.py").write_text(MINE)
    for name, text in (("mine", FUNCTION), ("other", CLASS)):
        (folder / f"{name}.toml").write_text(text)
        done = hpo_in_one_process("optimize", name, "--trials", "2", "--workers", "1", folder=folder)
        assert done.returncode == 0, done.stderr
    (folder / "SEEN").unlink()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(folder: Path, study: str, change: Change) -> None:
    """Does what anybody can who may write to the database."""
    opened = open_storage(f"sqlite:///{folder}/hpo.db", write=True)
    found = optuna.load_study(study_name=study, storage=opened)
    table = json.loads(json.dumps(found.user_attrs["definition"]))
    change(table)
    set_study_attribute(opened, study, "definition", table)
    card = read_card(opened, study).model_dump(mode="json")
    set_study_attribute(opened, study, "card", {**card, "code": {}})
    set_study_attribute(opened, study, "target", 9)
    opened.engine.dispose()


def run_all(folder: Path, study: str, *more: str) -> str:
    """Runs every command that could run a study's code, and returns what they said."""
    said = []
    for command in (
        ("worker", study, "--exit-when-done", "--workers", "1"),
        ("optimize", study, "--trials", "5", "--workers", "1"),
        ("confirm", study, "--rounds", "5", "--workers", "1"),
        ("drift", study),
        ("export", study, "-o", "winner"),
        ("lr-find", study, "--steps", "3"),
    ):
        done = hpo_in_one_process(*command, *more, folder=folder)
        assert "Traceback" not in done.stderr, command
        said.append(done.stderr)
    return "".join(said)


def seen(folder: Path) -> set[str]:
    """Returns what the code was given."""
    file = folder / "SEEN"
    return set(file.read_text().split()) if file.exists() else set()


def test_a_pattern_allows_what_a_file_defines_and_not_what_it_imports(folder: Path) -> None:
    def ask(table: dict[str, Any]) -> None:
        table["task"]["name"] = "mine.py:run"
        table["space"] = {"touch": {"choices": [1]}, "RAN": {"choices": [1]}}

    (folder / "mine.toml").unlink()
    change(folder, "mine", ask)
    assert "mine.py:run is of subprocess, which mine.py only imports" in run_all(folder, "mine", "--allow", "mine.py:*")

    def network(table: dict[str, Any]) -> None:
        table["task"] = {"name": "classification", "network": "mine.py:getoutput", "data": "sklearn:load_wine"}
        table["space"] = {"cmd": {"choices": ["touch RAN"]}}

    change(folder, "mine", network)
    run_all(folder, "mine", "--allow", "mine.py:*")
    assert not (folder / "RAN").exists()


@pytest.mark.parametrize(
    ("study", "ask"),
    [
        ("mine", lambda table: table["space"]["mode"].update(choices=["evil"])),
        ("mine", lambda table: table["space"].update(more={"choices": [1]})),
        ("other", lambda table: table["task"].update(weights="evil")),
        ("other", lambda table: table["task"].update(name="mine.py:f")),
    ],
)
def test_a_file_that_is_given_says_what_its_code_is_given(study: str, ask: Change, folder: Path) -> None:
    change(folder, study, ask)
    said = run_all(folder, study)
    assert "is not as" in said or "was created with another definition" in said
    assert "evil" not in seen(folder)


def test_a_trial_that_was_changed_is_not_measured_again(folder: Path) -> None:
    opened = open_storage(f"sqlite:///{folder}/hpo.db", write=True)
    with opened.engine.begin() as connection:
        text = json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": ["evil", "evil2"]}})
        connection.exec_driver_sql("update trial_params set distribution_json = ?, param_value = 0", (text,))
    opened.engine.dispose()
    run_all(folder, "mine")
    assert "evil" not in seen(folder)


def test_a_definition_that_is_changed_after_the_check_is_refused(folder: Path) -> None:
    opened = open_storage(f"sqlite:///{folder}/hpo.db", write=True)
    with opened.engine.begin() as connection:
        value = connection.exec_driver_sql(
            "select value_json from study_user_attributes where key = 'definition' and value_json like '%mine.py:f%'"
        ).scalar_one()
        evil = value.replace('"fast"', '"evil"').replace("'", "''")
        connection.exec_driver_sql("update study_user_attributes set value_json = replace(value_json, 'Mine', 'Other')")
        connection.exec_driver_sql(
            "create trigger swap after update on study_user_attributes when new.key = 'definition' begin "
            f"update study_user_attributes set value_json = '{evil}' where key = 'definition' "
            "and value_json like '%mine.py:f%'; end"
        )
    opened.engine.dispose()
    done = hpo_in_one_process("optimize", "mine", "--trials", "4", "--workers", "1", folder=folder)
    assert done.returncode != 0
    assert "evil" not in seen(folder)


def test_a_network_that_hpo_brings_is_no_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.py").write_text("open('RAN', 'w')\ndef mlp(input_shape, outputs): ...\n")
    (tmp_path / "mine.toml").write_text(
        'title = "Mine"\n[task]\nname = "classification"\nnetwork = "mlp"\ndata = "sklearn:load_iris"\n[space]\n'
        'optimizer = "sgd"\nlearning_rate = 0.1\n'
    )
    done = hpo_in_one_process("check", "mine", folder=tmp_path)
    assert_one_line(done, 2, "models/other.py has the name of what is shipped with hpo")
    assert not (tmp_path / "RAN").exists()


class _Loud:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_no_pickle_of_a_dataset_is_read(tmp_path: Path) -> None:
    kept = tmp_path / "data" / "sklearn" / "cal_housing_py3.pkz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(pickle.dumps(_Loud(tmp_path / "RAN")))
    (tmp_path / "mine.toml").write_text(
        'title = "Mine"\n[task]\nname = "regression"\nnetwork = "mlp"\ndata = "sklearn:fetch_california_housing"\n'
        '[space]\noptimizer = "sgd"\nlearning_rate = 0.1\n'
    )
    done = hpo_in_one_process("check", "mine", "--data", "data", folder=tmp_path)
    assert_one_line(done, 2, "is kept as a pickle, which can run anything; save its arrays as .npz")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    "described",
    [
        {"task": {"name": "classification", "network": "cleanup.py:wipe", "data": "x.npz"}, "given": {"outputs": 2}},
        {"task": {"name": "classification", "network": "cleanup.py:wipe", "data": "x.npz"}},
        {"task": {"name": "regression", "network": "mlp", "data": "sklearn:fetch_california_housing"}},
        {"task": {"name": "classification", "network": "mlp", "data": "torchvision:FashionMNIST"}},
        {"task": {"name": "classification", "network": "mlp", "data": "x.npz"}, "given": {"outputs": "two"}},
        {
            "task": {"name": "classification", "network": "mlp", "data": "x"},
            "given": {"input_shape": [-1], "outputs": 1},
        },
        {
            "task": {"name": "classification", "network": ".venv/lib/site-packages/a.py:b", "data": "x"},
            "given": {"a": 1},
        },
        {"task": {"name": "cleanup.py:wipe"}},
    ],
)
def test_an_export_of_others_runs_nothing(
    described: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cleanup.py").write_text("open('RAN', 'w')\ndef wipe(**more): open('RAN', 'w')\n")
    whole = {
        "training": {},
        "params": {"optimizer": "sgd", "learning_rate": 0.1},
        "rounds": [{"round": 0, "input_mean": 0.0, "input_deviation": 1.0}],
        **described,
    }
    save_file({"round.0.weight": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"hpo": json.dumps(whole)})
    monkeypatch.chdir(tmp_path)
    before = sorted(file.name for file in tmp_path.iterdir())
    for how in ({}, {"code": tmp_path}, {"code": tmp_path, "allow": ["tiny.py:*"]}):
        with pytest.raises(RequestError):
            hpo.load_network(tmp_path / "a.safetensors", **how)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_one_study_that_cannot_be_opened_ends_no_worker(folder: Path) -> None:
    opened = open_storage(f"sqlite:///{folder}/hpo.db", write=True)
    for study in ("mine", "other"):
        set_study_attribute(opened, study, "target", 3)
    card = read_card(opened, "mine").model_dump(mode="json")
    for path in ("a" * 300 + ".py", "/etc/passwd.py", "../x.py"):
        set_study_attribute(opened, "mine", "card", {**card, "code": {path: "0" * 64}})
        worker = ("worker", "--exit-when-done", "--workers", "1", "--allow", "mine.py:*")
        done = hpo_in_one_process(*worker, folder=folder)
        assert "Traceback" not in done.stderr
        assert "study 'mine'" in done.stderr
    opened.engine.dispose()
    assert json.loads(hpo_in_one_process("status", "other", "--json", folder=folder).stdout)["complete"] == 3


def test_a_file_with_a_point_in_its_name_brings_no_other(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("open('RAN', 'w')\n")
    (tmp_path / "setup.v2.py").write_text("def f(params, seed): return 1.0 + seed % 7\n")
    (tmp_path / "mine.toml").write_text('title = "Mine"\n[task]\nname = "setup.v2.py:f"\n[space]\nx = [1, 2]\n')
    assert hpo_in_one_process("check", "mine", folder=tmp_path).returncode == 0
    assert not (tmp_path / "RAN").exists()
