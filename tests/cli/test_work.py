"""Commands that work on a study, and what ends them."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from hpo import load_results
from hpo.storage.backends import open_storage
from hpo.storage.queries import set_study_attribute
from tests.cli.test_cli import read
from tests.conftest import wait_for
from tests.program import TINY, assert_one_line, hpo, hpo_in_one_process, running_trials, write_quick
from tests.started import Started


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
    waiting = Started("worker", "--workers", "1", folder=tmp_path)
    assert waiting.stderr.readline() == "no studies yet; hpo optimize creates one\n"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert said.strip() == "interrupted; this goes on:\n  hpo worker --workers 1"


def test_status_can_be_watched_until_ctrl_c(worked: Path) -> None:
    watching = Started("status", "--watch", folder=worked)
    assert watching.stdout.readline().startswith("study finished pruned")
    assert watching.stdout.readline().startswith("tiny")
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=20)
    assert (watching.returncode, said.strip()) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_a_resumable_study_and_prints_how(number: signal.Signals, tmp_path: Path) -> None:
    if number == signal.SIGINT:
        (tmp_path / "long.toml").write_text(TINY.replace("epochs = 2", "epochs = 20000"))
    else:
        write_quick(tmp_path, "long.toml", seconds=60)
    command = ["optimize", "--study", "long.toml", "--trials", "3", "--workers", "1"]
    running = Started(*command, folder=tmp_path)
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
    assert f"on a machine of another kind:\n  hpo drift tiny.toml --trial {winner['trial']}" in done.stdout
    found = json.loads(hpo_in_one_process(*command, "--json", folder=tmp_path).stdout)
    assert (found["study"], found["trial"], found["params"]) == ("tiny", winner["trial"], winner["params"])
    first, second = found["repetitions"]
    assert first["errors"] == second["errors"] == found["own"]["errors"] == winner["errors"]
    assert first["difference"] is None
    assert second["difference"] == {"estimate": 0.0, "low": None, "high": None, "p_value": None}  # of two rounds
    shown = " ".join(hpo(*command, "--only-show", folder=tmp_path).stdout.split())
    assert "2 rounds cannot tell: 6 are the fewest that can" in shown
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
