"""What a flag does: matched contrasts between listed trials, and importances among a search's.

Two listed trials are *matched* for a parameter where they differ in nothing else that matters; a learning rate that
each had from its own range test is not a difference. Their errors are subtracted round by round, and averaged over all
pairs that are matched for the same change, so that a round is one observation. A search has no matched trials; of it
there are only importances, which speak of the trials that survived its pruning, and of no cause.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.confirmation import CONFIRMS
from hpo.analysis.hardware_drift import REPEATS
from hpo.analysis.results import read_entries
from hpo.analysis.statistics import Interval, holm, paired_difference
from hpo.errors import RequestError
from hpo.storage.backends import experimental
from hpo.storage.queries import read_trials
from hpo.storage.studies import own_studies, read_definition
from hpo.study.repetition import what_matters

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
        p_value: corrected (Holm) for the number of effects that the lists hold, measured or not; None where there are
            too few rounds for one.
    """

    parameter: str
    before: Any
    after: Any
    decision: str
    pairs: int
    difference: Interval
    p_value: float | None


@dataclass(frozen=True)
class _Listed:
    """A listed configuration, and what it measured, if it has."""

    params: dict[str, Any]
    attributes: Mapping[str, Any] | None

    def is_at_chance(self, decision: str) -> bool:
        """Whether the decision is read off outputs that no loss trains."""
        return decision == "recognition" and not self.params["auxiliary_loss"]


def related_lists(storage: RDBStorage, study: str) -> list[str]:
    """Returns the lists of a storage that measure by the same protocol as a study, itself first: they share rounds."""
    protocol = read_definition(storage, study).protocol
    found = [study]
    for name, attributes in own_studies(storage).items():
        if name == study or {CONFIRMS, REPEATS} & attributes.keys():
            continue
        with suppress(RequestError):  # a later version's, whose definition says more than is known here
            other = read_definition(storage, name)
            if other.trial and other.protocol == protocol:
                found.append(name)
    return found


def read_effects(storage: RDBStorage, studies: Sequence[str]) -> list[Effect]:
    """Returns the effects that the listed trials of studies of one protocol show; none where no two are matched.

    Others are compared with the first value listed, and a flag that is set with one that is not. Coin-like trials,
    which read a recognition off outputs that no loss trains, are left out: the effect of the auxiliary loss is that on
    the head's decision.
    """
    decision = read_definition(storage, studies[0]).protocol.decision
    pairs = _matched([entry for study in studies for entry in _read_listed(storage, study)])
    found, family = [], 0
    for (key, base, value), matched in pairs.items():
        decided = "head" if key == "auxiliary_loss" else decision
        kept = [pair for pair in matched if not any(entry.is_at_chance(decided) for entry in pair)]
        family += bool(kept)
        both = [(one.attributes, other.attributes) for one, other in kept if one.attributes and other.attributes]
        if both:
            theirs, ours = (_mean_by_round([pair[i][f"errors_{decided}"] for pair in both]) for i in (0, 1))
            found.append((key, base, value, decided, len(both), paired_difference(ours, theirs).within(-100, 100)))
    # What is not measured yet belongs to the family all the same, or a verdict could change without new data.
    known = [difference.p_value for *_, difference in found if difference.p_value is not None]
    if len(known) < len(found):  # they share their rounds, so none has one
        return [Effect(*effect, None) for effect in found]
    return [
        Effect(*effect, p_value)
        for effect, p_value in zip(found, holm(known + [1.0] * (family - len(found))), strict=False)
    ]


def read_importances(storage: RDBStorage, study: str) -> dict[str, float]:
    """Returns each parameter's importance for being among the best tenth, of trials measured to the end; they sum to 1.

    By PED-ANOVA (S. Watanabe, A. Bansal and F. Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
    Arbitrary Subspaces", 2023), its settings pinned. None where fewer than `FEWEST_TRIALS` were, or all err alike.
    """
    ours = {trial.number for trial in read_trials(storage, study, states=(TrialState.COMPLETE,))}
    opened = optuna.load_study(study_name=study, storage=storage)
    whole = [trial for trial in opened.get_trials(deepcopy=False) if trial.number in ours]
    if len(whole) < FEWEST_TRIALS or len({trial.value for trial in whole}) == 1:
        return {}
    opened = optuna.create_study()  # without what other programs have added
    opened.add_trials(whole)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE, region_quantile=1.0, evaluate_on_local=True)
    with experimental(), warnings.catch_warnings():
        # A conditional parameter that one or two trials have: the report says that they are survivors.
        warnings.filterwarnings("ignore", message="Some regimes for parameter")
        importances: dict[str, float] = optuna.importance.get_param_importances(opened, evaluator=evaluator)
    fixed = {name for trial in whole for name, values in trial.distributions.items() if values.single()}
    return {name: importance for name, importance in importances.items() if name not in fixed}


def _read_listed(storage: RDBStorage, study: str) -> list[_Listed]:
    definition = read_definition(storage, study)
    rounds = definition.protocol.rounds
    measured = {
        entry.label: trial.attributes
        for entry, trial in read_entries(storage, study)
        if all(len(trial.attributes.get(f"errors_{by}", ())) == rounds > 1 for by in ("head", "recognition"))
    }
    return [_Listed(_what_matters(one.params.model_dump()), measured.get(one.label)) for one in definition.trial]


def _what_matters(params: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration without what has no effect in it; an ELU with another alpha is another activation."""
    kept = {key: value for key, value in what_matters(params).items() if value is not None}
    alpha = kept.pop("elu_alpha", None)
    return kept if alpha is None else {**kept, "activation": f"elu({alpha:g})"}


def _matched(listed: Sequence[_Listed]) -> dict[tuple[str, Any, Any], list[tuple[_Listed, _Listed]]]:
    """Returns the pairs that differ in one parameter: its name, the value compared with, the other -> before, after.

    A configuration that is listed twice counts once, the first time that it is measured.
    """
    different: dict[str, _Listed] = {}
    for entry in sorted(listed, key=lambda entry: entry.attributes is None):
        different.setdefault(repr(sorted(entry.params.items())), entry)
    chosen = [entry for entry in listed if any(entry is one for one in different.values())]
    pairs: dict[tuple[str, Any, Any], list[tuple[_Listed, _Listed]]] = {}
    first: dict[str, Any] = {}
    for one, other in combinations(chosen, 2):
        shared = one.params.keys() & other.params.keys()
        changed = [key for key in shared if one.params[key] != other.params[key]]
        # A share of the loss is there only with the auxiliary loss, whose own change brings it along.
        alone = one.params.keys() ^ other.params.keys()
        if len(changed) != 1 or (alone and changed != ["auxiliary_loss"]):
            continue
        (key,) = changed
        values = [entry.params[key] for entry in (one, other)]
        base = first.setdefault(key, False if isinstance(values[0], bool) else values[0])
        if base in values:
            before, after = (one, other) if values[0] == base else (other, one)
            pairs.setdefault((key, base, after.params[key]), []).append((before, after))
    return pairs


def _mean_by_round(errors: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(round_) for round_ in zip(*errors, strict=True)]
