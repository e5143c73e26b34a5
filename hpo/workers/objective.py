"""From a trial to its value: asks a task for the errors of a configuration, reports them, and keeps what was measured.

A trial's value is the mean error of its rounds at the end, by the study's metric.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import optuna
from optuna.study import StudyDirection

from hpo.provenance import versions
from hpo.search.race import best_errors, groups_of, is_behind, is_hopeless
from hpo.search.samplers import suggest
from hpo.storage.artifacts import attach_to_trial
from hpo.storage.trials import batch_writes
from hpo.study.definition import StudyDefinition
from hpo.study.examples import EXAMPLES_FILE, ExampleOutcomes
from hpo.study.loading import load_task, open_task
from hpo.study.range_tests import is_range_test, range_test_key
from hpo.study.record import Record
from hpo.study.references import Sources
from hpo.study.task import Launched, Measurement, Params, Task, measure_in_turn
from hpo.text.capture import capture
from hpo.text.secrets import without_secrets
from hpo.workers.building import chosen_params

LAST_TEXTS = 10  # of what a trial prints between two waits for its device, that are kept


def make_objective(definition: StudyDefinition, device: str, sources: Sources) -> Objective:
    """Returns the objective of a study, its task opened on a device.

    Raises:
        RequestError: where the device, the data or the code cannot be used.
    """
    with capture() if definition.references else nullcontext():
        loaded = load_task(definition, study=definition.title, sources=sources)
        loaded.prepare(sources.data)
        task = open_task(definition, loaded, device)
    return Objective(definition, task, device, is_quiet=bool(loaded.references))


class Objective:
    """Maps a trial to the mean error of its rounds.

    Args:
        device: where the task measures, as a claim names it.
        is_quiet: whether what the task prints is kept from the terminal; its end is kept where a trial fails.
    """

    def __init__(self, definition: StudyDefinition, task: Task, device: str, *, is_quiet: bool = False) -> None:
        self._definition, self._task, self.device, self._is_quiet = definition, task, device, is_quiet
        self._metric = definition.protocol.metric or task.metrics[0].name
        (objective,) = (metric for metric in task.metrics if metric.name == self._metric)
        self._resolution = objective.resolution or 0.0
        self._groups = groups_of(definition.rounds, definition.race if device == "cpu" else None)

    @cached_property
    def at_once(self) -> int:
        """How many trials it measures at once, where several may be run; 1 where its task waits for each."""
        find: Callable[..., int] | None = getattr(self._task, "at_once", None)
        if find is None or self._definition.goes_by_rounds:
            return 1
        asked = self._definition.run.trials_per_gpu
        return find(None if asked == "auto" else asked, chosen_params(self._definition), self._definition.rounds)

    def __call__(self, trial: optuna.Trial, step_done: Callable[[int], None] = lambda step: None) -> float:
        """Measures the trial's configuration; `step_done` is given the number of each step that is done.

        Raises:
            optuna.TrialPruned: where the pruner says so.
        """
        steps = self.steps(trial, step_done)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return float(end.value)

    def steps(
        self, trial: optuna.Trial, step_done: Callable[[int], None] = lambda step: None
    ) -> Generator[Measurement, None, float]:
        """Measures the trial's configuration, as `__call__` does, and yields whenever it would wait for the device."""
        if not self._is_quiet:
            return (yield from self._measure(trial, step_done))
        process = os.getpid()
        texts: list[str] = []
        steps = self._measure(trial, step_done)
        while True:
            try:
                with capture() as printed:
                    launched = next(steps)
            except StopIteration as end:
                return float(end.value)
            except (Exception, SystemExit) as error:
                if (text := "".join([*texts, printed.text])) and not isinstance(error, optuna.TrialPruned):
                    trial.set_user_attr("printed", without_secrets(text))
                raise
            finally:
                _end_copy(process)
            texts = [*texts, printed.text][-LAST_TEXTS:]
            yield launched

    def _measure(self, trial: optuna.Trial, step_done: Callable[[int], None]) -> Generator[Measurement, None, float]:
        goes_by_rounds, began, process = self._definition.goes_by_rounds, time.perf_counter(), os.getpid()
        with batch_writes(trial):
            params = suggest(trial, self._definition, lambda listed: self._find_rate(trial.study, listed))
        measure = partial(measure_in_turn, self._task) if goes_by_rounds else self._task.measure
        whole: Record | None = None
        for number, group in enumerate(self._groups):
            earlier, record = whole, Record(self._task.metrics, self._metric, by_rounds=goes_by_rounds)
            for measured in measure(params, group):
                _end_copy(process)  # before it tells anybody what it found
                if not measured.ready():
                    yield measured
                if isinstance(measured, Launched):
                    continue
                step_done(self._step_of(measured, number))
                record.add(measured)
                if not measured.errors:
                    continue
                if number == 0:
                    trial.report(record.reported, measured.step)
                whole = record.after(earlier)
                is_last = measured.fraction == 1 and group is self._groups[-1]
                pruned = not is_last and self._is_pruned(trial, number, measured, record, whole)
                if pruned or is_last:
                    self._keep(trial, {**whole.kept(whole=not pruned), "seconds": time.perf_counter() - began})
                    self._keep_examples(trial, whole.examples)
                if pruned:
                    raise optuna.TrialPruned
        assert whole is not None  # a measurement ends with errors
        return whole.value

    def _step_of(self, measured: Measurement, group: int) -> int:
        """Returns the step that is done of a whole trial; one of a race's groups is a part of it."""
        steps, groups = self._definition.steps, len(self._groups)
        if groups == 1 or steps is None or measured.fraction is None:
            return measured.step
        return max(1, int(steps * (group + measured.fraction) / groups))

    def _is_pruned(self, trial: optuna.Trial, group: int, measured: Measurement, record: Record, whole: Record) -> bool:
        """Says whether a trial ends: by its pruner, or between the groups of a race.

        Args:
            record: of the group's rounds.
            whole: of these and all before.
        """
        race = self._definition.race
        if race is None or len(self._groups) == 1:
            return trial.should_prune()
        best = best_errors(trial.study, len(self._definition.rounds))
        if measured.fraction != 1:
            first = group * race.group
            return is_hopeless(record.curve, best[first : first + race.group], trial.study.pruner)
        errors = whole.errors
        maximize = trial.study.direction is StudyDirection.MAXIMIZE
        best, least = best[: len(errors)], self._resolution
        return bool(best) and is_behind(errors, best, level=race.level, maximize=maximize, least=least)

    def _keep(self, trial: optuna.Trial, kept: dict[str, Any]) -> None:
        trained = {"precision": self._definition.training.precision} if self._definition.training else {}
        with batch_writes(trial):
            for key, value in {**kept, "device": self._task.device, **trained, "versions": versions()}.items():
                trial.set_user_attr(key, value)

    def _keep_examples(self, trial: optuna.Trial, examples: ExampleOutcomes | None) -> None:
        if examples is not None:
            attach_to_trial(trial, EXAMPLES_FILE, examples.as_bytes())

    def _find_rate(self, study: optuna.Study, params: Params) -> float:
        """Returns the optimum of a range test, which is made once and kept with the study.

        Of two workers that make the same one at the same moment the first to finish is believed.
        """
        key = range_test_key(params)
        if not is_range_test(study.user_attrs.get(key)):
            found = self._task.find_rate(params, self._definition.rounds)  # type: ignore[attr-defined]
            if not is_range_test(study.user_attrs.get(key)):
                study.set_user_attr(key, found)
        return float(study.user_attrs[key]["mean"])


def _end_copy(process: int) -> None:
    """Ends this process where it is not that one, but a copy of it, which somebody's code has forked and not ended."""
    if os.getpid() != process:
        os._exit(0)
