"""Lock files of living workers, in a temporary folder that others share and a database that others write."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpo.errors import RequestError
from hpo.workers.liveness import KEPT_SECONDS, LivenessLock, probe

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's folder of lock files, in a temporary folder of the test's; not made yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"hpo-workers-{os.geteuid()}"


def test_the_folder_of_lock_files_is_the_users_own(folder: Path) -> None:
    with LivenessLock() as lock:
        assert lock.file.parent == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert probe(str(lock.file)) == "alive"
    with LivenessLock() as lock:
        assert lock.file.parent == folder


@pytest.mark.parametrize("kind", ["link", "file", "open to others", "open to the group"])
def test_a_folder_that_others_could_have_made_is_refused_and_left_as_it_is(folder: Path, kind: str) -> None:
    victim = folder.parent / "victim"
    victim.mkdir(mode=0o700)
    if kind == "link":
        folder.symlink_to(victim)
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "open to others" else 0o770)
    before = folder.lstat().st_mode
    with pytest.raises(RequestError, match="must be a folder of this user's that nobody else can write to"):
        LivenessLock()
    assert (folder.lstat().st_mode, victim.stat().st_mode & 0o777) == (before, 0o700)
    assert list(victim.iterdir()) == []


@AS_ROOT
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(RequestError, match="must be a folder of this user's"):
        LivenessLock()


def test_no_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(RequestError, match=r"No usable temporary directory found .*; TMPDIR names one"):
        LivenessLock()


def dead_worker(folder: Path) -> str:
    """Returns the file of a worker that was killed."""
    script = (
        "from hpo.workers.liveness import LivenessLock; import os\n"
        "with LivenessLock() as lock: print(lock.file, flush=True); os._exit(9)"
    )
    environment = {**os.environ, "TMPDIR": str(folder.parent)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout.strip()


def test_only_a_file_of_this_users_workers_is_believed(folder: Path) -> None:
    file = dead_worker(folder)
    assert probe(file) == "gone"
    elsewhere = folder.parent / "free.lock"
    elsewhere.touch()
    (folder / "folder.lock").mkdir()
    (folder / "link.lock").symlink_to(elsewhere)
    os.mkfifo(folder / "pipe.lock")  # whoever opens one waits for its other end
    for claimed in (
        *(elsewhere, folder / "folder.lock", folder / "link.lock", folder / "pipe.lock", folder / "none.lock"),
        *(folder, f"{folder}/../free.lock", f"{folder}/.", f"{folder}//free.lock"),
    ):
        assert probe(str(claimed)) == "unknown", claimed
    for claim in (None, 3, True, [file], {"file": file}, "", "a\0b", f"{folder}/a\0b", f"{folder}/\ud800", "x" * 10**6):
        assert probe(claim) == "unknown"


@AS_ROOT
def test_a_file_that_another_user_has_put_there_is_not_believed(folder: Path) -> None:
    file = dead_worker(folder)
    os.chown(file, 65534, 65534)
    assert probe(file) == "unknown"


def test_files_of_workers_that_were_killed_long_ago_are_removed(folder: Path) -> None:
    long_ago, lately = Path(dead_worker(folder)), Path(dead_worker(folder))
    then = time.time() - KEPT_SECONDS - 60
    with LivenessLock() as alive:
        for file in (long_ago, alive.file):
            os.utime(file, (then, then))
        with LivenessLock():
            pass
        assert probe(str(alive.file)) == "alive"
    assert not long_ago.exists()
    assert probe(str(lately)) == "gone"
