"""A study of thousands of finished trials, made by bulk insertion: what it takes to work on one, and to read it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.study.definition import StudyDefinition
from hpo.study.space import Choices, in_order, is_there


def fill(storage: RDBStorage, name: str, definition: StudyDefinition, count: int) -> None:
    """Adds `count` finished trials of random configurations to a study that has none; one in two was pruned."""
    random = np.random.default_rng(0)
    study, now = storage.get_study_id_from_name(name), datetime.now(UTC).replace(tzinfo=None)
    rows: dict[type, list[dict[str, Any]]] = {
        **{models.TrialModel: [], models.TrialParamModel: [], models.TrialUserAttributeModel: []},
        **{models.TrialIntermediateValueModel: [], models.TrialValueModel: []},
    }
    with storage.engine.begin() as connection:
        first = (connection.execute(sa.select(sa.func.max(models.TrialModel.trial_id))).scalar() or 0) + 1
        for number in range(count):
            key, finish = first + number, now - timedelta(seconds=count - number)
            pruned = bool(random.random() < 0.5)
            rows[models.TrialModel].append(
                {
                    "trial_id": key,
                    "study_id": study,
                    "number": number,
                    "state": TrialState.PRUNED if pruned else TrialState.COMPLETE,
                    "datetime_start": finish - timedelta(seconds=1),
                    "datetime_complete": finish,
                }
            )
            rows[models.TrialParamModel] += [{"trial_id": key, **row} for row in _propose(definition, random)]
            errors = (10 * random.random(10)).tolist()
            attributes = {"slot": number, "worker": {"host": "h", "pid": 1, "device": "cpu", "file": "", "parent": ""}}
            if not pruned:
                attributes |= {"errors": errors, "std": float(np.std(errors))}
                rows[models.TrialValueModel].append(
                    {"trial_id": key, "objective": 0, "value": float(np.mean(errors)), "value_type": "FINITE"}
                )
            rows[models.TrialUserAttributeModel] += [
                {"trial_id": key, "key": k, "value_json": json.dumps(v)} for k, v in attributes.items()
            ]
            rows[models.TrialIntermediateValueModel].append(
                {"trial_id": key, "step": 1, "intermediate_value": errors[0], "intermediate_value_type": "FINITE"}
            )
        for table, values in rows.items():
            connection.execute(sa.insert(table.__table__), values)  # type: ignore[attr-defined]
        if storage.engine.dialect.name == "postgresql":  # the sequence knows nothing of ids that were given
            connection.execute(sa.text("select setval('trials_trial_id_seq', (select max(trial_id) from trials))"))


def _propose(definition: StudyDefinition, random: np.random.Generator) -> list[dict[str, Any]]:
    """Returns a random configuration as Optuna stores it: choices by their index."""
    proposed: dict[str, Any] = {}
    rows = []
    for name, parameter in in_order(definition.search_space):
        if not is_there(parameter, proposed):
            continue
        if isinstance(parameter, Choices):
            index = int(random.integers(len(parameter.choices)))
            proposed[name] = parameter.choices[index]
            stored, distribution = float(index), distribution_to_json(CategoricalDistribution(parameter.choices))
        else:
            low, high = (np.log([parameter.low, parameter.high])) if parameter.log else (parameter.low, parameter.high)
            value = float(random.uniform(low, high))
            stored = float(np.exp(value)) if parameter.log else value
            proposed[name] = stored
            distribution = distribution_to_json(FloatDistribution(parameter.low, parameter.high, log=parameter.log))
        rows.append({"param_name": name, "param_value": stored, "distribution_json": distribution})
    return rows
