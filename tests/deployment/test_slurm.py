"""The batch script under Slurm itself: a controller and a node on this machine, without authentication."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.storage.backends import open_storage
from hpo.storage.queries import count_trials, read_trials
from hpo.study.definition import StudyDefinition
from tests.conftest import SMALL_STUDY, create, defined, wait_for
from tests.postgres import TemporaryPostgres

SCRIPT = Path("deploy/slurm/hpo.sbatch").absolute()
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
KillWait=30
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed; Debian's slurm-wlm is it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
]
Run = Callable[..., str]
TRIALS = 40  # so many that the last task to start still finds some


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Run]:
    """Runs a command of Slurm's, in the folder of the test, and returns what it prints."""
    folder = tmp_path / "slurm"
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    written = CONFIGURATION.format(
        host=platform.node().partition(".")[0], folder=folder, cpus=os.cpu_count(),
        controller_port=ports[0], node_port=ports[1],
    )  # fmt: skip
    (folder / "slurm.conf").write_text(written, encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HPO_", "SLURM_"))},
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(
            command, env={**environment, **more}, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ExitStack() as stack:
        for daemon in (["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            log = stack.enter_context((folder / f"{daemon[0]}.log").open("w"))
            process = subprocess.Popen(daemon, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        wait_until(lambda: "idle" in run("sinfo", "--noheader", "--format=%T"), 30)
        yield run
        run("scancel", "--full", "--user=root")
        wait_until(lambda: not run("squeue", "--noheader"), 60)


wait_until = partial(wait_for, pause_seconds=0.2)  # each look starts a program


def secret(folder: Path, url: str) -> str:
    """Writes a URL to a file for one's own eyes, and returns its name."""
    file = folder / "storage-url"
    file.touch(mode=0o600)
    file.write_text(url, encoding="utf-8")
    return str(file)


def test_an_array_of_workers_brings_a_study_to_its_trials(
    slurm: Run, tmp_path: Path, postgres: TemporaryPostgres, small_study: StudyDefinition
) -> None:
    url = postgres.create_database("slurm")
    opened = create(open_storage(url, create=True), "small", small_study, TRIALS)
    tasks = min(2, os.cpu_count() or 1)
    submit = ["sbatch", f"--array=0-{tasks - 1}", "--cpus-per-task=1", "--mem-per-cpu=0", str(SCRIPT)]
    slurm(*submit, HPO_STORAGE_FILE=secret(tmp_path, url))
    wait_until(lambda: not slurm("squeue", "--noheader"), 120)
    said = "".join(log.read_text() for log in tmp_path.glob("hpo-*.log"))
    counts = count_trials(opened, "small")
    assert counts[TrialState.COMPLETE] + counts[TrialState.PRUNED] == sum(counts.values()) == TRIALS, said
    workers = {trial.attributes["worker"]["pid"] for trial in read_trials(opened, "small")}
    assert len(workers) == tasks, said


def test_a_worker_that_slurm_ends_gives_its_trial_back(slurm: Run, tmp_path: Path, postgres: TemporaryPostgres) -> None:
    long = defined({**SMALL_STUDY, "training": {**SMALL_STUDY["training"], "epochs": 100_000}}, name="long")
    url = postgres.create_database("slurm_ends")
    opened = create(open_storage(url, create=True), "long", long, 1)
    submit = ["sbatch", "--parsable", "--array=0", "--cpus-per-task=1", "--mem-per-cpu=0", str(SCRIPT)]
    job = slurm(*submit, HPO_STORAGE_FILE=secret(tmp_path, url)).strip()
    wait_until(lambda: count_trials(opened, "long")[TrialState.RUNNING], 60)
    slurm("scancel", "--signal=TERM", job)
    wait_until(lambda: count_trials(opened, "long")[TrialState.FAIL], 20)
    (trial,) = read_trials(opened, "long")
    assert "error" not in trial.attributes, "an interruption counts as an error"
    wait_until(lambda: not slurm("squeue", "--noheader"), 30)
