"""Budget, slots, claims and the start lock: Hypothesis looks for an order of events that breaks them."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial

from hpo.search.samplers import concerns
from hpo.storage.backends import open_storage, start_lock
from hpo.storage.claims import FINISHED, read_failures, read_slots
from hpo.storage.fast_reads import TrialGone
from hpo.storage.locks import FileLock
from hpo.storage.postgresql import OUR_LOCKS
from hpo.storage.queries import count_trials, read_trials, study_attributes
from hpo.storage.studies import create_study, read_definition
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import show_only, trial_id_of
from hpo.study.repetition import identity_of
from hpo.workers import budget
from hpo.workers.budget import Heartbeats, start_trial
from hpo.workers.liveness import LivenessLock
from hpo.workers.slots import NoTrial, find_slot
from hpo.workers.status import read_status
from tests.conftest import SMALL_STUDY, create, defined, thorough
from tests.postgres import TemporaryPostgres

SPACE = {**SMALL_STUDY["space"], "activation": ["relu", "selu"], "learning_rate": [0.01, 0.1]}
del SPACE["elu_alpha"]
STUDY = defined(  # of a space that is finite, so no configuration is to be measured twice
    {**SMALL_STUDY, "space": SPACE, "sampler": {"name": "random"}, "pruner": {"name": "none"}}, name="small"
)
Rows = dict[str, list[dict[str, Any]]]  # of each table
TABLES = models.BaseModel.metadata.sorted_tables
MOST_TRIALS = 8
PROCESSES = 4
EVENTS = [
    "workers_here_are_killed",
    "workers_fall_silent",
    "another_program_adds_trials",
    "trials_are_enqueued",
    "a_backup_is_made",
    "the_backup_is_restored",
    "the_study_is_deleted_and_made_again",
    "more_are_asked_for",
    "fewer_are_asked_for",
]


@dataclass(frozen=True)
class Started:
    """A trial, and the process that works on it, which measures its own number."""

    started: optuna.Trial
    pid: int


class Workers(RuleBasedStateMachine):
    """Workers start, end and lose trials of one study; others write to the database, delete from it, and restore it.

    Workers on this host hold lock files, which are free when they die; those on other hosts have heartbeats alone.
    """

    trials: Bundle[Any] = Bundle("trials")

    @staticmethod
    def new_url() -> str:
        """Returns the URL of a database of the kind that is tried."""
        raise NotImplementedError

    @initialize(asked_for=st.integers(2, 6))
    def begin(self, asked_for: int) -> None:
        url = self.new_url()
        self.storage = create(open_storage(url, create=True), "small", STUDY, asked_for)
        self.processes = [open_storage(url, write=True) for _ in range(PROCESSES)]
        self.attributes = study_attributes(self.storage, "small")
        self.target, self.hosts, self.kept = asked_for, 0, (self._read_all(), asked_for)
        self.before = self.kept
        self.heartbeats = Heartbeats()
        self.alive: list[LivenessLock] = []
        self.working: dict[int, Started] = {}

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self._finish()
            for lock in self.alive:
                lock.__exit__(None, None, None)
            for opened in (self.storage, *self.processes):
                opened.engine.dispose()

    @rule(target=trials, here=st.booleans())
    def start(self, here: bool) -> Any:
        before = read_slots(self.storage, "small")
        started = self._start(here)
        if isinstance(started, NoTrial):
            assert before.finished + before.running >= self.target
            return multiple()
        return started

    @rule(target=trials)
    def start_while_the_lock_is_lost(self) -> Any:
        """The lock of one who is starting a trial is taken away, and another starts one meanwhile."""
        others: list[Any] = []
        find = find_slot

        def lose(*given: Any, **named: Any) -> Any:
            place = find(*given, **named)
            if not others:
                others.append(None)
                self._take_the_lock_away()
                others.append(self._start(here=False))
            return place

        with patch.object(budget, "find_slot", lose):
            others.append(self._start(here=False))
        return multiple(*(trial for trial in others if isinstance(trial, Started)))

    @rule(target=trials)
    def start_after_the_last_start_was_undone(self) -> Any:
        """A restore takes the last trial away, and another gets its id."""
        self._restore(*self.before)
        return self.start(here=False)

    @rule(trial=consumes(trials), state=st.sampled_from([*FINISHED, TrialState.FAIL]), by_error=st.booleans())
    def end(self, trial: Started, state: TrialState, by_error: bool) -> None:
        if self.working[trial.pid % PROCESSES] is not trial:  # its process has dropped it, and begun another
            return
        value = float(trial.pid)
        with suppress(UpdateFinishedTrialError, TrialGone):  # given up, or gone; nothing is written, as invariants say
            if state is TrialState.COMPLETE:
                trial.started.set_user_attr("errors", [value])
                trial.started.set_user_attr("std", None)
            elif state is TrialState.FAIL and by_error:
                trial.started.set_user_attr("error", "training broke")
            values = [value] if state is TrialState.COMPLETE else None
            trial.started.storage.set_trial_state_values(trial_id_of(trial.started), state, values)

    @rule(event=st.sampled_from(EVENTS))
    def something_happens(self, event: str) -> None:
        getattr(self, event)()

    def workers_here_are_killed(self) -> None:
        for lock in self.alive:
            lock.__exit__(SystemExit, None, None)  # as the kernel does: the file stays, and is free
        self.alive.clear()

    def workers_fall_silent(self) -> None:
        with self.storage.engine.begin() as connection:
            connection.execute(sa.text("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'"))

    def another_program_adds_trials(self) -> None:
        for claim in ({}, {"slot": 0}, {"slot": 0, "worker": "me"}):
            self._study().add_trial(create_trial(value=0.5, user_attrs=claim))

    def trials_are_enqueued(self) -> None:
        for rate in (0.01, 5.0):  # the second is outside the space
            self._study().enqueue_trial({"learning_rate": rate}, user_attrs={"refused": "no", "errors": [0.0]})

    def a_backup_is_made(self) -> None:
        self.kept = self._read_all(), self.target

    def the_backup_is_restored(self) -> None:
        self._restore(*self.kept)

    def the_study_is_deleted_and_made_again(self) -> None:
        optuna.delete_study(study_name="small", storage=self.storage)
        self._ask_for(self.target)

    def more_are_asked_for(self) -> None:
        self._ask_for(min(MOST_TRIALS, self.target + 2))

    def fewer_are_asked_for(self) -> None:
        self._ask_for(max(1, self.target - 1))

    @invariant()
    def no_slot_is_taken_twice(self) -> None:
        if not hasattr(self, "storage"):
            return
        taken = read_trials(self.storage, "small", states=(*FINISHED, TrialState.RUNNING))
        slots = Counter(trial.attributes["slot"] for trial in taken)
        assert all(count == 1 for count in slots.values()), slots
        assert all(slot < MOST_TRIALS for slot in slots)
        assert len({identity_of(trial.params) for trial in taken}) == len(taken), "measured twice"
        complete = [trial for trial in taken if trial.state is TrialState.COMPLETE]
        assert all(trial.value == trial.attributes["worker"]["pid"] for trial in complete), "another's result"
        status, counts = read_status(self.storage, "small"), count_trials(self.storage, "small")
        assert status.trials == sum(counts.values())
        failed = len(read_failures(self.storage, "small"))
        assert len(taken) + failed + status.foreign == status.trials - counts[TrialState.WAITING]

    def _finish(self) -> None:
        """Whoever still works on something ends it; whatever happened, the study comes to exactly its trials."""
        for trial in list(self.working.values()):
            self.end(trial, TrialState.COMPLETE, by_error=False)
        self.no_slot_is_taken_twice()
        self.workers_here_are_killed()
        self.workers_fall_silent()
        before = read_slots(self.storage, "small")
        while isinstance(started := self._start(here=False), Started):
            self.end(started, TrialState.COMPLETE, by_error=False)
        slots = read_slots(self.storage, "small")
        assert slots.running == 0
        assert slots.finished == max(self.target, before.finished)

    def _start(self, here: bool) -> Started | NoTrial:
        before = self._read_all(), self.target
        self.hosts += 1
        pid = self.hosts
        worker = Worker(f"host{pid}", pid, "cpu", f"/nowhere/{pid}.lock")
        if here:
            lock = LivenessLock().__enter__()
            self.alive.append(lock)
            worker = replace(worker, file=str(lock.file))
        process = self.processes[pid % PROCESSES]
        study = optuna.load_study(study_name="small", storage=process)
        show_only(process, study, partial(concerns, definition=STUDY))
        started = start_trial(
            process,
            study,
            read_definition(self.storage, "small"),
            worker,
            target=self.target,
            run_began_at=10**6,
            heartbeats=self.heartbeats,
        )
        if isinstance(started, NoTrial):
            return started
        self.before = before
        self.working[pid % PROCESSES] = Started(started, pid)
        return self.working[pid % PROCESSES]

    def _restore(self, kept: Rows, target: int) -> None:
        self.target = target
        with self.storage.engine.begin() as connection:
            for table in reversed(TABLES):
                connection.execute(sa.delete(table))
            for table in TABLES:
                if kept[table.name]:
                    connection.execute(sa.insert(table), kept[table.name])

    def _ask_for(self, target: int) -> None:
        self.target = target
        create_study(self.storage, "small", self.attributes, target, lower=True)

    def _take_the_lock_away(self) -> None:
        lock = start_lock(self.storage, "small")
        if isinstance(lock, FileLock):
            lock._path.unlink()
        else:
            with self.storage.engine.begin() as connection:
                connection.execute(
                    sa.text(
                        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' "
                        "and classid = :ours and database = "
                        "(select oid from pg_database where datname = current_database())"
                    ),
                    {"ours": OUR_LOCKS},
                )

    def _study(self) -> optuna.Study:
        return optuna.load_study(study_name="small", storage=self.storage)

    def _read_all(self) -> Rows:
        with self.storage.engine.connect() as connection:
            return {t.name: [dict(row._mapping) for row in connection.execute(sa.select(t))] for t in TABLES}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_order_of_events_breaks_the_budget(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def new_url_of_kind() -> str:
        name = uuid.uuid4().hex
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db"
        server: TemporaryPostgres = request.getfixturevalue("postgres")
        return server.create_database(name, template="template")

    class WorkersOfKind(Workers):
        new_url = staticmethod(new_url_of_kind)

    stateful.run_state_machine_as_test(
        WorkersOfKind,
        settings=settings(thorough(6), stateful_step_count=20),
    )
