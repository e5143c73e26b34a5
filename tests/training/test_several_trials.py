"""Trials on recorded structures: each is what it would be alone, whatever is trained before it or beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch

from hpo.study.task import Measurement, Params
from hpo.study.training import Training
from hpo.tasks.digit_pairs.task import DigitPairs
from hpo.training.recording.recorded import RecordedRounds
from hpo.training.together import most_together
from hpo.training.trainer import Trainer
from tests.training.test_rounds import Tape
from tests.training.test_trainer import ROUNDS, params, task

TRAINING = Training(epochs=3, batch_size=30, evaluate_at=(1,))  # 200 pairs: the last batch is short


class Stacked(DigitPairs):
    """Pairs whose networks are stacked by PyTorch, as on a GPU."""

    def fast_rounds(self, networks: Any, params: Any, config: Any) -> None:
        return None


def make_trainer(
    tapes: list[Tape] | None = None, *, task_settings: Mapping[str, Any] = MappingProxyType({}), **how: Any
) -> Trainer:
    def record() -> Tape:
        assert tapes is not None
        tapes.append(Tape())
        return tapes[-1]

    return Trainer(
        task(Stacked, **task_settings),
        TRAINING,
        stacked=True,
        dtype=torch.float64,
        recorder=None if tapes is None else record,
        **how,
    )


def configuration(**changes: Any) -> Params:
    return {**params("fully_connected"), "optimizer": "sgd", "learning_rate": 0.1, **changes}


CONFIGURATIONS = [
    configuration(),
    configuration(learning_rate=0.03),
    configuration(optimizer="adam", learning_rate=0.003),
    configuration(auxiliary_loss=False),
    configuration(),
]


def assert_same(ours: list[Measurement], theirs: list[Measurement]) -> None:
    assert [one.step for one in ours] == [one.step for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.errors == other.errors
        assert one.diverged == other.diverged


def test_each_structure_is_recorded_once_and_every_trial_is_what_it_would_be_alone() -> None:
    tapes: list[Tape] = []
    recording, plain = make_trainer(tapes), make_trainer()
    for one in CONFIGURATIONS:
        assert_same(list(recording.measure(one, ROUNDS)), list(plain.measure(one, ROUNDS)))
    assert len(tapes) == 3  # of the five, the first, the second and the last share one
    assert len(recording._networks._store) == 3


def test_trials_beside_each_other_are_what_they_would_be_alone() -> None:
    tapes: list[Tape] = []
    recording, plain = make_trainer(tapes), make_trainer()
    together: list[Iterator[Measurement]] = [recording.measure(one, ROUNDS) for one in CONFIGURATIONS]
    measured: list[list[Measurement]] = [[] for _ in CONFIGURATIONS]
    for _ in range(TRAINING.epochs):
        for mine, trial in zip(measured, together, strict=True):
            mine.append(next(trial))
    assert [next(trial, None) for trial in together] == [None] * len(CONFIGURATIONS)
    for mine, one in zip(measured, CONFIGURATIONS, strict=True):
        assert_same(mine, list(plain.measure(one, ROUNDS)))
    assert len(tapes) == 5  # no two share a memory at a time


def test_a_trial_that_is_pruned_leaves_nothing_to_the_next() -> None:
    tapes: list[Tape] = []
    recording, plain = make_trainer(tapes), make_trainer()
    pruned = recording.measure(configuration(learning_rate=0.5), ROUNDS)
    next(pruned)
    pruned.close()  # type: ignore[attr-defined]
    assert_same(list(recording.measure(configuration(), ROUNDS)), list(plain.measure(configuration(), ROUNDS)))
    assert len(tapes) == 1


def test_a_final_test_is_recorded_once_and_measures_what_it_would_alone() -> None:
    tapes: list[Tape] = []
    all_pairs = {"test_pairs": "all"}
    recording, plain = make_trainer(tapes, task_settings=all_pairs), make_trainer(task_settings=all_pairs)
    for one in CONFIGURATIONS[:2]:
        ours, theirs = (list(made.measure(one, ROUNDS)) for made in (recording, plain))
        assert_same(ours, theirs)
        assert ours[-1].details == theirs[-1].details
    (tape,) = tapes
    assert tape.replayed
    assert tape.recorded == 4  # the steps of two sizes, the evaluation, the final test


def test_losses_are_kept_and_gradients_are_not_recorded() -> None:
    tapes: list[Tape] = []
    recording, plain = make_trainer(tapes, keep=["losses"]), make_trainer(keep=["losses"])
    ours, theirs = (list(one.measure(configuration(), ROUNDS)) for one in (recording, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.details["losses"] == pytest.approx(other.details["losses"], rel=1e-12)
    list(make_trainer(tapes, keep=["gradient_norms"]).measure(configuration(), ROUNDS))
    assert len(tapes) == 1


class Fails(Tape):
    def record(self, function: Any) -> Any:
        raise RuntimeError("no")


def test_a_recording_that_fails_is_ended_and_leaves_nothing() -> None:
    tapes: list[Fails] = []

    def record() -> Fails:
        tapes.append(Fails())
        return tapes[-1]

    failing = Trainer(task(Stacked), TRAINING, stacked=True, dtype=torch.float64, recorder=record)
    with pytest.raises(RuntimeError, match="no"):
        failing.prepare(configuration(), ROUNDS)
    assert [tape.told for tape in tapes] == [["wait", "end"]]


def test_memory_that_lacks_is_taken_from_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tapes: list[Tape] = []
    recording, plain = make_trainer(tapes), make_trainer()
    list(recording.measure(configuration(), ROUNDS))
    fresh, lacks = recording._networks.fresh, [True]

    def lack_memory_once(*given: Any) -> Any:
        if lacks:
            raise torch.OutOfMemoryError(f"CUDA out of memory{lacks.pop()}")
        return fresh(*given)

    monkeypatch.setattr(recording._networks, "fresh", lack_memory_once)
    other = configuration(auxiliary_loss=False)
    assert_same(list(recording.measure(other, ROUNDS)), list(plain.measure(other, ROUNDS)))
    assert len(recording._networks._store) == 1
    assert tapes[0].told == ["end", "wait"]
    recording._networks._store.clear()
    lacks.append(True)
    with pytest.raises(torch.OutOfMemoryError):
        recording.prepare(configuration(), ROUNDS)


def test_a_structure_of_other_data_is_waited_for_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    tapes: list[Tape] = []
    recording = make_trainer(tapes)
    list(recording.measure(configuration(), ROUNDS))
    monkeypatch.setattr("hpo.training.data.MOST_BYTES", 0)
    recording.data(ROUNDS[:1])  # other rounds, whose data take the place of the first
    list(recording.measure(configuration(), ROUNDS))
    assert len(tapes) == 2
    assert tapes[0].told == ["end", "wait", "end"]


def test_what_fails_while_it_is_found_out_how_many_run_at_once_is_left_to_a_trial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_trainer()
    monkeypatch.setattr(plain, "prepare", None)  # a CPU is not asked at all
    assert plain.at_once(None, configuration(), ROUNDS) == 1
    recording = make_trainer([])
    assert recording.at_once(4, configuration(activation="unknown"), ROUNDS) == 1
    assert capsys.readouterr().err == "cpu: one trial at once, for 'unknown'\n"
    assert len(recording._networks._store) == 0
    monkeypatch.setattr("hpo.training.together.seconds_of_an_epoch", lambda several, train: 1.0)
    kept = recording.prepare(configuration(), ROUNDS)
    assert isinstance(kept, RecordedRounds)
    assert (
        most_together([kept], lambda: plain._networks.fresh(configuration(), ROUNDS), recording.data(ROUNDS).train) == 1
    )


def test_as_many_trials_run_at_once_as_are_asked_for_or_gain_something(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_trainer().at_once(4, configuration(), ROUNDS) == 1  # a CPU has one at a time
    recording = make_trainer([])
    assert recording.at_once(4, configuration(), ROUNDS) == 4
    for seconds, expected in (((1.0, 1.2, 1.6, 3.1), 4), ((1.0, 2.0), 1), ((1.0, 1.1, 1.2, 1.3), 8)):
        told = iter(seconds)
        monkeypatch.setattr("hpo.training.together.seconds_of_an_epoch", lambda several, train, told=told: next(told))
        assert recording.at_once(None, configuration(), ROUNDS) == expected
    monkeypatch.undo()
    first = recording.prepare(configuration(), ROUNDS)
    assert isinstance(first, RecordedRounds)
    several = [first]
    found = most_together(several, lambda: recording.prepare(configuration(), ROUNDS), recording.data(ROUNDS).train)
    assert len(several) == min(2 * found, 8)  # one step more was tried, and gained too little
