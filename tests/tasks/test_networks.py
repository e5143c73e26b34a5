"""Networks by name: hpo's own, and those of `models/` beside a study."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpo.errors import StudyError, UnknownName
from hpo.study.definition import define_study, read_study
from hpo.study.loading import load_task
from hpo.study.references import NETWORKS, Reference, Sources, find_model
from hpo.tasks.networks import convnet, mlp
from tests.program import assert_one_line, hpo_in_one_process

STUDY = """
title = "By name"
[task]
name = "classification"
network = "NAME"
data = "sklearn:load_iris"
[training]
epochs = 2
batch_size = 30
[protocol]
rounds = 2
[space]
hidden = { low = 4, high = 8 }
optimizer = ["adam"]
learning_rate = { low = 0.01, high = 0.1, log = true }
"""
WIDE = """
from torch import nn
def wide(input_shape, outputs, hidden=4):
    return nn.Sequential(nn.Linear(input_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, outputs))
"""


@pytest.mark.parametrize("shape", [[7], [2, 5], [3, 9, 12]])
def test_a_perceptron_takes_examples_of_any_shape(shape: list[int]) -> None:
    assert mlp(shape, 3, hidden=5, layers=2, dropout=0.5)(torch.zeros(4, *shape)).shape == (4, 3)
    assert mlp(shape, 3, layers=0)(torch.zeros(4, *shape)).shape == (4, 3)


@pytest.mark.parametrize("shape", [[1, 4, 4], [3, 28, 28], [2, 7, 5]])
def test_convolutions_take_images(shape: list[int]) -> None:
    assert convnet(shape, 10, width=3, hidden=5)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("shape", [[64], [8, 8], [1, 3, 8]])
def test_convolutions_take_nothing_else(shape: list[int]) -> None:
    with pytest.raises(ValueError, match="convnet needs images"):
        convnet(shape, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_hpos_networks_are_those_that_are_named(name: str) -> None:
    table = {
        "title": "x",
        "task": {"name": "classification", "network": name, "data": "sklearn:load_digits"},
        "space": {"learning_rate": {"low": 0.1, "high": 1.0}, "optimizer": ["sgd"]},
    }
    loaded = load_task(define_study(table, name="x"), study="x", sources=Sources(Path()))
    assert loaded.references == ()
    assert {"hidden", "dropout"} <= loaded.keywords().keys()


def write(folder: Path, name: str, **models: str) -> None:
    (folder / "named.toml").write_text(STUDY.replace("NAME", name))
    (folder / "models").mkdir(exist_ok=True)
    for stem, code in models.items():
        (folder / "models" / f"{stem}.py").write_text(code)


OPTIMIZE = ("optimize", "--study", "named.toml", "--trials", "2", "--workers", "1")


def test_models_of_the_folder_are_found_by_name_and_stored_with_their_place(tmp_path: Path) -> None:
    write(tmp_path, "wide", mine=WIDE, broken="def (", other="x = 1")
    done = hpo_in_one_process(*OPTIMIZE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    confirm = hpo_in_one_process("confirm", "--study", "named.toml", "--rounds", "5", "--workers", "1", folder=tmp_path)
    assert confirm.returncode == 0, confirm.stderr
    (tmp_path / "named.toml").unlink()  # somebody else finds it in the database alone
    more = hpo_in_one_process("optimize", "--study", "named", "--trials", "3", "--workers", "1", folder=tmp_path)
    assert (more.returncode, "--allow models/mine.py:wide" in more.stderr) == (2, True)
    allowed = ("--allow", "models/*.py:*")
    more = hpo_in_one_process(*("optimize", "--study", "named", "--trials", "3"), *allowed, folder=tmp_path)
    assert more.returncode == 0, more.stderr
    (tmp_path / "models" / "mine.py").write_text(WIDE + "# changed\n")
    changed = hpo_in_one_process(*("optimize", "--study", "named", "--trials", "4"), *allowed, folder=tmp_path)
    assert changed.returncode == 2
    assert "models/mine.py in" in changed.stderr
    assert "differs from the one that the study was created with" in changed.stderr


@pytest.mark.parametrize(
    ("name", "models", "said"),
    [
        ("wde", {"mine": WIDE}, "no network named 'wde'; code of yours is named as in 'tiny.py:TinyNet'; did you mean"),
        (
            "mlp",
            {"mine": WIDE.replace("wide", "mlp")},
            "models/mine.py has the name of what is shipped with hpo, 'mlp'",
        ),
        ("wide", {"mine": WIDE, "other": WIDE}, "models/mine.py and models/other.py both have 'wide'"),
        ("convnet", {}, "convnet needs images"),
        ("wide", {"mine": "def wide(:"}, "no network named 'wide'; models/mine.py is no Python"),
        ("wide", {"mine": WIDE + "1 / 0"}, "models/mine.py cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_name_that_cannot_be_is_one_line(name: str, models: dict[str, str], said: str, tmp_path: Path) -> None:
    write(tmp_path, name, **models)
    assert_one_line(hpo_in_one_process(*OPTIMIZE, folder=tmp_path), 2, said)
    assert not (tmp_path / "hpo.db").exists()


def test_private_names_and_files_are_none(tmp_path: Path) -> None:
    write(tmp_path, "wide", _mine=WIDE, mine="def _wide(): pass\nclass Deep: pass")
    with pytest.raises(UnknownName):
        find_model("wide", tmp_path, NETWORKS)
    with pytest.raises(UnknownName):
        find_model("_wide", tmp_path, NETWORKS)
    assert find_model("Deep", tmp_path, NETWORKS) == Reference("models/mine.py", "Deep")


def test_a_study_of_the_folder_may_not_have_the_name_of_one_of_hpos(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "quickstart.toml").write_text(STUDY.replace("NAME", "mlp"))
    (tmp_path / "studies" / "other.toml").write_text(STUDY.replace("NAME", "mlp"))
    done = hpo_in_one_process("optimize", "--study", "quickstart", "--trials", "1", folder=tmp_path)
    assert_one_line(done, 2, "studies/quickstart.toml has the name of a study of hpo's own")
    assert hpo_in_one_process("check", "other", folder=tmp_path).returncode == 0
    assert hpo_in_one_process("check", "studies/quickstart.toml", folder=tmp_path).returncode == 0


def test_a_study_that_is_named_finds_models_beside_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "wide", mine=WIDE)
    (tmp_path / "studies").mkdir()
    (tmp_path / "named.toml").rename(tmp_path / "studies" / "named.toml")
    assert hpo_in_one_process("check", "named", folder=tmp_path).returncode == 0
    with pytest.raises(StudyError, match="has the name of what is shipped"):
        find_model("wide", tmp_path, ["wide"])


def test_a_file_allows_the_network_that_it_names_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, "wide", mine=WIDE + "from subprocess import Popen\ndef deep(): pass\n")
    given = read_study(tmp_path / "named.toml")
    sources = Sources(tmp_path).allowing_file(tmp_path, given.references, given.network)
    assert sources.allows(Reference("models/mine.py", "wide"))
    for other in (
        ("models/mine.py", "Popen"),
        ("models/mine.py", "deep"),
        ("models/sub/x.py", "wide"),
        ("os", "system"),
    ):
        assert not sources.allows(Reference(*other))
