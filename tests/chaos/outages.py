"""Scenarios in which the database goes away, or is only being made."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from hpo.storage.backends import open_storage
from hpo.storage.queries import study_names
from tests.chaos.arena import Arena
from tests.chaos.field import Field, check


def server_restarted_twice(arena: Arena) -> str:
    """PostgreSQL is restarted twice in `immediate` mode, which is a crash."""
    with ExitStack() as stack:
        field = arena.field(stack)
        arena.launch(field)
        moments = sorted(field.random.sample(range(arena.budget // 10, arena.budget * 8 // 10), 2))
        for count in moments:
            field.wait_until_finished(count)
            arena.postgres.restart(signal.SIGQUIT)
        field.end()
        _check_no_live_trial_failed(field)
        return f"restarted after {' and '.join(map(str, moments))} trials; no live trial failed"


def server_stopped_for_30_s(arena: Arena) -> str:
    """PostgreSQL is stopped for 30 s; the grace period is longer."""
    with ExitStack() as stack:
        field = arena.field(stack, heartbeat_seconds=5.0, grace_seconds=60.0)
        arena.launch(field)
        count = field.random.randrange(arena.budget // 10, arena.budget * 8 // 10)
        field.wait_until_finished(count)
        arena.postgres.stop(signal.SIGQUIT)
        time.sleep(30)
        arena.postgres.start()
        field.end(seconds=180)
        _check_no_live_trial_failed(field)
        return f"stopped after {count} trials; no live trial failed"


def _check_no_live_trial_failed(field: Field) -> None:
    """One without parameters never ran: the answer to its insertion got lost, or its lock."""
    lived = [trial for trial in field.failed() if trial.attributes.get("errors") or "error" in trial.attributes]
    reported = [trial for trial in field.failed() if trial.params]
    check(not lived and not reported, f"live trials failed: {[t.number for t in (*lived, *reported)]}")


def brand_new_database(arena: Arena) -> str:
    """Eight processes open a database that is brand-new, five times over."""
    script = (
        "import sys, time; from hpo.storage.backends import open_storage\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "open_storage(sys.argv[1], create=True)\n"
    )
    count = max(1, round(5 * arena.scale))
    for _ in range(count):
        command = [sys.executable, "-c", script, arena.new_url(), str(time.time() + 4 * arena.scale)]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
        said = [process.communicate()[1] for process in processes]
        check([process.returncode for process in processes] == [0] * 8, f"{said}")
        check(study_names(open_storage(command[3])) == [], "there are studies")
    return f"opened {count} times by 8"


def disk_full(arena: Arena) -> str:
    """SQLite's disk is full; with space back, the command finishes the study."""
    disk = arena.folder / "disk"
    disk.mkdir()
    _mount(disk, "size=1m")
    with ExitStack() as stack:
        stack.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=True))
        field = arena.field(stack, url=f"sqlite:///{disk}/studies.db")
        arena.launch(field)
        codes = [machine.wait(90) for machine in field.machines]
        said = [machine.said().splitlines() for machine in field.machines]
        check(codes == [1, 1], f"exit codes {codes}; {said}")
        check(all(len(lines) == 1 for lines in said), f"more than a line: {said}")
        check(all("full" in line or "No space" in line for (line,) in said), f"unclear: {said}")
        finished = field.status().finished
        check(0 < finished < arena.budget, f"{finished} were finished")
        _mount(disk, "remount,size=64m")
        field.machines.clear()
        arena.launch(field)
        field.end()
        return f"full after {finished} trials: {said[0][0]!r}"


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
