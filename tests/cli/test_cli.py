"""The program as its user runs it: in a process of its own, by its exit codes and what it prints."""

from __future__ import annotations

import csv
import http.client
import json
import re
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpo import load_results
from hpo.cli.main import main
from hpo.storage.backends import open_storage
from hpo.storage.queries import set_study_attribute
from hpo.tasks.datasets import mnist_files
from tests.conftest import wait_for
from tests.program import commands, free_port, hpo, hpo_in_one_process, start_hpo

TINY = """
title = "A tiny search"
[task]
name = "digit_pairs"
dataset = "digits"
train_pairs = 100
test_pairs = 100
[training]
epochs = 2
batch_size = 50
evaluate_at = [1]
[protocol]
rounds = 2
[sampler]
name = "tpe"
[pruner]
name = "none"
[space]
architecture = ["fnn"]
weight_sharing = [true, false]
auxiliary_loss = [true]
activation = ["relu"]
optimizer = ["sgd", "adam"]
learning_rate = { low = 1e-3, high = 1.0, log = true }
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a tiny search of three trials has been run with one worker."""
    folder = tmp_path_factory.mktemp("worked")
    (folder / "tiny.toml").write_text(TINY)
    done = hpo("optimize", "--study", "tiny.toml", "--trials", "3", "--workers", "1", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "3/3 trials" in done.stderr
    assert "lowest test error" in done.stdout
    return folder


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
        "confirmed",
        "label",
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
    shutil.copy(worked / "hpo.db", tmp_path)
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
    shutil.copy(worked / "hpo.db", tmp_path)
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
    assert_one_line(refused, 2, "protocol.epochs is 3, but 2 there", "--name NEW starts a new study")
    renamed = hpo_in_one_process(
        "optimize", "--study", "tiny.toml", "--trials", "1", "--name", "other", folder=tmp_path
    )
    assert renamed.returncode == 0, renamed.stderr
    assert [status["study"] for status in read(tmp_path, "status")] == ["tiny", "other"]


def assert_one_line(done: subprocess.CompletedProcess[str], exit_code: int, *parts: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["optimize", "--study", "cn", "--trials", "5"], "no study named 'cn'; did you mean 'cnn'"),
        (["optimize", "--study", "absent.toml", "--trials", "5"], "absent.toml cannot be read"),
        (
            ["optimize", "--study", "quickstart", "--trials", "0"],
            "it must be a whole number from 1 to 1000000, but is '0'",
        ),
        (["optimize", "--study", "quickstart"], "needs a number of trials, as in --trials 200"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--workers", "none"], "--workers must be a number"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--device", "gpu"], "--device must be auto, cpu"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--storage", "hpo.db"], "is no database URL"),
        (["optimize", "--study", "wrong.toml", "--trials", "5"], "no architecture named 'fn'; did you mean 'fnn'"),
        (["optimize", "--study", "many.toml", "--trials", "5"], "train_pairs must be at most 1434006"),
        (["optimize", "--study", "quickstart", "--trials", "5", "--device", "cuda:7"], "this machine shows"),
        (["optimise"], "no command named 'optimise'; did you mean 'optimize'?"),
        (["status"], "sqlite:///hpo.db does not exist; hpo optimize creates it"),
        (["best", "--study", "cnn"], "does not exist"),
        (["dashboard"], "does not exist"),
        (["status", "--storage", "sqlite:///songs.db"], "is the database of another program (it has songs)"),
        (["show", "lenett"], "no study or architecture named 'lenett'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(TINY.replace('"fnn"', '"fn"'))
    (tmp_path / "many.toml").write_text(TINY.replace("train_pairs = 100", "train_pairs = 2000000"))
    connection = sqlite3.connect(tmp_path / "songs.db")
    connection.execute("create table songs (title text)")
    connection.close()
    assert_one_line(hpo(*arguments, folder=tmp_path), 2, complaint)
    if arguments[0] != "optimize":
        assert {file.name for file in tmp_path.iterdir()} == {"wrong.toml", "many.toml", "songs.db"}


def test_mnist_that_is_not_here_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    refusing = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    done = hpo(
        "optimize", "--study", "cnn", "--trials", "5", "--data", str(tmp_path / "data"), folder=tmp_path, **refusing
    )
    assert done.returncode == 2
    *_, last = done.stderr.strip().splitlines()
    assert str(mnist_files(tmp_path / "data")) in last
    assert "--dataset digits" in last
    assert "Traceback" not in done.stderr


def test_a_study_without_a_finished_trial_has_no_best(worked: Path, tmp_path: Path) -> None:
    shutil.copy(worked / "hpo.db", tmp_path)
    with sqlite3.connect(tmp_path / "hpo.db") as connection:
        connection.execute("update trials set state = 'FAIL'")
    connection.close()
    assert_one_line(hpo("best", "--study", "tiny", folder=tmp_path), 2, "has no trial yet that was measured to the end")


def test_a_worker_brings_an_unfinished_study_to_its_trials(worked: Path, tmp_path: Path) -> None:
    for file in worked.iterdir():
        shutil.copy(file, tmp_path)
    opened = open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    set_study_attribute(opened, "tiny", "target", 5)
    opened.engine.dispose()
    done = hpo("worker", "--exit-when-done", "--workers", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stderr
    assert "5/5" in done.stderr
    assert read(tmp_path, "status", "--study", "tiny")["complete"] == 5


def test_a_worker_waits_for_studies_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    waiting = start_hpo("worker", "--workers", "1", folder=tmp_path)
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "no studies yet; hpo optimize creates one\n"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert said.strip() == "interrupted; this goes on:\n  hpo worker --workers 1"


def test_status_can_be_watched_until_ctrl_c(worked: Path) -> None:
    watching = start_hpo("status", "--watch", folder=worked)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("study finished pruned")
    assert watching.stdout.readline().startswith("tiny")
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=20)
    assert (watching.returncode, said.strip()) == (130, "")


def running_trials(database: Path) -> int:
    """Returns how many trials run, 0 while there is no database or it has no tables yet."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("select name from sqlite_master where name = 'trials'").fetchone():
            return 0
        return int(connection.execute("select count(*) from trials where state = 'RUNNING'").fetchone()[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_a_resumable_study_and_prints_how(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(TINY.replace("epochs = 2", "epochs = 20000"))
    command = ["optimize", "--study", "long.toml", "--trials", "3", "--workers", "1"]
    running = start_hpo(*command, folder=tmp_path)
    try:
        wait_for(lambda: running_trials(tmp_path / "hpo.db") == 1)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert said.strip().splitlines()[-1].endswith("hpo " + " ".join(command))
    status = read(tmp_path, "status", "--study", "long")
    assert (status["running"], status["interrupted"], status["failed"]) == (0, 1, 0)


def test_one_trial_is_measured_again_on_this_machine(worked: Path, tmp_path: Path) -> None:
    for file in worked.iterdir():
        shutil.copy(file, tmp_path)
    winner = read(tmp_path, "best", "--study", "tiny")
    command = ["drift", "--study", "tiny", "--device", "cpu"]
    done = hpo_in_one_process(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"on a machine of another kind:\n  hpo drift --study tiny --trial {winner['trial']}" in done.stdout
    found = json.loads(hpo_in_one_process(*command, "--json", folder=tmp_path).stdout)
    assert (found["study"], found["trial"], found["params"]) == ("tiny", winner["trial"], winner["params"])
    first, second = found["repetitions"]
    assert first["errors"] == second["errors"] == found["own"]["errors"] == winner["errors"]
    assert first["difference"] is None
    assert second["difference"] == {"estimate": 0.0, "low": None, "high": None, "p_value": None}  # of two rounds
    shown = " ".join(hpo(*command, "--only-show", folder=tmp_path).stdout.split())
    assert "2 rounds, too few to tell a difference from chance" in shown
    assert read(tmp_path, *command, "--only-show") == found
    rows = read(tmp_path, "trials", "--study", "tiny")
    other = next(row["number"] for row in rows if row["number"] != winner["trial"])
    assert read(tmp_path, *command, "--only-show", "--trial", str(other))["repetitions"] == []
    assert_one_line(hpo(*command, "--trial", "99", folder=tmp_path), 2, "no trial 99 that was measured to the end")


def test_the_best_are_confirmed_on_fresh_rounds(worked: Path, tmp_path: Path) -> None:
    for file in worked.iterdir():
        shutil.copy(file, tmp_path)
    command = ["confirm", "--study", "tiny", "--top", "2", "--rounds", "5"]
    done = hpo_in_one_process(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "on 5 fresh rounds of digits" in " ".join(done.stdout.split())
    found = read(tmp_path, *command)
    assert (found["study"], found["name"], found["rounds"]) == ("tiny", "tiny-confirm", 5)
    winner = read(tmp_path, "best", "--study", "tiny")
    first = found["confirmed"][0]
    assert (winner["trial"], winner["confirmed"]["mean"]) == (first["trial"], first["mean"])
    assert first["optimism"] == pytest.approx(first["mean"] - winner["value"])
    for again in (("best", "--study", "tiny"), ("optimize", "--study", "tiny.toml", "--trials", "3")):
        said = " ".join(hpo(*again, folder=tmp_path).stdout.split())
        assert "confirmed on 5 fresh rounds" in said
        assert "not confirmed" not in said
        assert "hpo confirm" not in said
    fresh = load_results("tiny-confirm", f"sqlite:///{tmp_path}/hpo.db")[0]
    assert [key for key in fresh if key.startswith("round")] == [f"round {r}" for r in range(2, 7)]
    assert_one_line(hpo("confirm", "--study", "tny", folder=tmp_path), 2, "no study named 'tny'")


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
    server = start_hpo("dashboard", "--port", port, folder=worked)
    try:
        assert server.stdout is not None
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
        server.communicate()
    assert [len(trial["intermediate_values"]) for trial in study["trials"]] == [2, 2, 2]
