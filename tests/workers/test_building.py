from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.study.loading import load_task
from hpo.workers.building import check_networks, ends
from tests.conftest import SMALL_STUDY, defined
from tests.program import assert_one_line, hpo_in_one_process
from tests.study.test_definition import changed

SIZED = changed(SMALL_STUDY, "space.architecture", ["deep_cnn", "unpooled_cnn"])


def refusal(table: dict[str, Any]) -> str:
    definition = defined(table, name="small")
    with pytest.raises(Exception, match=r"^study 'small': with ") as raised:
        check_networks(load_task(definition, study="small"), definition, study="small")
    return str(raised.value)


def test_every_choice_is_met_by_both_ends_of_every_size() -> None:
    table = changed(changed(SIZED, "space.depth", {"low": 3, "high": 5}), "space.width", {"low": 4, "high": 8})
    found = list(ends(defined(table, name="small"), {"architecture", "depth", "width"}))
    for architecture in ("deep_cnn", "unpooled_cnn"):
        of = [one for one in found if one["architecture"] == architecture]
        assert {one["depth"] for one in of} == {3, 5}
        assert {one["width"] for one in of} == {4, 8}


@pytest.mark.parametrize("depth", [[3, 7], {"low": 3, "high": 7}, 7])
def test_a_depth_that_one_architecture_cannot_have_is_refused(depth: Any) -> None:
    said = refusal(changed(SIZED, "space.depth", depth))
    assert "architecture = 'unpooled_cnn'" in said
    assert "depth must be at most 6, as each convolution takes two pixels of 14, but is 7" in said


def test_a_listed_network_that_cannot_be_built_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    params = 'weight_sharing = true, auxiliary_loss = true, activation = "relu", optimizer = "sgd", learning_rate = 0.1'
    rows = [f'[[trial]]\nlabel = "{depth}"\nparams = {{ architecture = "unpooled_cnn", depth = {depth}, width = 4, '
            f"{params} }}\n" for depth in (5, 7)]  # fmt: skip
    (tmp_path / "deep.toml").write_text(
        'title = "Deep"\n[task]\nname = "digit_pairs"\ndataset = "digits"\ntrain_pairs = 50\n' + "".join(rows)
    )
    done = hpo_in_one_process("optimize", "deep", folder=tmp_path)
    assert_one_line(done, 2, "study 'deep': with architecture = 'unpooled_cnn'")
    assert "depth must be at most 6" in done.stderr
    assert "deep" not in hpo_in_one_process("status", folder=tmp_path).stdout


def test_a_network_of_ones_own_is_built_at_its_smallest(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(hidden: int, layers: int):\n"
        "    if torch.ones(hidden).sum().item() < 2:  # needs its numbers\n"
        "        raise ValueError('too narrow')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, 10))\n"
    )
    table = (
        'title = "Mine"\n[task]\nname = "classification"\nnetwork = "mine.py:net"\ndata = "sklearn:load_digits"\n'
        '[space]\nlayers = [1, 2]\nhidden = { low = LOW, high = 4 }\noptimizer = "sgd"\nlearning_rate = 0.1\n'
    )
    for low, code in ((2, 0), (1, 2)):
        (tmp_path / "mine.toml").write_text(table.replace("LOW", str(low)))
        done = hpo_in_one_process("check", "mine.toml", folder=tmp_path)
        assert done.returncode == code, done.stderr
    assert_one_line(done, 2, "too narrow")


NORMED = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, outputs, kind: str = "normed"):
        norm = nn.BatchNorm1d(8) if kind == "normed" else nn.Identity()
        super().__init__(nn.Flatten(), nn.Linear(input_shape[0], 8), norm, nn.Linear(8, outputs))
"""
SIXTY_ONE = """
title = "Normed"
task = { name = "classification", network = "normed.py:Net", data = "sklearn:load_iris", train_examples = 61 }
training = { epochs = 1, batch_size = 25 }
protocol = { rounds = 2 }
"""
SPACE = "[space]\noptimizer = 'sgd'\nlearning_rate = 0.1\n"
LISTED = "[[trial]]\nlabel = '{0}'\nparams = {{ optimizer = 'sgd', learning_rate = 0.1, batch_size = {0} }}\n"


@pytest.mark.parametrize(
    "space",
    [
        SPACE + "batch_size = [25, 20]",
        SPACE + "batch_size = { low = 16, high = 25 }",
        SPACE + "kind = ['plain', 'normed']\nbatch_size = [25, 20]",
        LISTED.format(25) + LISTED.format(20),
    ],
    ids=["choices", "range", "kinds", "list"],
)
def test_batches_that_a_network_of_ones_own_cannot_train_on_are_refused(space: str, tmp_path: Path) -> None:
    """Of 61 examples in batches of 20 one is left over, of which a batch norm makes nothing."""
    (tmp_path / "normed.py").write_text(NORMED)
    (tmp_path / "normed.toml").write_text(SIXTY_ONE + space)
    done = hpo_in_one_process("optimize", "normed.toml", "--trials", "2", folder=tmp_path)
    assert_one_line(done, 2, "study 'normed': with ")
    assert "batch_size = 20" in done.stderr
    assert "Expected more than 1 value per channel" in done.stderr
    assert "normed" not in hpo_in_one_process("status", folder=tmp_path).stdout


def test_an_ablation_is_refused_before_anything_is_measured_where_a_part_of_it_cannot_be(tmp_path: Path) -> None:
    table = (
        'title = "Deep"\ntask = { name = "digit_pairs", dataset = "digits", train_pairs = 50, test_pairs = 50 }\n'
        'training = { epochs = 1 }\nprotocol = { rounds = 2 }\n[[trial]]\nlabel = "it"\n[trial.params]\n'
        'weight_sharing = true\nauxiliary_loss = true\nactivation = "relu"\noptimizer = "sgd"\nlearning_rate = 0.1\n'
    )
    (tmp_path / "unpooled.toml").write_text(table + 'architecture = "unpooled_cnn"\ndepth = 3\nwidth = 2\n')
    (tmp_path / "deep.toml").write_text(table + 'architecture = "deep_cnn"\ndepth = 8\nwidth = 2\n')
    command = ("ablate", "unpooled.toml", "--from", "deep.toml", "--rounds", "5", "--workers", "1")
    done = hpo_in_one_process(*command, folder=tmp_path)
    assert_one_line(done, 2, "study 'unpooled-ablation': with ", "architecture = 'unpooled_cnn'")
    assert "depth must be at most 6" in done.stderr
    assert "(--together A,B takes parameters as one that cannot be without each other)" in done.stderr
    assert "unpooled" not in hpo_in_one_process("status", folder=tmp_path).stdout
    together = hpo_in_one_process(*command, "--together", "architecture,depth", folder=tmp_path)
    assert together.returncode == 0, together.stderr
