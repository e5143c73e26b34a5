"""From a trial to its value: asks a task for the errors of a configuration, reports them, and keeps what was measured.

A trial's value is the mean error of its rounds at the end, by the study's metric.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from hpo.provenance import versions
from hpo.storage.trials import batch_writes
from hpo.study.definition import StudyDefinition
from hpo.study.loading import open_task
from hpo.study.range_tests import is_range_test, range_test_key
from hpo.study.task import Params, Task
from hpo.workers.record import Record
from hpo.workers.samplers import suggest


def make_objective(definition: StudyDefinition, device: str, data_folder: Path) -> Objective:
    """Returns the objective of a study, its task opened on a device.

    Raises:
        RequestError: where the device or the data cannot be used.
    """
    return Objective(definition, open_task(definition, device, data_folder), device)


class Objective:
    """Maps a trial to the mean error of its rounds.

    Args:
        device: where the task measures, as a claim names it.
    """

    def __init__(self, definition: StudyDefinition, task: Task, device: str) -> None:
        self._definition, self._task, self.device = definition, task, device
        self._metric = definition.protocol.metric or task.metrics[0].name

    def __call__(self, trial: optuna.Trial, step_done: Callable[[int], None] = lambda step: None) -> float:
        """Measures the trial's configuration; `step_done` is given the number of each step that is done.

        Raises:
            optuna.TrialPruned: where the pruner says so.
        """
        began, record = time.perf_counter(), Record(self._metric)
        with batch_writes(trial):
            params = suggest(trial, self._definition, lambda listed: self._find_rate(trial.study, listed))
        for measured in self._task.measure(params, self._definition.rounds):
            step_done(measured.step)
            record.add(measured)
            if not measured.errors:
                continue
            trial.report(record.value, measured.step)
            pruned = measured.fraction < 1 and trial.should_prune()
            if pruned or measured.fraction == 1:
                self._keep(trial, {**record.kept(whole=not pruned), "seconds": time.perf_counter() - began})
            if pruned:
                raise optuna.TrialPruned
        return record.value

    def _keep(self, trial: optuna.Trial, kept: dict[str, Any]) -> None:
        trained = {"precision": self._definition.training.precision} if self._definition.training else {}
        with batch_writes(trial):
            for key, value in {**kept, "device": self._task.device, **trained, "versions": versions()}.items():
                trial.set_user_attr(key, value)

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
