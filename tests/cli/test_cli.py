"""The program as its user runs it: in a process of its own, by its exit codes and what it prints."""

from __future__ import annotations

import csv
import http.client
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpo import load_results
from hpo.cli.main import main
from tests.program import TINY, assert_one_line, commands, free_port, hpo, hpo_in_one_process
from tests.started import Started


def read(folder: Path, *arguments: str) -> Any:
    done = hpo(*arguments, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_reading_commands_have_the_documented_keys(worked: Path) -> None:
    best = read(worked, "best", "--study", "tiny")
    assert set(best) == {
        "study",
        "trial",
        "value",
        "std",
        "errors",
        "params",
        "rounds",
        "dataset",
        "metric",
        "title",
        "unit",
        "direction",
        "confirmed",
        "label",
        "interval",
        "on_new",
        "convergence",
        "ties",
        "ledger",
    }
    assert best["ledger"] == {
        **{"looks": 3, "selection": "by the test", "trials_while_searching": 3, "list": False},
        "confirmations": [],
    }
    assert (best["study"], best["rounds"], best["dataset"], best["confirmed"]) == ("tiny", 2, "digits", None)
    assert best["label"] is None
    (status,) = read(worked, "status")
    (alone, together) = (
        {key: value for key, value in found.items() if key != "trials_per_hour"}  # it falls as time goes by
        for found in (read(worked, "status", "--study", "tiny"), status)
    )
    assert alone == together
    assert {"study", "total", "complete", "pruned", "running", "failed", "best", "workers", "eta_seconds"} <= set(
        status
    )
    assert (status["total"], status["complete"], status["running"], status["eta_seconds"]) == (3, 3, 0, 0.0)
    trials = read(worked, "trials", "--study", "tiny")
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    keys = {"number", "state", "value", "std", "errors", "params", "label", "published"}
    keys |= {"seconds", "device", "precision", "worker"}
    assert all(keys <= set(trial) for trial in trials)
    assert best["value"] == min(trial["value"] for trial in trials)


def test_trials_are_a_table_for_other_programs_too(worked: Path) -> None:
    done = hpo("trials", "--study", "tiny", "--csv", folder=worked)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    trials = read(worked, "trials", "--study", "tiny")
    assert [float(row["value"]) for row in rows] == [trial["value"] for trial in trials]
    assert [float(row["round 1"]) for row in rows] == [trial["errors"][1] for trial in trials]
    assert [row["architecture"] for row in rows] == [trial["params"]["architecture"] for trial in trials]
    loaded = load_results("tiny", f"sqlite:///{worked}/hpo.db")
    assert [{key: str(value) if value is not None else "" for key, value in row.items()} for row in loaded] == rows
    assert_one_line(hpo("trials", "--study", "tiny", "--csv", "--json", folder=worked), 2, "exclude each other")


def test_tables_fit_80_columns(worked: Path) -> None:
    for command in (
        ["best", "--study", "tiny"],
        ["status"],
        ["trials", "--study", "tiny"],
        ["list"],
        ["show", "cnn_bn"],
    ):
        done = hpo(*command, folder=worked, COLUMNS="80")
        assert done.returncode == 0
        assert done.stdout.strip()
        assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 80


def test_repeating_the_command_does_nothing_and_a_larger_number_goes_on(worked: Path, tmp_path: Path) -> None:
    for file in worked.iterdir():
        shutil.copy(file, tmp_path)
    before = read(tmp_path, "trials", "--study", "tiny")
    for trials in (["--trials", "3"], ["--trials", "2"], []):
        again = hpo("optimize", "--study", "tiny.toml", *trials, folder=tmp_path)
        assert again.returncode == 0, again.stderr
        assert read(tmp_path, "trials", "--study", "tiny") == before
    (tmp_path / "tiny.toml").unlink()  # joining needs no file
    more = hpo_in_one_process("optimize", "--study", "tiny", "--trials", "4", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert read(tmp_path, "trials", "--study", "tiny")[:3] == before
    assert read(tmp_path, "status", "--study", "tiny")["total"] == 4


def test_fewer_trials_than_were_asked_for_are_said_and_can_be_made_the_target(worked: Path, tmp_path: Path) -> None:
    for file in worked.iterdir():
        shutil.copy(file, tmp_path)
    command = ["optimize", "--study", "tiny", "--trials", "2"]
    kept = hpo(*command, folder=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert kept.stderr.splitlines()[0] == (
        "study 'tiny' is to come to 3 trials, asked for earlier; --lower-target makes it 2"
    )
    assert read(tmp_path, "status", "--study", "tiny")["total"] == 3
    lowered = hpo(*command, "--lower-target", folder=tmp_path)
    assert lowered.returncode == 0, lowered.stderr
    assert lowered.stderr.splitlines()[0].startswith("tiny: 3 (2 asked) trials")
    status = read(tmp_path, "status", "--study", "tiny")
    assert (status["total"], status["complete"], status["eta_seconds"]) == (2, 3, 0.0)
    assert "3 (2 asked)" in hpo("status", folder=tmp_path).stdout
    without = hpo("optimize", "--study", "tiny", "--lower-target", folder=tmp_path)
    assert_one_line(without, 2, "--lower-target needs the new number, as in --trials 20")


def test_a_space_that_is_measured_whole_ends_the_study(tmp_path: Path) -> None:
    rates = "learning_rate = { low = 1e-3, high = 1.0, log = true }"
    (tmp_path / "four.toml").write_text(TINY.replace(rates, "learning_rate = 0.1"))
    for _ in range(2):
        done = hpo_in_one_process("optimize", "--study", "four.toml", "--trials", "200", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "4/4 trials" in done.stderr
        assert "the space has 4 configurations; all are measured" in " ".join(done.stdout.split())
    trials = read(tmp_path, "trials", "--study", "four")
    assert len({json.dumps(trial["params"]) for trial in trials}) == len(trials) == 4
    assert read(tmp_path, "status", "--study", "four")["total"] == 4


def test_a_misspelt_architecture_in_an_edited_file_is_not_passed_over(worked: Path, tmp_path: Path) -> None:
    for file in worked.glob("hpo.db*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny.toml").write_text(TINY.replace('"fnn"', '"fn"'))
    refused = hpo("optimize", "--study", "tiny", "--trials", "5", folder=tmp_path)
    assert_one_line(refused, 2, "no architecture named 'fn'; did you mean 'fnn'")


def test_a_broken_study_file_is_listed_as_broken(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "broken.toml").write_text("title = ")
    listed = {study["name"]: study["title"] for study in read(tmp_path, "list")["studies"]}
    assert "cannot be read" in listed["broken"]
    assert listed["cnn"].startswith("Digit comparison")


def test_errors_with_brackets_are_printed_as_they_are(worked: Path, tmp_path: Path) -> None:
    for file in worked.glob("hpo.db*"):
        shutil.copy(file, tmp_path)
    with sqlite3.connect(tmp_path / "hpo.db") as connection:
        connection.execute("update trials set state = 'FAIL' where number = 1")
        connection.execute(
            "insert into trial_user_attributes (trial_id, key, value_json) "
            "select trial_id, 'error', '\"ValueError: not in [/data] of [batch]\"' from trials where number = 1"
        )
    connection.close()
    assert "ValueError: not in [/data] of [batch]" in hpo("trials", "--study", "tiny", folder=tmp_path).stdout


def test_an_edited_file_names_the_difference_and_the_way_out(worked: Path, tmp_path: Path) -> None:
    for file in worked.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 2", "epochs = 3"))
    refused = hpo("optimize", "--study", "tiny.toml", "--trials", "5", folder=tmp_path)
    assert_one_line(refused, 2, "training.epochs is 3, but 2 there", "--name NEW starts a new study")
    renamed = hpo_in_one_process(
        "optimize", "--study", "tiny.toml", "--trials", "1", "--name", "other", folder=tmp_path
    )
    assert renamed.returncode == 0, renamed.stderr
    assert [status["study"] for status in read(tmp_path, "status")] == ["tiny", "other"]


def test_a_study_without_a_finished_trial_has_no_best(worked: Path, tmp_path: Path) -> None:
    for file in worked.glob("hpo.db*"):
        shutil.copy(file, tmp_path)
    with sqlite3.connect(tmp_path / "hpo.db") as connection:
        connection.execute("update trials set state = 'FAIL'")
    connection.close()
    assert_one_line(hpo("best", "--study", "tiny", folder=tmp_path), 2, "has no trial yet that was measured to the end")


def test_help_is_there_for_every_command() -> None:
    for name, command in commands().items():
        shown = CliRunner().invoke(command, ["--help"])
        assert shown.exit_code == 0, name
        assert command.help
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.param_type_name == "argument", (
                f"{name}: {parameter.name}"
            )


def test_help_fits_80_columns_and_cuts_no_sentence() -> None:
    whole = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in whole.replace("[ARGS]...", "")
    for name, command in [("", main), *commands().items()]:
        shown = CliRunner().invoke(command, ["--help"], terminal_width=80).output
        assert max(map(len, shown.splitlines())) <= 80, name
        assert not re.search(r"\b(INTEGER|FLOAT|TEXT|PATH|DIRECTORY)\b", shown), f"{name}: click's own metavar"


def test_show_prints_layers_of_an_architecture_and_the_resolved_study(tmp_path: Path) -> None:
    both = read(tmp_path, "show", "cnn")
    assert both["architecture"]["parameters"] == {"weight_sharing": 72_688, "no_weight_sharing": 144_914}
    assert both["study"]["protocol"]["rounds"] == 10
    printed = hpo("show", "cnn", folder=tmp_path)
    assert "learning_rate = { low = 0.0001, high = 1.0, log = true }" in printed.stdout
    assert "72,688 with weight sharing, 144,914 without" in printed.stdout


# On the server as it is started, of one who has the token but for the first; tests/dashboard/test_access.py has more.
ATTACKS = [
    ("GET", "/api/studies", {"Authorization": "Bearer " + "x" * 32}, 401),
    ("GET", "/api/studies", {"Host": "evil.example"}, 421),
    ("GET", "/api/studies", {"Origin": "https://evil.example"}, 403),
    ("DELETE", "/api/studies/1", {}, 405),
    ("POST", "/api/artifacts/1/1", {}, 405),
    ("GET", "/static/../../../../etc/passwd", {}, 404),
    ("GET", "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", {}, 404),
    ("GET", "/artifacts/1/..%2f..%2fetc%2fpasswd", {}, 404),
    ("GET", "/api/studies/0000000000000000001/plot/contour", {}, 404),
    ("GET", "/api/%2573tudies", {}, 404),
]


def test_the_dashboard_answers_on_loopback_with_learning_curves(worked: Path) -> None:
    import urllib.error
    import urllib.request

    port = str(free_port())
    server = Started("dashboard", "--port", port, folder=worked)
    try:
        said = server.stdout.readline()
        assert f"(for reading; Ctrl-C ends it): http://127.0.0.1:{port}/dashboard/?token=" in said
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/studies/1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked, timeout=10)
        asked.add_header("Authorization", "Bearer " + said.strip().rpartition("=")[2])
        with urllib.request.urlopen(asked, timeout=10) as answer:
            study = json.load(answer)
            assert "Server" not in answer.headers
        token = said.strip().rpartition("=")[2]
        for method, path, changed, status in ATTACKS:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
            connection.request(method, path, headers={"Authorization": f"Bearer {token}", **changed})
            assert connection.getresponse().status == status, (method, path, changed)
            connection.close()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.2:{port}/", timeout=10)
        taken = hpo("dashboard", "--port", port, folder=worked)
        assert_one_line(taken, 2, f"port {port} cannot be had")
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert [len(trial["intermediate_values"]) for trial in study["trials"]] == [2, 2, 2]
