from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hpo
from hpo.errors import RequestError
from hpo.study.references import Sources
from hpo.study.task import Measurement
from hpo.training.export import train_again, write
from tests import program
from tests.conftest import SMALL_STUDY, defined, draw_pairs
from tests.text.test_files import full_disk
from tests.training.test_rounds import make_networks


@pytest.fixture(scope="module", params=["fnn", "cnn_bn"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study's trial, exported with two rounds; the study has three."""
    study = {**SMALL_STUDY, "space": {**SMALL_STUDY["space"], "architecture": ["fnn", "cnn_bn"]}}
    params = {
        **{"architecture": request.param, "weight_sharing": True, "auxiliary_loss": True, "activation": "elu"},
        **{"elu_alpha": 0.5, "optimizer": "sgd", "learning_rate": 0.1},
    }
    described, weights = train_again(
        defined(study, name="small"), params, rounds=2, device="cpu", sources=Sources(Path())
    )
    file = tmp_path_factory.mktemp("exported") / "winner.safetensors"
    write(file, {"study": "small", **described}, weights)
    return file


def test_an_exported_network_errs_as_is_written_beside_it(exported: Path) -> None:
    described = json.loads(exported.with_suffix(".json").read_text())
    assert [one["round"] for one in described["rounds"]] == [0, 1]
    _, test_pairs = draw_pairs(range(2), train_pairs=200, test_pairs=200)
    for one in described["rounds"]:
        r = one["round"]
        pixels = test_pairs.images[r] * one["input_deviation"] + one["input_mean"]
        assert pixels.min() > -0.01  # as the dataset has them
        first, second = hpo.load_network(exported, r)(pixels)[1].argmax(-1).unbind(-1)
        wrong = ((first <= second).long() != test_pairs.targets[r]).double().mean().item()
        assert 100 * wrong == pytest.approx(one["error"], abs=0.51)  # one pair may fall the other way by rounding
    assert described["error"]["mean"] < 40
    assert described["params"]["elu_alpha"] == 0.5


def test_rounds_are_different_networks_and_the_first_is_loaded_unless_told(exported: Path) -> None:
    networks = [hpo.load_network(exported, number) for number in (None, 0, 1)]
    pairs = torch.rand(3, 2, 14, 14)
    results = [network(pairs)[1] for network in networks]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])
    assert not networks[0].training
    assert not results[0].requires_grad


def test_what_is_measured_in_the_place_of_weights_is_exported_and_sizes_are_found_again(tmp_path: Path) -> None:
    params: dict[str, Any] = {
        **{"architecture": "cnn_bn", "weight_sharing": True, "auxiliary_loss": True, "activation": "silu"},
        **{"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "ema_decay": 0.9, "epochs": 3},
        **{"width": 4, "dropout": 0.2, "label_smoothing": 0.1, "shift": 1.0},
    }
    shown: list[tuple[int, int]] = []

    def watch(epochs: Iterable[Measurement], total: int) -> Iterator[Measurement]:
        for number, epoch in enumerate(epochs, 1):
            shown.append((number, total))
            yield epoch

    told: dict[str, Any] = {"rounds": 1, "device": "cpu", "sources": Sources(Path()), "watch": watch}
    described, weights = train_again(defined(SMALL_STUDY, name="small"), params, **told)
    assert shown == [(1, 3), (2, 3), (3, 3)]  # its own epochs, as a progress bar shows them
    file = tmp_path / "winner.safetensors"
    write(file, {"study": "small", **described}, weights)
    _, test_pairs = draw_pairs(range(1), train_pairs=200, test_pairs=200)
    (one,) = described["rounds"]
    pixels = test_pairs.images[0] * one["input_deviation"] + one["input_mean"]
    first, second = hpo.load_network(file)(pixels)[1].argmax(-1).unbind(-1)
    wrong = ((first <= second).long() != test_pairs.targets[0]).double().mean().item()
    assert 100 * wrong == pytest.approx(one["error"], abs=0.51)


def test_an_ensemble_is_exported_as_one_network(tmp_path: Path) -> None:
    params: dict[str, Any] = {
        **{"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu"},
        **{"optimizer": "sgd", "learning_rate": 0.1, "ensemble": 2},
    }
    described, weights = train_again(
        defined(SMALL_STUDY, "small"), params, rounds=2, device="cpu", sources=Sources(Path())
    )
    assert {name.rpartition("towers")[0] for name in weights if "towers" in name} == {
        f"round.{number}.member.{member}." for number in (0, 1) for member in (0, 1)
    }
    write(tmp_path / "two.safetensors", described, weights)
    _, test_pairs = draw_pairs(range(2), train_pairs=200, test_pairs=200)
    for number, one in enumerate(described["rounds"]):
        pixels = test_pairs.images[number] * one["input_deviation"] + one["input_mean"]
        first, second = hpo.load_network(tmp_path / "two.safetensors", number)(pixels)[1].argmax(-1).unbind(-1)
        wrong = ((first <= second).long() != test_pairs.targets[number]).double().mean().item()
        assert 100 * wrong == pytest.approx(one["error"], abs=0.51)


def test_readmes_snippet_runs_as_it_stands(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("docs/walk.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(exported.parent)
    names: dict[str, torch.Tensor] = {}
    exec(snippet, names)
    assert names["smaller"].dtype == torch.bool
    assert len(names["smaller"]) == len(names["images"])


@pytest.mark.slow
def test_the_exported_error_is_that_of_the_trial(tmp_path: Path) -> None:
    done = program.hpo("optimize", "--study", "quickstart", "--trials", "1", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    export = ("export", "--study", "quickstart", "-o", "winner.json", "--rounds", "6", "--json")
    done = program.hpo(*export, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    errors = [one["error"] for one in described["rounds"]]
    assert errors[:5] == pytest.approx(described["search"]["errors"])
    assert len(errors) == 6  # the last is fresh
    assert json.loads((tmp_path / "winner.json").read_text()) == described
    assert {file.name for file in tmp_path.glob("winner*")} == {"winner.json", "winner.safetensors"}


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


DESCRIBED: dict[str, Any] = {
    "task": {"name": "digit_pairs", "dataset": "digits"},
    "training": {"epochs": 2},
    "params": {
        **{"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "elu"},
        **{"elu_alpha": 1.0, "optimizer": "sgd", "learning_rate": 0.1},
    },
    "rounds": [{"round": 0, "input_mean": 1.0, "input_deviation": 2.0}],
}


def described(**changed: Any) -> str:
    return json.dumps({**DESCRIBED, **changed})


def configured(**changed: Any) -> str:
    return described(params={**DESCRIBED["params"], **changed})


def measured(**changed: Any) -> str:
    return described(rounds=[{**DESCRIBED["rounds"][0], **changed}])


def each(make: Callable[..., str], key: str, *values: Any) -> list[str]:
    return [make(**{key: value}) for value in values]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "1", "[]", "{}", "NaN", '"x"', "[" * 100_000, '{"rounds": ' * 100_000),
        *each(described, "rounds", [], {}, None, [None], [[]], [{}]),
        *each(described, "params", {}, [], None, "fnn"),
        *each(described, "task", {}, [], None, "digit_pairs", {"name": "subprocess:Popen"}, {"name": "digit_pairs"}),
        *each(measured, "round", None, "0", -1, True, 10**30, []),
        *each(measured, "input_mean", None, "1", [], {}, float("nan"), float("inf")),
        *each(measured, "input_deviation", None, "1", [], {}, 0, -1.0),
        *each(configured, "architecture", None, 3, ["fnn"], "../fnn", "_pair", "os\nsystem", ""),
        *each(configured, "activation", None, "tanh", {}),
        *each(configured, "weight_sharing", None, 1, "yes"),
        *each(configured, "elu_alpha", "1", -1, float("inf")),
    ],
    ids=lambda text: text[-60:],
)
def test_a_description_that_is_none_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "other.safetensors"
    state = make_networks("fnn")[0].state_dict()
    save_file({f"round.0.{name}": tensor for name, tensor in state.items()}, file, metadata={"hpo": text})
    with pytest.raises(RequestError) as raised:
        hpo.load_network(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", ["none", "one is missing", "one more", "another shape"])
def test_weights_that_do_not_fit_are_refused_in_one_line(change: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "other.safetensors"
    tensors = {f"round.0.{name}": tensor for name, tensor in make_networks("fnn")[0].state_dict().items()}
    first = next(iter(tensors))
    if change == "none":
        tensors = {"round.1.a": torch.zeros(1)}
    elif change == "one is missing":
        del tensors[first]
    else:
        tensors[first if change == "another shape" else "round.0.more"] = torch.zeros(1)
    save_file(tensors, file, metadata={"hpo": described()})
    with pytest.raises(RequestError) as raised:
        hpo.load_network(file)
    assert str(raised.value) == f"{file}: the weights of round 0 are not those of fnn+ws+al elu ea=1 sgd lr=0.1"


def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for place in (tmp_path, tmp_path / "pipe.safetensors"):
        with pytest.raises(RequestError, match="is no file"):
            hpo.load_network(place)


def test_a_full_disk_leaves_the_export_before_as_it_was(exported: Path, tmp_path: Path) -> None:
    for file in (exported, exported.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(OSError, match="File too large"), full_disk():
        write(tmp_path / exported.name, {"much": "x" * 5000}, {"round.0.a": torch.zeros(1)})
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
