"""A network of one's own, with dropout, through every command that trains one: what it comes to is the trial's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hpo
from hpo.errors import RequestError
from hpo.study.references import Sources
from hpo.tasks.arrays import read_examples
from tests.program import assert_one_line, hpo_in_one_process

STUDY = """
title = "Tiny"
[task]
name = "classification"
network = "tiny.py:TinyNet"
data = "sklearn:load_digits"
train_examples = 200
test_examples = 100
[training]
epochs = 3
batch_size = 20
evaluate_at = [1]
[protocol]
rounds = 2
[space]
hidden = { low = 8, high = 32 }
dropout = { low = 0.2, high = 0.5 }
optimizer = ["sgd", "adam"]
learning_rate = { low = 0.01, high = 0.1, log = true }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two trials were made, and the best was exported with a fresh round more."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.py").write_text(Path("examples/tiny.py").read_text() + '\nprint("hello")  # spoils no JSON\n')
    (folder / "tiny.toml").write_text(STUDY)
    run(folder, "optimize", "--study", "tiny.toml", "--trials", "2", "--workers", "1")
    run(folder, "export", "--study", "tiny.toml", "-o", "winner", "--rounds", "3")
    return folder


def run(folder: Path, *arguments: str) -> str:
    done = hpo_in_one_process(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_exported_errs_as_the_trial_did(folder: Path) -> None:
    described: dict[str, Any] = json.loads((folder / "winner.json").read_text())
    assert [one["error"] for one in described["rounds"]][:2] == described["search"]["errors"]
    assert described["given"] == {"input_shape": [64], "outputs": 10}


def test_a_network_of_ones_own_has_no_page(folder: Path) -> None:
    done = hpo_in_one_process("export", "--study", "tiny.toml", "-o", "page", "--page", folder=folder)
    assert_one_line(done, 2, "--page is for task 'digit_pairs', but this is task 'classification'")
    assert not list(folder.glob("page*"))


def test_what_is_exported_is_loaded_without_the_study_and_takes_data_as_they_are(folder: Path) -> None:
    described = json.loads((folder / "winner.json").read_text())
    data = read_examples("sklearn:load_digits", None, Sources(Path()))
    x, y = torch.from_numpy(data.x).float(), torch.from_numpy(data.y)
    for number in (None, 1, 2):
        network = hpo.load_network(folder / "winner.safetensors", number, code=folder, allow=["tiny.py:TinyNet"])
        wrong = 100 * (network(x).argmax(-1) != y).double().mean().item()
        assert wrong == pytest.approx(described["error"]["mean"], abs=15)


def test_a_network_of_ones_own_is_loaded_only_where_its_code_is_named_or_allowed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "winner.safetensors"
    with pytest.raises(RequestError, match=r"it needs tiny\.py:TinyNet, which load_network\(…, code=FOLDER, allow="):
        hpo.load_network(file)
    with pytest.raises(RequestError, match=r"tiny\.py"):
        hpo.load_network(file, code=tmp_path)
    with pytest.raises(RequestError, match="it needs"):
        hpo.load_network(file, allow=["other.py:*"])
    monkeypatch.chdir(folder)
    assert isinstance(hpo.load_network(file, allow=["tiny.py:*"]), nn.Module)


def test_a_trial_is_measured_again_to_the_last_digit(folder: Path) -> None:
    found = json.loads(run(folder, "drift", "--study", "tiny.toml", "--json"))
    assert found["repetitions"][0]["errors"] == found["own"]["errors"]


def test_a_rate_is_found_for_the_first_configuration_or_another(folder: Path) -> None:
    short = ("lr-find", "--study", "tiny.toml", "--rounds", "2", "--steps", "5", "--json")
    assert json.loads(run(folder, *short))["params"] == {"hidden": 8, "dropout": 0.2, "optimizer": "sgd"}
    assert json.loads(run(folder, *short, "--set", "space.hidden=9"))["params"]["hidden"] == 9
    wrong = hpo_in_one_process(*short, "--set", "space.hiden=9", folder=folder)
    assert (wrong.returncode, "did you mean 'hidden'" in wrong.stderr) == (2, True)


def test_a_network_that_fails_in_a_range_test_is_one_line(folder: Path) -> None:
    (folder / "wrong.py").write_text(
        (folder / "tiny.py").read_text().replace("return logits", "return logits / (1 // 0)")
    )
    (folder / "wrong.toml").write_text(STUDY.replace("tiny.py", "wrong.py"))
    failed = hpo_in_one_process("lr-find", "--study", "wrong.toml", "--rounds", "2", folder=folder)
    assert failed.returncode == 2
    assert re.search(r"\nhpo: with .*: ZeroDivisionError: .* \(wrong.py, line \d+\)\n$", failed.stderr)


def test_a_rate_is_found_with_the_training_of_the_study_but_for_what_a_range_test_does_without(folder: Path) -> None:
    more = "momentum = 0.9\nepochs = 2\nschedule = 'cosine'\n"
    (folder / "with.toml").write_text(STUDY.replace("[space]\n", f"[space]\nbatch_size = [10, 20]\n{more}"))
    short = ("lr-find", "--study", "with.toml", "--rounds", "2", "--steps", "5", "--json")
    own = json.loads(run(folder, *short))
    plain = json.loads(run(folder, *short[:2], "tiny.toml", *short[3:]))
    assert own["params"] == {**plain["params"], "momentum": 0.9, "batch_size": 10}
    assert own["losses"] != plain["losses"]
    adam = json.loads(run(folder, *short, "--optimizer", "adam"))
    assert "momentum" not in adam["params"]  # which it does not have
    tiny = ("lr-find", "--study", "tiny.toml", "--rounds", "2", "--steps", "5", "--json")
    again = run(folder, *tiny, "--set", "space.momentum=0.9", "--set", "space.batch_size=10")
    assert json.loads(again)["losses"] == own["losses"]
    for setting, said in {
        "epochs=3": "has no effect in a range test",
        "momentm=0.9": "did you mean 'momentum'",
    }.items():
        wrong = hpo_in_one_process(*tiny, "--set", f"space.{setting}", folder=folder)
        assert_one_line(wrong, 2, f"--set space.{setting.split('=')[0]}")
        assert said in wrong.stderr


def test_a_list_that_leaves_rates_to_range_tests_is_exported_and_taken_apart(folder: Path) -> None:
    """Though no such rate is in its file."""
    head = STUDY.split("[space]")[0] + '[[trial]]\nlabel = "it"\n[trial.params]\nhidden = HIDDEN\noptimizer = "sgd"\n'
    for name, hidden in (("narrow", 8), ("wider", 16)):
        rated = f'{head.replace("HIDDEN", str(hidden))}learning_rate = "range_test"\n'
        (folder / f"{name}.toml").write_text(rated)
    run(folder, "optimize", "narrow.toml", "--workers", "1")
    assert "written: narrow.safetensors and narrow.json" in run(folder, "export", "narrow.toml", "-o", "narrow")
    found = run(folder, "ablate", "wider.toml", "--from", "narrow.toml", "--rounds", "6", "--workers", "1", "--json")
    names = [step["ingredient"]["names"] for step in json.loads(found)["without"]]
    assert sorted(names) == [["hidden"], ["learning_rate"]]  # what the one's was found to be, and the other's is to be
    run(folder, "confirm", "narrow.toml", "--rounds", "5", "--workers", "1")
    run(folder, "drift", "narrow.toml")


def test_a_search_that_leaves_out_a_default_is_taken_apart_with_it(folder: Path) -> None:
    (folder / "less.toml").write_text(STUDY.replace("dropout = { low = 0.2, high = 0.5 }\n", ""))
    run(folder, "optimize", "less.toml", "--trials", "2", "--workers", "1")
    head = STUDY.split("[space]")[0] + '[[trial]]\nlabel = "it"\n[trial.params]\nhidden = 7\n'
    (folder / "seven.toml").write_text(head + 'optimizer = "sgd"\nlearning_rate = 0.3\n')
    for whole, base in (("less", "seven"), ("seven", "less")):
        command = ("ablate", f"{whole}.toml", "--from", f"{base}.toml", "--rounds", "6", "--workers", "1", "--json")
        found = json.loads(run(folder, *command))
        names = {name for step in found["without"] for name in step["ingredient"]["names"]}
        assert {"hidden", "learning_rate"} <= names <= {"hidden", "learning_rate", "optimizer"}
        assert found["overruled"] == []


def test_an_export_says_itself_in_json(folder: Path) -> None:
    described = json.loads(run(folder, "export", "--study", "tiny.toml", "-o", "again", "--rounds", "2", "--json"))
    assert described == json.loads((folder / "again.json").read_text())


def test_a_figure_of_rates_is_saved_into_the_study_of_the_file(folder: Path) -> None:
    done = hpo_in_one_process("lr-find", "--study", "tiny.toml", "--steps", "5", folder=folder)
    assert (done.returncode, "saved into study 'tiny'" in done.stderr) == (0, True), done.stderr
