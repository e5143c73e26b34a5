"""What is done to the workers of a study, and what proves that it was done; every study must come out exactly.

A scenario gets an arena, makes its field there, and returns a line of evidence; it raises where something does not
hold. `scale` is 1 for `make chaos` and less for the test suite: the budget and the number of workers shrink with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from optuna.trial import TrialState

from hpo.storage.backends import open_storage
from hpo.storage.claims import FINISHED, read_running, read_slots
from hpo.storage.queries import count_trials, read_trials, study_names
from hpo.storage.watched_file import BUSY_SECONDS
from hpo.workers.liveness import probe
from tests.chaos import faults, network
from tests.chaos.faults import Faults
from tests.chaos.field import Field, Machine, check
from tests.postgres import TemporaryPostgres

Kind = Literal["sqlite", "postgresql"]
ACROSS_HOSTS: dict[str, Any] = {"heartbeat_seconds": 1.0, "grace_seconds": 4.0}


@dataclass
class Arena:
    """Where a scenario takes place: a folder, a kind of database, a seed.

    Attributes:
        postgres: a server that the scenario may stop.
    """

    kind: Kind
    folder: Path
    seed: int
    postgres: TemporaryPostgres
    scale: float = 1.0

    @property
    def budget(self) -> int:
        """100 trials at full scale."""
        return round(100 * self.scale)

    def new_url(self) -> str:
        """Returns the URL of a database that is new and empty."""
        name = uuid.uuid4().hex
        return f"sqlite:///{self.folder}/{name}.db" if self.kind == "sqlite" else self.postgres.create_database(name)

    def field(self, stack: ExitStack, plan: Faults | None = None, url: str | None = None, **run: Any) -> Field:
        """Makes a field, closed with the stack."""
        made = Field(url or self.new_url(), self.folder, seed=self.seed, budget=self.budget, faults=plan, **run)
        stack.callback(made.close)
        return made

    def launch(self, field: Field) -> None:
        """Starts the usual machines: two with four workers each."""
        field.launch(machines=2, workers=max(2, round(4 * self.scale)))


Play = Callable[[Arena], str]


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
        windows = (faults.INSIDE_LOCK, faults.IN_TRANSACTION, faults.AFTER_BIRTH)
        field = arena.field(stack, Faults(dict.fromkeys(windows, 1), chance=0.1 / arena.scale))
        return _killed(arena, field)


def killed_inside_the_lock(arena: Arena) -> str:
    """Three workers are killed while they hold the start lock, before they insert a trial."""
    return _killed_in(arena, faults.INSIDE_LOCK)


def killed_in_the_births_transaction(arena: Arena) -> str:
    """Three workers are killed after they inserted a trial, before the transaction is committed."""
    return _killed_in(arena, faults.IN_TRANSACTION)


def killed_after_the_birth(arena: Arena) -> str:
    """Three workers are killed right after a trial was born with their claim, still inside the lock."""
    return _killed_in(arena, faults.AFTER_BIRTH)


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
    check(left == expected[faults.AFTER_BIRTH], f"{left} trials in the database after {dict(strikes)}")
    return f"killed {', '.join(f'{count} {window}' for window, count in strikes.items())}"


def paused_beyond_the_grace_period(arena: Arena) -> str:
    """Two workers are paused in a trial until they have been given up for dead, and continued."""
    with ExitStack() as stack:
        field = arena.field(stack, Faults({faults.IN_TRIAL: 2}, act="pause", chance=0.1 / arena.scale), **ACROSS_HOSTS)
        arena.launch(field)
        field.wait_until(lambda: len(field.strikes()) == 2)
        pids = {strike["pid"] for strike in field.strikes()}

        def given_up() -> bool:
            return sum(trial.attributes.get("worker", {}).get("pid") in pids for trial in field.failed()) == 2

        field.wait_until(given_up)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        field.end()
        dropped = field.said().count("was given up for dead meanwhile; its result is dropped")
        check(dropped == 2, f"{dropped} results were dropped")
        return "two paused, given up, continued; both dropped their results"


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


def lock_holder_paused(arena: Arena) -> str:
    """The holder of the start lock is paused for a minute; the others go on within the lock's time-out."""
    with ExitStack() as stack:
        field = arena.field(stack, Faults({faults.INSIDE_LOCK: 1}, act="pause"))
        arena.launch(field)
        field.wait_until(lambda: len(field.strikes()) == 1)
        (strike,) = field.strikes()
        waited = _wait_for_the_next_start(field)
        check(25 < waited < 40, f"the others went on after {waited:.1f} s")
        time.sleep(max(0.0, 60 - (time.time() - strike["time"])))
        os.kill(strike["pid"], signal.SIGCONT)
        field.end()
        return f"the others went on after {waited:.1f} s"


def _wait_for_the_next_start(field: Field) -> float:
    """Waits until somebody starts a trial after the strike, and returns the seconds between."""
    (strike,) = field.strikes()
    time.sleep(0.5)  # what was started before may still appear
    before = field.status().trials
    field.wait_until(lambda: field.status().trials > before)
    return time.time() - float(strike["time"])


def paused_inside_a_transaction(arena: Arena) -> str:
    """The holder of the start lock is paused in the middle of a transaction, for longer than SQLite waits by itself.

    PostgreSQL ends its session, and the others go on; SQLite has nobody to do so, and all go on when it does.
    """
    with ExitStack() as stack:
        field = arena.field(stack, Faults({faults.IN_TRANSACTION: 1}, act="pause"))
        arena.launch(field)
        field.wait_until(lambda: len(field.strikes()) == 1)
        (strike,) = field.strikes()
        pause = BUSY_SECONDS + 15.0
        if arena.kind == "postgresql":
            waited = _wait_for_the_next_start(field)
            check(25 < waited < 40, f"the others went on after {waited:.1f} s")
            evidence = f"the others went on after {waited:.1f} s"
        else:
            time.sleep(5)
            before = field.status()
            time.sleep(pause - (time.time() - strike["time"]))
            check(field.status().trials == before.trials, "trials were started: no transaction was held up")
            evidence = f"paused after {before.finished} trials; all waited for {pause:g} s"
        time.sleep(max(0.0, pause - (time.time() - strike["time"])))
        os.kill(strike["pid"], signal.SIGCONT)
        field.end()
        return evidence


def lock_holder_cut_off(arena: Arena) -> str:
    """The network of the lock's holder drops every packet for a minute; the others go on within the time-out."""
    with ExitStack() as stack:
        wire = stack.enter_context(network.Wire(arena.seed))
        field = arena.field(stack, Faults({faults.INSIDE_LOCK: 1}, act="linger", chance=0.3, linger_seconds=5.0))
        field.launch(machines=1, workers=4, prefix=wire.prefix, url=wire.reach(field.url))
        field.wait_until(lambda: len(field.strikes()) == 1)  # only those behind the wire can be struck
        field.launch(machines=1, workers=4)
        wire.cut()
        waited = _wait_for_the_next_start(field)
        check(25 < waited < 45, f"the others went on after {waited:.1f} s")
        time.sleep(max(0.0, 60 - waited))
        wire.heal()
        field.end(seconds=240)
        return f"the others went on after {waited:.1f} s"


def three_hosts(arena: Arena) -> str:
    """Three hosts, each behind a wire of 10 ms, each cut off once, and one killed.

    The first while it holds the start lock; the second for a third of the grace period, which costs nothing: TCP
    doubles the time between its attempts, and may say nothing for as long again after the wire is whole. The third for
    longer than the grace period, so that its trials are given up, and it goes on with others afterwards. What is left
    then, a fourth host does quickly.
    """
    grace = 60.0 if arena.scale >= 1 else 10.0
    workers = max(1, round(3 * arena.scale))
    with ExitStack() as stack:
        wires = [stack.enter_context(network.Wire(number, delay=0.01)) for number in range(3)]
        # Long enough that the budget outlasts all of it.
        seconds = (90.0 + 3 * grace) * len(wires) * workers / arena.budget
        plan = Faults({faults.INSIDE_LOCK: 1}, act="linger", chance=1.0, trial_seconds=seconds)
        field = arena.field(stack, plan, heartbeat_seconds=grace / 10, grace_seconds=grace)

        def launch(wire: network.Wire) -> Machine:
            field.launch(machines=1, workers=workers, prefix=wire.prefix, url=wire.reach(field.url))
            return field.machines[-1]

        launch(wires[0])
        field.wait_until(lambda: len(field.strikes()) == 1)
        wires[0].cut()
        replace(plan, windows={}).write(field.folder)
        second, third = launch(wires[1]), launch(wires[2])
        waited = _wait_for_the_next_start(field)
        check(25 < waited < 45, f"the others went on after {waited:.1f} s")
        wires[0].heal()

        _wait_for_trials_of(field, second, workers)
        wires[1].cut()
        held = _trials_of(field, second)
        time.sleep(grace / 3)
        wires[1].heal()
        field.wait_until(lambda: _states(field, held) <= set(FINISHED))

        _wait_for_trials_of(field, third, workers)
        wires[2].cut()
        given_up = _trials_of(field, third)
        check(bool(held and given_up), "no trial was running when the wire was cut")
        field.wait_until(lambda: _states(field, given_up) == {TrialState.FAIL})
        time.sleep(grace / 4)
        wires[2].heal()
        field.wait_until(lambda: third.said().count("its result is dropped") == len(given_up))
        later = _wait_for_trials_of(field, third, 1)
        field.wait_until(lambda: _states(field, later) & set(FINISHED))

        check(field.status().finished < arena.budget, "the study ended before the last strike")
        replace(plan, windows={}, trial_seconds=0.05).write(field.folder)
        field.launch(machines=1, workers=workers)
        field.machines.remove(second)
        second.kill()
        field.end(seconds=240)
        return (
            f"went on {waited:.1f} s after the lock's holder was cut off; kept {len(held)} trials over "
            f"{grace / 3:g} s, gave up {len(given_up)} after {grace:g} s and went on; one host killed"
        )


def _wait_for_trials_of(field: Field, machine: Machine, count: int) -> list[int]:
    """Waits until a machine runs so many trials, and returns their numbers."""
    found: list[int] = []

    def enough() -> bool:
        found[:] = _trials_of(field, machine)
        return len(found) >= count

    field.wait_until(enough)
    return found


def _trials_of(field: Field, machine: Machine) -> list[int]:
    """Returns the trials that a machine runs and knows of.

    One whose birth has not been answered yet has no parameters; cut off then, its worker begins another.
    """
    return [
        trial.number
        for trial in read_trials(field.storage, "chaos", states=(TrialState.RUNNING,))
        if trial.params and Path(trial.attributes["worker"]["parent"]).name.startswith(f"{machine.pid}-")
    ]


def _states(field: Field, numbers: list[int]) -> set[TrialState]:
    return {trial.state for trial in read_trials(field.storage, "chaos") if trial.number in numbers}


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
    return _stopped(arena, seconds=30)


def server_stopped_for_3_s(arena: Arena) -> str:
    """PostgreSQL is stopped for 3 s; the grace period is longer."""
    return _stopped(arena, seconds=3)


def _stopped(arena: Arena, seconds: float) -> str:
    with ExitStack() as stack:
        field = arena.field(stack, heartbeat_seconds=5.0, grace_seconds=60.0)
        arena.launch(field)
        count = field.random.randrange(arena.budget // 10, arena.budget * 8 // 10)
        field.wait_until_finished(count)
        arena.postgres.stop(signal.SIGQUIT)
        time.sleep(seconds)
        arena.postgres.start()
        field.end(seconds=180)
        _check_no_live_trial_failed(field)
        return f"stopped after {count} trials; no live trial failed"


def _check_no_live_trial_failed(field: Field) -> None:
    """One without parameters never lived: its birth's answer got lost, or its lock."""
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


def trials_that_fail(arena: Arena) -> str:
    """One trial raises, one is killed for lack of memory, one hangs beyond its limit."""
    with ExitStack() as stack:
        group = _memory_group(arena.folder, stack)
        plan = Faults(slots={"3": "raises", "5": "eats memory", "7": "hangs"})
        field = arena.field(stack, plan, trial_timeout_seconds=8.0)
        arena.launch(field)
        field.end()
        errors = {trial.attributes["slot"]: trial.attributes.get("error") for trial in field.failed()}
        check(
            errors
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


@dataclass(frozen=True)
class Scenario:
    """One of the functions above, and the databases that it is for."""

    name: str
    play: Play
    kinds: tuple[Kind, ...] = ("sqlite", "postgresql")


SCENARIOS = (
    Scenario("three killed at random", killed_at_random),
    Scenario("killed inside the lock", killed_inside_the_lock),
    Scenario("killed in the birth's transaction", killed_in_the_births_transaction),
    Scenario("killed after the birth", killed_after_the_birth),
    Scenario("paused beyond the grace period", paused_beyond_the_grace_period),
    Scenario("all killed and restarted", all_killed_and_restarted),
    Scenario("Ctrl-C on one", ctrl_c_on_one),
    Scenario("trials that fail", trials_that_fail),
    Scenario("failures beyond the cap", failures_beyond_the_cap),
    Scenario("brand-new database", brand_new_database),
    Scenario("disk full", disk_full, ("sqlite",)),
    Scenario("server restarted twice", server_restarted_twice, ("postgresql",)),
    Scenario("server stopped for 30 s", server_stopped_for_30_s, ("postgresql",)),
    Scenario("lock holder paused", lock_holder_paused),
    Scenario("paused inside a transaction", paused_inside_a_transaction),
    Scenario("lock holder cut off", lock_holder_cut_off, ("postgresql",)),
    Scenario("three hosts", three_hosts, ("postgresql",)),
)
