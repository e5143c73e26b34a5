from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

import hpo
from hpo.data import draw_rounds
from hpo.errors import RequestError
from hpo.export import train_winner, write
from hpo.records import StoredTrial
from hpo.study import define_study

from .conftest import SMALL_STUDY
from .test_training import make_networks


@pytest.fixture(scope="module", params=["fnn", "cnn_bn"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study's trial, exported with two rounds; the study has three."""
    study = {**SMALL_STUDY, "space": {**SMALL_STUDY["space"], "architecture": ["fnn", "cnn_bn"]}}
    params = {
        **{"architecture": request.param, "weight_sharing": True, "auxiliary_loss": True, "activation": "elu"},
        **{"elu_alpha": 0.5, "optimizer": "sgd", "learning_rate": 0.1},
    }
    trial = StoredTrial(7, TrialState.COMPLETE, 9.0, None, None, params, {"std": 1.0, "errors": [8.0, 9.0, 10.0]})
    described, weights = train_winner(
        define_study(study, name="small"), trial, rounds=2, device="cpu", data_folder=Path()
    )
    file = tmp_path_factory.mktemp("exported") / "winner.safetensors"
    write(file, {"study": "small", **described}, weights)
    return file


def test_an_exported_network_errs_as_is_written_beside_it(exported: Path) -> None:
    described = json.loads(exported.with_suffix(".json").read_text())
    assert [one["round"] for one in described["rounds"]] == [0, 1]
    _, test_pairs = draw_rounds("digits", Path(), study_seed=0, rounds=range(2), train_pairs=200, test_pairs=200)
    for one in described["rounds"]:
        r = one["round"]
        pixels = test_pairs.images[r] * one["pixel_deviation"] + one["pixel_mean"]
        assert pixels.min() > -0.01  # as the dataset has them
        first, second = hpo.load_network(exported, r)(pixels)[1].argmax(-1).unbind(-1)
        wrong = ((first <= second).long() != test_pairs.targets[r]).double().mean().item()
        assert 100 * wrong == pytest.approx(one["error"], abs=0.51)  # one pair may fall the other way by rounding
    assert described["error"]["mean"] < 40
    assert described["search"] == {"mean": 9.0, "std": 1.0, "errors": [8.0, 9.0, 10.0]}
    assert (described["trial"], described["configuration"]["elu_alpha"]) == (7, 0.5)


def test_rounds_are_different_networks_and_the_first_is_loaded_unless_told(exported: Path) -> None:
    networks = [hpo.load_network(exported, number) for number in (None, 0, 1)]
    pairs = torch.rand(3, 2, 14, 14)
    results = [network(pairs)[1] for network in networks]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])
    assert not networks[0].training
    assert not results[0].requires_grad


def test_readmes_snippet_runs_as_it_stands(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(exported.parent)
    names: dict[str, torch.Tensor] = {}
    exec(snippet, names)
    assert names["smaller"].dtype == torch.bool
    assert len(names["smaller"]) == len(names["images"])


def test_the_exported_error_is_that_of_the_trial(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "hpo"]
    subprocess.run(
        [*run, "optimize", "--study", "quickstart", "--trials", "1", "--workers", "1"], cwd=tmp_path, check=True
    )
    done = subprocess.run(
        [*run, "export", "--study", "quickstart", "-o", "winner", "--rounds", "6", "--json"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    described = json.loads(done.stdout)
    errors = [one["error"] for one in described["rounds"]]
    assert errors[:5] == pytest.approx(described["search"]["errors"])
    assert len(errors) == 6  # the last is fresh
    assert json.loads((tmp_path / "winner.json").read_text()) == described


def test_a_file_that_is_no_export_is_refused_in_one_line(exported: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other, broken = tmp_path / "other.safetensors", tmp_path / "broken.safetensors"
    save_file(dict(make_networks("fnn")[0].state_dict()), other)
    broken.write_bytes(b"no")
    for file, number, complaint in (
        (tmp_path / "none.safetensors", None, "not there"),
        (broken, None, "no safetensors file"),
        (other, None, "not written by hpo export"),
        (exported, 5, "rounds 0 to 1, but not 5"),
    ):
        with pytest.raises(RequestError, match=complaint):
            hpo.load_network(file, number)
