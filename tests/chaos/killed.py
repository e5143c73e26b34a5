"""Scenarios in which workers or trials die."""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from optuna.trial import TrialState

from hpo.storage.claims import read_running, read_slots
from hpo.storage.queries import count_trials
from hpo.workers.liveness import probe
from tests.chaos import faults
from tests.chaos.arena import Arena
from tests.chaos.faults import Faults
from tests.chaos.field import Field, check


def kill_one(field: Field, killed: list[str]) -> bool:
    """Kills a worker that runs a trial, if there is one at this moment."""
    workers = field.status().workers
    if not workers:  # between two trials of each
        return False
    try:
        os.kill(field.random.choice(workers)["pid"], signal.SIGKILL)
    except ProcessLookupError:  # the one that was killed before, whose trial was not given up yet
        return False
    killed.append(f"after {field.status().finished} trials")
    return True


def killed_at_random(arena: Arena) -> str:
    """Three workers are killed, at random moments."""
    with ExitStack() as stack:
        field = arena.field(stack)
        arena.launch(field)
        killed: list[str] = []
        for count in sorted(field.random.sample(range(arena.budget // 10, arena.budget * 8 // 10), 3)):
            field.wait_until_finished(count)
            field.wait_until(lambda: kill_one(field, killed))
        field.end()
        check(len(killed) == 3, f"{len(killed)} were killed")
        return f"killed {', '.join(killed)}; {len(field.failed())} trials failed"


def killed_in_windows(arena: Arena) -> str:
    """Workers are killed in each of the narrow windows around the start of a trial."""
    with ExitStack() as stack:
        windows = (faults.INSIDE_LOCK, faults.IN_TRANSACTION, faults.AFTER_INSERT)
        field = arena.field(stack, Faults(dict.fromkeys(windows, 1), chance=0.1 / arena.scale))
        return _killed(arena, field)


def killed_inside_the_lock(arena: Arena) -> str:
    """Three workers are killed while they hold the start lock, before they insert a trial."""
    return _killed_in(arena, faults.INSIDE_LOCK)


def killed_in_the_inserts_transaction(arena: Arena) -> str:
    """Three workers are killed after they inserted a trial, before the transaction is committed."""
    return _killed_in(arena, faults.IN_TRANSACTION)


def killed_after_the_insert(arena: Arena) -> str:
    """Three workers are killed right after they inserted a trial with their claim, still inside the lock."""
    return _killed_in(arena, faults.AFTER_INSERT)


def _killed_in(arena: Arena, window: str) -> str:
    with ExitStack() as stack:
        return _killed(arena, arena.field(stack, Faults({window: 3})))


def _killed(arena: Arena, field: Field) -> str:
    """Lets the faults kill, and finds in the database what each kill must have left."""
    expected = Counter(field.faults.windows)
    arena.launch(field)
    field.end()
    strikes = Counter(strike["window"] for strike in field.strikes())
    check(strikes == expected, f"struck {dict(strikes)} instead of {dict(expected)}")
    pids = {strike["pid"] for strike in field.strikes()}
    left = sum(trial.attributes["worker"]["pid"] in pids for trial in field.failed())
    check(left == expected[faults.AFTER_INSERT], f"{left} trials in the database after {dict(strikes)}")
    return f"killed {', '.join(f'{count} {window}' for window, count in strikes.items())}"


def all_killed_and_restarted(arena: Arena) -> str:
    """Every process of every machine is killed at the same moment; then they are started again."""
    with ExitStack() as stack:
        field = arena.field(stack)
        arena.launch(field)
        field.wait_until_finished(field.random.randrange(arena.budget // 5, arena.budget * 3 // 5))
        for machine in field.machines:
            machine.kill()
        left = field.status()
        check(left.finished < arena.budget, "the study had ended before the kill")
        field.machines.clear()
        arena.launch(field)
        field.end()
        return f"killed after {left.finished} trials with {left.running} running"


def ctrl_c_on_one(arena: Arena) -> str:
    """Ctrl-C on one of two machines; its trials' places are free at once."""
    with ExitStack() as stack:
        field = arena.field(stack, Faults(trial_seconds=2.0 * arena.scale))
        arena.launch(field)
        first = field.machines.pop(0)
        field.wait_until(lambda: field.status().finished >= arena.budget // 5 and _parents(field, "alive") == 2)
        code = first.interrupt()
        check(code == 130, f"exit code {code} after Ctrl-C: {first.said()}")
        check(_parents(field, "alive") + _parents(field, "gone") <= 1, "its trials are still running")
        interrupted = len(field.failed())
        field.end()
        check(first.said() == "", f"it said {first.said()}")
        check(not any("error" in trial.attributes for trial in field.failed()), "an interruption counts as an error")
        check(interrupted > 0, "no trial was interrupted")
        return f"{interrupted} running trials were given back at once"


def _parents(field: Field, state: str) -> int:
    """Counts the machines that run trials and are in this state."""
    parents = {trial.worker.parent for trial in read_running(field.storage, "chaos") if trial.worker}
    return sum(probe(parent) == state or (state == "gone" and probe(parent) == "unknown") for parent in parents)


def trials_that_fail(arena: Arena) -> str:
    """One trial raises, one is killed for lack of memory, one hangs beyond its limit."""
    with ExitStack() as stack:
        group = _memory_group(arena.folder, stack)
        plan = Faults(slots={"3": "raises", "5": "eats memory", "7": "hangs"})
        field = arena.field(stack, plan, trial_timeout_seconds=8.0)
        arena.launch(field)
        field.end()
        errors = {trial.attributes["slot"]: str(trial.attributes.get("error")) for trial in field.failed()}
        check(
            {slot: error.partition(" (faults.py")[0] for slot, error in errors.items()}
            == {
                3: "ArithmeticError: the numbers ran out",
                5: "its worker was killed by SIGKILL, perhaps for lack of memory",
                7: "it took longer than 8 s (run.trial_timeout_seconds)",
            },
            f"{errors}",
        )
        return f"each recorded with its cause; killed by {'the kernel, in a control group' if group else 'SIGKILL'}"


def _memory_group(folder: Path, stack: ExitStack) -> Path | None:
    """Makes a control group of 200 MiB, where this machine lets us."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    mine = next((line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory"), None)
    if mine is None:
        return None
    group = Path(f"/sys/fs/cgroup/memory{mine}") / f"hpo-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        stack.callback(group.rmdir)
        (group / "memory.limit_in_bytes").write_text(str(200 * 2**20))
    except OSError:
        return None
    (folder / "memory").symlink_to(group)
    return group


def failures_beyond_the_cap(arena: Arena) -> str:
    """Every trial fails; the run ends with a clear line instead of going on for ever."""
    with ExitStack() as stack:
        plan = Faults(slots={str(slot): "raises" for slot in (2, 3, 4)})
        field = arena.field(stack, plan, max_failed_trials=3)
        field.launch(machines=1, workers=3)
        code = field.machines[0].wait(60)
        said = field.said().splitlines()
        check(code == 1 and len(said) == 1 and "3 trials failed by an error" in said[0], f"{code}: {said}")
        check(count_trials(field.storage, "chaos")[TrialState.RUNNING] == 0, "some are running")
        check(read_slots(field.storage, "chaos").finished > 0, "none finished")
        return said[0]
