"""What a flag does: matched contrasts between listed trials, and importances among a search's.

Two listed trials are *matched* for a parameter where they differ in nothing else; a learning rate that each had from
its own range test is not a difference. Their errors are subtracted round by round, and averaged over all pairs that are
matched for the same change, so that a round is one observation. A search has no matched trials; of it there are only
importances, which speak of the trials that survived its pruning, and of no cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from . import records
from .results import read_definition
from .statistics import Interval, holm, paired_difference
from .storage import experimental

BEST_SHARE = 0.1  # of the finished trials: what PED-ANOVA calls good
FEWEST_TRIALS = 20  # or that share is a trial or two


@dataclass(frozen=True)
class Effect:
    """What a change of one parameter does to the error.

    Attributes:
        before, after: the parameter's values.
        decision: by which the errors are read off.
        pairs: of matched trials.
        difference: after less before, in percentage points, over the rounds that they share.
        p_value: corrected for the number of effects of the study (Holm).
    """

    parameter: str
    before: Any
    after: Any
    decision: str
    pairs: int
    difference: Interval
    p_value: float


def read_effects(storage: RDBStorage, study: str) -> list[Effect]:
    """Returns the effects that a study's listed trials show; none where no two are matched.

    Others are compared with the first value listed, and a flag that is set with one that is not. Coin-like trials,
    which read a recognition off outputs that no loss trains, are left out: the effect of the auxiliary loss is that on
    the head's decision.
    """
    definition = read_definition(storage, study)
    measured = {
        trial.attributes["slot"]: trial.attributes
        for trial in records.read_trials(storage, study, states=(TrialState.COMPLETE,))
        if definition.trial and len(trial.attributes["errors"]) > 1
    }
    listed = {slot: definition.trial[slot].params.model_dump(exclude_none=True) for slot in sorted(measured)}
    pairs: dict[tuple[str, Any, Any], list[tuple[int, int]]] = {}
    first: dict[str, Any] = {}
    for one, other in combinations(listed, 2):
        changed = [key for key in listed[one].keys() | listed[other] if listed[one].get(key) != listed[other].get(key)]
        if len(changed) != 1:
            continue
        (key,) = changed
        values = [listed[slot].get(key) for slot in (one, other)]
        base = first.setdefault(key, False if isinstance(values[0], bool) else values[0])
        if base in values:
            before, after = (one, other) if values[0] == base else (other, one)
            pairs.setdefault((key, base, listed[after].get(key)), []).append((before, after))
    found = []
    for (key, base, value), matched in pairs.items():
        decision = "head" if key == "auxiliary_loss" else definition.protocol.decision
        kept = [pair for pair in matched if not any(_is_coin(listed[slot], decision) for slot in pair)]
        if kept:
            ours, theirs = (_mean_by_round([measured[p[i]][f"errors_{decision}"] for p in kept]) for i in (1, 0))
            found.append((key, base, value, decision, len(kept), paired_difference(ours, theirs)))
    corrected = holm([difference.p_value or 0.0 for *_, difference in found])
    return [Effect(*effect, p_value) for effect, p_value in zip(found, corrected, strict=True)]


def read_importances(storage: RDBStorage, study: str) -> dict[str, float]:
    """Returns each parameter's importance for being among the best tenth, of trials measured to the end; they sum to 1.

    By PED-ANOVA (S. Watanabe, A. Bansal and F. Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
    Arbitrary Subspaces", 2023), its settings pinned. None where fewer than `FEWEST_TRIALS` were.
    """
    opened = optuna.load_study(study_name=study, storage=storage)
    if len(opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < FEWEST_TRIALS:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE, region_quantile=1.0, evaluate_on_local=True)
    with experimental():
        importances: dict[str, float] = optuna.importance.get_param_importances(opened, evaluator=evaluator)
    return importances


def _is_coin(params: Mapping[str, Any], decision: str) -> bool:
    return decision == "recognition" and not params["auxiliary_loss"]


def _mean_by_round(errors: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(round_) for round_ in zip(*errors, strict=True)]
