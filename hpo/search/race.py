"""A race over rounds: a trial whose first rounds are behind those of the best finished trial is spared the others.

All trials share their rounds, so a few are compared one by one, by a paired test. Inside a group the study's pruner
looks at the learning curve, and holds it against the best trial's errors of the same rounds.

docs/results.md has the race beside other policies on recorded curves, and in searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import optuna
from optuna.trial import TrialState

from hpo.search.pruners import PowerLawPruner
from hpo.storage.trial_attributes import believed
from hpo.study.search import Race
from hpo.study.task import Round


def groups_of(rounds: Sequence[Round], race: Race | None) -> list[Sequence[Round]]:
    """Returns the rounds that are measured together, group by group; without a race all at once."""
    size = race.group if race else len(rounds)
    return [rounds[first : first + size] for first in range(0, len(rounds), size)]


def best_errors(study: optuna.Study, rounds: int) -> list[float]:
    """Returns the errors of the best finished trial's rounds; none where there is no such trial.

    Args:
        rounds: of the study's trials.
    """
    sign = -1 if study.direction is optuna.study.StudyDirection.MAXIMIZE else 1
    finished = [
        (sign * trial.value, trial.number, errors)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.value is not None and len(errors := believed(trial.user_attrs).get("errors", [])) == rounds
    ]
    return min(finished)[2] if finished else []


def is_behind(
    errors: Sequence[float], best: Sequence[float], *, level: float, maximize: bool = False, least: float = 0.0
) -> bool:
    """Says whether rounds are worse than the best trial's, by a one-sided paired t test; never of one round alone.

    Args:
        errors, best: (R,), of the same rounds.
        level: of the test.
        least: the smallest deviation that is believed, the errors' resolution: two rounds may differ alike by chance.
    """
    differences = [(theirs - ours if maximize else ours - theirs) for ours, theirs in zip(errors, best, strict=True)]
    if len(differences) < 2 or (mean := fmean(differences)) <= 0:
        return False
    error = max(stdev(differences), least) / len(differences) ** 0.5
    if error == 0:
        return True
    from scipy import stats

    return float(stats.t.sf(mean / error, len(differences) - 1)) < level


def is_hopeless(curve: Mapping[int, float], best: Sequence[float], pruner: optuna.pruners.BasePruner) -> bool:
    """Says whether a pruner ends a trial inside a group.

    Args:
        curve: step -> the mean error of the group's rounds.
        best: the best trial's errors of these rounds; empty where there is none yet.
    """
    return isinstance(pruner, PowerLawPruner) and bool(best) and pruner.ends_above(curve, fmean(best))
