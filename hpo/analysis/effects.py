"""What a flag does: matched contrasts between listed trials, and importances among a search's.

Two listed trials are *matched* for a parameter where they differ in nothing else that matters; a learning rate that
each had from its own range test is not a difference. Their errors are subtracted round by round, and averaged over all
pairs that are matched for the same change, so that a round is one observation. A search has no matched trials; of it
there are only importances, which speak of the trials that survived its pruning, and of no cause.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.contrasts import NO_DIFFERENCE, rates_of
from hpo.analysis.fresh_rounds import CONFIRMS
from hpo.analysis.hardware_drift import REPEATS
from hpo.analysis.results import read_entries
from hpo.analysis.sign_flips import sign_flip_p_values
from hpo.analysis.statistics import Interval, differences_of, interval_of_difference
from hpo.errors import RequestError
from hpo.limits import FEWEST_ROUNDS
from hpo.storage.backends import experimental
from hpo.storage.queries import read_trials
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.storage.trial_attributes import OF_METRIC
from hpo.study.card import Card, MetricCard
from hpo.study.definition import StudyDefinition
from hpo.study.space import When
from hpo.study.task import Params
from hpo.text.formatting import text_of

BEST_SHARE = 0.1  # of the finished trials: what PED-ANOVA calls good
FEWEST_TRIALS = 20  # or that share is a trial or two


@dataclass(frozen=True)
class Effect:
    """What a change of one parameter does to the error.

    Attributes:
        before, after: the parameter's values.
        metric: the errors' metric.
        pairs: of matched trials, over so many `rounds` in which all of them converged.
        difference: after less before, over these rounds; `NO_DIFFERENCE` where there are none.
        p_value: corrected for all effects that the lists hold, measured or not; None where there are too few rounds
            for one.
        measured: rounds of either side, of all pairs; `diverged_before` and `diverged_after` of them diverged.
        diverged_p_value: of one side diverging more often than the other, corrected likewise.
    """

    parameter: str
    before: Any
    after: Any
    metric: MetricCard
    pairs: int
    difference: Interval
    p_value: float | None
    rounds: int
    measured: int
    diverged_before: int = 0
    diverged_after: int = 0
    diverged_p_value: float = 1.0

    @property
    def diverges(self) -> bool:
        """Whether some round did: then the sides' errors are not all that there is to tell them apart by."""
        return bool(self.diverged_before or self.diverged_after)


@dataclass(frozen=True)
class _Listed:
    """A listed configuration, the metrics that no loss trains in it, and what it measured, if it has.

    Attributes:
        errors: metric -> (R,); empty where it is not measured yet.
    """

    params: dict[str, Any]
    at_chance: Collection[str]
    errors: Mapping[str, Sequence[float]]
    diverged: Collection[int] = ()


_Change = tuple[str, Any, Any]  # a parameter, its value before, its value after
_Pair = tuple[_Listed, _Listed]  # that differ by it, before and after


def related_lists(storage: RDBStorage, study: str) -> list[str]:
    """Returns the lists of a storage that measure as a study does, itself first: they share rounds."""
    wanted = read_definition(storage, study)
    found = [study]
    for name, attributes in own_studies(storage).items():
        if name == study or {CONFIRMS, REPEATS} & attributes.keys():
            continue
        with suppress(RequestError):  # a later version's, whose definition says more than is known here
            other = read_definition(storage, name)
            read_card(storage, name)
            if other.trial and _conditions(other) == _conditions(wanted):
                found.append(name)
    return found


def _conditions(definition: StudyDefinition) -> Any:
    return definition.task, definition.training, definition.protocol


def read_effects(storage: RDBStorage, studies: Sequence[str]) -> list[Effect]:
    """Returns the effects that the listed trials of studies of one protocol show; none where no two are matched.

    Others are compared with the first value listed, and a flag that is set with one that is not. An effect is on the
    first metric that some matched trials train on both sides: that of the auxiliary loss is on the head's error, for
    without it no loss trains what is recognised.
    """
    metrics = read_card(storage, studies[0]).metrics
    conditions = read_card(storage, studies[0]).conditions
    changes = _matched([entry for study in studies for entry in _read_listed(storage, study)], conditions)
    trained = {change: _trained(pairs, metrics) for change, pairs in changes.items()}
    family = sum(bool(pairs) for _, pairs in trained.values())
    found = [
        (change, metric, measured)
        for change, (metric, pairs) in trained.items()
        if (measured := [pair for pair in pairs if all(entry.errors for entry in pair)])
    ]
    sides = [_sides(measured, metric) for _, metric, measured in found]
    rates = [_rates(measured, len(after)) for (*_, measured), (after, *_) in zip(found, sides, strict=True)]
    p_values = family_p_values([differences_of(*of) for of in sides], rates, family)
    effects = []
    for (change, metric, measured), (after, before, out), p_value, rate in zip(found, sides, *p_values, strict=True):
        often = [sum(len(pair[side].diverged) for pair in measured) for side in (0, 1)]
        rounds = len(after) - len(out)
        by = interval_of_difference(after, before, metric, out) if rounds else NO_DIFFERENCE
        tested = p_value if rounds >= FEWEST_ROUNDS else None
        effects.append(
            Effect(
                *(*change, metric, len(measured), by, tested, rounds),
                measured=len(measured) * len(after),
                diverged_before=often[0],
                diverged_after=often[1],
                diverged_p_value=rate,
            )
        )
    return effects


def family_p_values(
    differences: Sequence[Sequence[float]], rates: Sequence[Sequence[float]], family: int
) -> tuple[list[float], list[float]]:
    """Returns the p values of differences that are measured, of a family of so many, and of how often they diverge.

    What is not measured yet belongs to the family all the same, with its difference and its rate. Until it is, p is
    multiplied by the number of all, which is hardly ever less than what they come to together: a verdict is seldom
    taken back when the others are measured, as where one is of few rounds that differ and comes as far by chance. A
    rate of rounds of which none diverged can raise no false alarm, and does not count.
    """
    alone, together = sign_flip_p_values([*differences, *rates])
    if missing := family - len(differences):
        number = len(differences) + sum(map(any, rates)) + 2 * missing
        together = [min(1.0, number * p_value) for p_value in alone]
    return together[: len(differences)], together[len(differences) :]


def _trained(pairs: Sequence[_Pair], metrics: Sequence[MetricCard]) -> tuple[MetricCard, list[_Pair]]:
    """Returns the first metric that some pairs train on both sides, and these pairs; none where there is no such."""
    for metric in metrics:
        if kept := [pair for pair in pairs if not any(metric.name in entry.at_chance for entry in pair)]:
            return metric, kept
    return metrics[0], []


def _sides(pairs: Sequence[_Pair], metric: MetricCard) -> tuple[list[float], list[float], set[int]]:
    """Returns the errors after and before, round by round, each a mean over all pairs; and which rounds do not count.

    These are the rounds in which a configuration of one of them diverged.
    """
    before, after = (
        [fmean(round_) for round_ in zip(*(entry.errors[metric.name] for entry in side), strict=True)]
        for side in zip(*pairs, strict=True)
    )
    return after, before, {r for pair in pairs for entry in pair for r in entry.diverged}


def _rates(pairs: Sequence[_Pair], rounds: int) -> list[float]:
    """Returns round by round how many of the configurations after diverged, less how many before; a mean over pairs."""
    of_pairs = [rates_of(after.diverged, before.diverged, rounds) for before, after in pairs]
    return [fmean(round_) for round_ in zip(*of_pairs, strict=True)]


@dataclass(frozen=True)
class Importances:
    """What matters in a search.

    Attributes:
        shares: parameter -> its importance; they sum to 1. Empty where too few trials were measured to the end, or all
            err alike.
        left_out: parameters of the space that no trial that was measured to the end varies in, so that nothing is known
            of them; most often the other values were pruned.
    """

    shares: dict[str, float]
    left_out: list[str]


def read_importances(storage: RDBStorage, study: str) -> Importances:
    """Returns each parameter's importance for being among the best tenth, of trials measured to the end.

    By PED-ANOVA (S. Watanabe, A. Bansal and F. Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
    Arbitrary Subspaces", 2023), its settings pinned. No shares where fewer than `FEWEST_TRIALS` were, or all err alike.
    """
    ours = {trial.number for trial in read_trials(storage, study, states=(TrialState.COMPLETE,))}
    opened = optuna.load_study(study_name=study, storage=storage)
    whole = [trial for trial in opened.get_trials(deepcopy=False) if trial.number in ours]
    if len(whole) < FEWEST_TRIALS or len({trial.value for trial in whole}) == 1:
        return Importances({}, [])
    opened = optuna.create_study(direction=opened.direction)  # without what other programs have added
    opened.add_trials(whole)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE, region_quantile=1.0, evaluate_on_local=True)
    with experimental(), warnings.catch_warnings():
        # A conditional parameter that one or two trials have: the report says that they are survivors.
        warnings.filterwarnings("ignore", message="Some regimes for parameter")
        importances: dict[str, float] = optuna.importance.get_param_importances(opened, evaluator=evaluator)
    fixed = {name for trial in whole for name, values in trial.distributions.items() if values.single()}
    values = {name: {trial.params[name] for trial in whole if name in trial.params} for name in importances}
    varied = {name: share for name, share in importances.items() if name not in fixed and len(values[name]) > 1}
    whole_share = sum(varied.values()) or 1.0
    left_out = [name for name in importances if name not in fixed and name not in varied]
    return Importances({name: share / whole_share for name, share in varied.items()}, sorted(left_out))


def _read_listed(storage: RDBStorage, study: str) -> list[_Listed]:
    definition, card = read_definition(storage, study), read_card(storage, study)
    names, rounds = [metric.name for metric in card.metrics], definition.protocol.rounds
    measured: dict[str, tuple[dict[str, Sequence[float]], Collection[int]]] = {}
    for entry, trial in read_entries(storage, study):
        errors = {name: trial.attributes.get(f"{OF_METRIC}{name}", ()) for name in names}
        if all(len(of_rounds) == rounds > 1 for of_rounds in errors.values()):
            measured[entry.label] = errors, trial.attributes.get("diverged_rounds", ())
    return [
        _Listed(_folded(entry.params, card), card.at_chance.get(entry.label, ()), *measured.get(entry.label, ({}, ())))
        for entry in definition.trial
    ]


def _folded(params: Params, card: Card) -> dict[str, Any]:
    """Returns a configuration in which an ELU with another alpha is another activation, `elu(0.5)`.

    So is every parameter that is there only with one value, a text, of another.
    """
    folded = dict(params)
    for name, when in card.conditions.items():
        texts = [key for key, value in when.items() if isinstance(value, str)]
        if name in folded and texts:
            folded[texts[0]] = f"{folded[texts[0]]}({text_of(folded.pop(name))})"
    return folded


def _matched(listed: Sequence[_Listed], conditions: Mapping[str, When]) -> dict[_Change, list[_Pair]]:
    """Returns the pairs that differ in one parameter.

    A share of the loss is there only with the auxiliary loss: a change of that brings the share along.

    A configuration that is listed twice counts once, the first time that it is measured.
    """
    different: dict[str, _Listed] = {}
    for entry in sorted(listed, key=lambda entry: not entry.errors):
        different.setdefault(repr(sorted(entry.params.items())), entry)
    chosen = [entry for entry in listed if any(entry is one for one in different.values())]
    pairs: dict[_Change, list[_Pair]] = {}
    first: dict[str, Any] = {}
    for one, other in combinations(chosen, 2):
        shared = one.params.keys() & other.params.keys()
        changed = [key for key in shared if one.params[key] != other.params[key]]
        alone = one.params.keys() ^ other.params.keys()
        if len(changed) != 1 or any(changed[0] not in conditions.get(name, {}) for name in alone):
            continue
        (key,) = changed
        values = [entry.params[key] for entry in (one, other)]
        base = first.setdefault(key, False if isinstance(values[0], bool) else values[0])
        if base in values:
            before, after = (one, other) if values[0] == base else (other, one)
            pairs.setdefault((key, base, after.params[key]), []).append((before, after))
    return pairs
