"""hpo lr-find and hpo reproduce, run as their users run them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from hpo.storage.backends import open_storage
from hpo.storage.queries import read_trials, study_attributes, study_names
from hpo.study.range_tests import range_test_key
from hpo.study.task import Params
from tests.program import hpo, hpo_in_one_process

TINY_LIST = """
title = "A list that leaves its rates to range tests"
[task]
name = "digit_pairs"
dataset = "digits"
train_pairs = 100
test_pairs = 100
[training]
epochs = 2
batch_size = 50
[protocol]
rounds = 2
[run]
keep = ["losses", "gradient_norms"]
[[trial]]
label = "SGD"
[trial.params]
architecture = "fnn"
weight_sharing = true
auxiliary_loss = true
activation = "relu"
optimizer = "sgd"
learning_rate = "range_test"
[[trial]]
label = "SGD at 0.1"
[trial.params]
architecture = "fnn"
weight_sharing = true
auxiliary_loss = true
activation = "relu"
optimizer = "sgd"
learning_rate = 0.1
"""


def lr_find(*arguments: str) -> tuple[str, ...]:
    return (
        "lr-find",
        "--dataset",
        "digits",
        "--set",
        "space.architecture=fnn",
        "--rounds",
        "2",
        "--steps",
        "30",
        *arguments,
    )


def test_a_range_test_is_shown_and_written(tmp_path: Path) -> None:
    done = hpo(*lr_find("-o", "out", "--optimizer", "sgd", "--optimizer", "adam"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "range test of fnn+ws+al leaky_relu adam (2 rounds, digits)" in done.stdout
    assert "learning_rate = { low = " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads((tmp_path / "out" / "range_test_fnn-ws-al-leaky_relu-sgd.json").read_text())
    assert [len(curve) for curve in found["losses"]] == [len(found["rates"])] * 2 == [30, 30]
    page = (tmp_path / "out" / "range_test_fnn-ws-al-leaky_relu-adam.html").read_text()
    assert "plotly.js" in page
    assert 'src="http' not in page
    if shutil.which("chromium"):
        picture = (tmp_path / "out" / "range_test_fnn-ws-al-leaky_relu-adam.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert struct.unpack(">II", picture[16:24]) == (1800, 1080)  # twice the layout's
    assert not (tmp_path / "hpo.db").exists()


def test_a_range_test_comes_out_the_same_twice_as_json(tmp_path: Path) -> None:
    first, second = (json.loads(hpo(*lr_find("--json"), folder=tmp_path).stdout) for _ in range(2))
    assert first == second
    assert set(first) == {"optimizer", "rates", "losses", "optima", "mean", "std", "params", "dataset"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--set", "space.architecture=lenet"), "no architecture named 'lenet'"),
        (("--set", "activation"), "--set must be KEY=VALUE, as in --set protocol.seed=1, but is 'activation'"),
        (("--set", "activation=relu"), "--set needs a key with a point: --set space.activation=relu, as in"),
        (
            ("--set", "space.activation=gelu"),
            "activation must be 'relu', 'leaky_relu', 'elu', 'selu' or 'silu', but is 'gelu'",
        ),
        (("--set", "space.learning_rate=0.1"), "is not for a range test"),
        (("--low", "nan"), "it must be a number from 1e-30 to 1000000000, but is 'nan'"),
        (("--low", "1e-300", "--high", "1e-200"), "it must be a number from 1e-30 to 1000000000, but is '1e-300'"),
        (
            ("--steps", "9", "--rounds", "1", "--set", "space.architecture=fnn", "-o", "/dev/null/out"),
            "cannot be written",
        ),
        (("--low", "1", "--high", "0.1"), "--high must be at least 1.1 times --low, but they are 0.1 and 1"),
        (("--low", "1", "--high", "1.0000000000000002"), "--high must be at least 1.1 times --low"),
        (("--set", "space.rotation=9"), "--set space.rotation has no effect in a range test"),
        (("--study", "nowhere"), "no study named 'nowhere'"),
        (("--device", "cuda:7"), "--device cuda:7 is not here"),
        (("--high", "1e300"), "it must be a number from 1e-30 to 1000000000, but is '1e300'"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = hpo("lr-find", "--dataset", "digits", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_loss_that_does_not_fall_suggests_no_bounds(tmp_path: Path) -> None:
    done = hpo(*lr_find("--low", "1e-30", "--high", "1e-20"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the loss does not fall" in done.stdout
    assert "learning_rate =" not in done.stdout


def test_rounds_that_all_diverge_at_once_are_one_line(tmp_path: Path) -> None:
    done = hpo(*lr_find("--low", "1e6", "--high", "1e9"), folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "hpo: every round diverged at its first rates, from 1e+06; try a lower --low"
    )


def test_a_listed_rate_is_found_once_and_the_figure_saved_into_the_study(tmp_path: Path) -> None:
    (tmp_path / "rates.toml").write_text(TINY_LIST)
    done = hpo_in_one_process("optimize", "--study", "rates.toml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert re.search(r"study rates: SGD.* is ahead of SGD.* by .* points, but 2 rounds cannot tell", said)
    best = " ".join(hpo("best", "--study", "rates", folder=tmp_path).stdout.split())
    assert best.startswith(("study rates: SGD (trial 0) has", "study rates: SGD at 0.1 (trial 1) has"))
    assert "selection bias" not in said + best  # nothing was searched
    url = f"sqlite:///{tmp_path}/hpo.db"
    opened = open_storage(url)
    first, second = read_trials(opened, "rates")
    rated: Params = {
        **{"architecture": "fnn", "weight_sharing": True, "auxiliary_loss": True, "activation": "relu"},
        **{"optimizer": "sgd", "learning_rate": "range_test"},
    }
    kept = study_attributes(opened, "rates")[range_test_key(rated)]
    assert first.params["learning_rate"] == kept["mean"]
    assert kept["versions"] == first.attributes["versions"]
    assert (kept["device"], kept["measured"][-1]) == (first.attributes["device"], "Z")
    assert range_test_key({**rated, "schedule": "cosine", "epochs": 9}) == range_test_key(rated)  # nothing to it
    assert range_test_key({**rated, "optimizer": "adam"}) != range_test_key(rated)
    exported = hpo_in_one_process("export", "rates", "--trial", "0", "-o", "found", folder=tmp_path)
    assert "written: found.safetensors and found.json" in exported.stdout, exported.stderr
    assert second.params["learning_rate"] == 0.1
    assert [len(epoch) for epoch in first.attributes["losses_by_step"]] == [2, 2]
    assert set(first.attributes["gradient_norms"]) == {"towers.0.1", "towers.0.3", "towers.0.5", "head.0", "head.2"}

    done = hpo(*lr_find("--study", "rates"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "saved into study 'rates'" in done.stderr
    study = optuna.load_study(study_name="rates", storage=url)
    figures = get_plotly_graph_objects(study._storage.get_study_system_attrs(study._study_id))
    assert list(figures) == ["range_test_fnn-ws-al-leaky_relu-sgd"]
    assert "mean optimum" in next(iter(figures.values()))

    done = hpo(*lr_find("--study", "rates", "--rounds", "3"), folder=tmp_path)
    assert done.stderr.splitlines()[-1] == "not saved: study 'rates' has rounds = 2"
    study = optuna.load_study(study_name="rates", storage=url)
    assert get_plotly_graph_objects(study._storage.get_study_system_attrs(study._study_id)) == figures


def test_a_quick_look_resumes_and_writes_a_document_of_its_own(tmp_path: Path) -> None:
    command = ("reproduce", "report_a_table_1", "report_b_table_1", "--dataset", "digits", "--rounds", "2", "-o", "out")
    for _ in range(2):
        done = hpo_in_one_process(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    mark = "a quick look (digits 2 rounds), no reproduction"
    assert done.stdout.splitlines()[:2] == ["Report A, table I: the linear network", mark]
    assert "FNN + WS + AL" in done.stdout
    assert "verdict" not in done.stdout.partition("Report B")[0]
    assert "21,182" in done.stdout
    text = (tmp_path / "out" / "reproduction-digits-2-rounds.md").read_text()
    assert text.startswith("# A quick look")
    assert text.count("| FNN") == 8
    assert "| residual | 44,386 | 44,386 | 22,424 | 22,424 | equal |" in text
    assert "not measured yet: `hpo reproduce report_a_table_2`" in text
    opened = open_storage(f"sqlite:///{tmp_path}/hpo.db")
    assert len(read_trials(opened, "report_a_table_1-digits-2-rounds")) == 4
    assert "older than the code" not in done.stderr

    listed = hpo(*command, "--stale", folder=tmp_path)
    assert listed.stdout.startswith("out/reproduction-digits-2-rounds.json: nothing is stale")
    with closing(sqlite3.connect(tmp_path / "hpo.db")) as database, database:  # what another version has measured
        older = """replace(value_json, '"torch": "', '"torch": "0.')"""
        database.execute(f"UPDATE trial_user_attributes SET value_json = {older} WHERE key = 'versions'")
    done = hpo_in_one_process(*command, folder=tmp_path)
    *_, note, again = done.stderr.splitlines()
    assert note.startswith("cells and range tests that are older than the code, or of other versions: 4;")
    listed = hpo(*command, "--stale", folder=tmp_path)
    assert listed.returncode == 0
    assert len(re.findall(r"report_a_table_1 .*Z +torch *\n", listed.stdout)) == 4
    assert listed.stdout.splitlines()[-1] == again == "  hpo " + shlex.join([*command, "--again"])
    for _ in range(2):  # the second time it finds it measured
        done = hpo_in_one_process(*command, "--again", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "older than the code" not in done.stderr
    kept = {name: len(read_trials(opened, name)) for name in study_names(opened)}
    assert kept == {"report_a_table_1-digits-2-rounds": 4, "report_a_table_1-digits-2-rounds-again": 4}
    assert "nothing is stale" in hpo(*command, "--stale", folder=tmp_path).stdout
    missing = hpo("reproduce", "--stale", "-o", "elsewhere", folder=tmp_path)
    assert (missing.returncode, missing.stderr[:43]) == (2, "hpo: there is no elsewhere/reproduction.jso")


def test_an_unknown_table_is_one_line(tmp_path: Path) -> None:
    done = hpo("reproduce", "report_c", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("hpo: no table or figure named 'report_c'; there are: report_a_figure_1, ")
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_is_drawn(tmp_path: Path) -> None:
    done = hpo("show", "cnn_bn", "-o", "net.html", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Conv2d 32x1x3x3" in (tmp_path / "net.html").read_text()
    for arguments in (("show", "cnn", "-o", "net.txt"), ("show", "quickstart", "-o", "net.html")):
        assert hpo(*arguments, folder=tmp_path).returncode == 2
