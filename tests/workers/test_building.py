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
