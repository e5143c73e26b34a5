"""The studies by which an ablation is measured: lists, on rounds that neither of its two studies has had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.ablation import BASE, WHOLE, Configuration, Ingredient, with_training
from hpo.analysis.fresh_rounds import first_fresh, read_looks
from hpo.storage.queries import study_names
from hpo.storage.studies import derived_card, own_studies, read_definition
from hpo.study.card import Card, make_card
from hpo.study.definition import StudyDefinition, derived_table
from hpo.study.loading import LoadedTask, is_light
from hpo.study.references import Sources
from hpo.study.resolving import resolve_derived
from hpo.study.task import Params
from hpo.text.names import free_name


def define_ablation(
    storage: RDBStorage | None,
    base: Configuration,
    whole: Configuration,
    ingredients: Sequence[Ingredient],
    rounds: int,
) -> tuple[str, StudyDefinition]:
    """Returns the study that measures both configurations, and each ingredient taken out and put in."""
    before, after = with_training(base, whole)
    trials = {WHOLE: after, BASE: before}
    trials |= {f"without {one.name}": _changed(after, one.names, one.base) for one in ingredients}
    if len(ingredients) > 1:
        trials |= {f"with {one.name}": _changed(before, one.names, one.whole) for one in ingredients}
    return _define(storage, whole, trials, rounds, "-ablation", first=None, base=base.study)


def define_path(
    storage: RDBStorage | None,
    base: Configuration,
    whole: Configuration,
    order: Sequence[Ingredient],
    ablation: StudyDefinition,
) -> tuple[str, StudyDefinition] | None:
    """Returns the study that measures what lies on the way between; None where all of it is measured by the ablation.

    Args:
        order: the ingredients, the first that is put in first.
        ablation: whose rounds it has.
    """
    params, _ = with_training(base, whole)
    trials = {}
    for number, one in enumerate(order[:-1], 1):
        params = _changed(params, one.names, one.whole)
        if number > 1:
            trials[f"step {number}: {one.name}"] = params
    if not trials:
        return None
    rounds, first = ablation.protocol.rounds, ablation.protocol.first_round
    return _define(storage, whole, trials, rounds, "-ablation-path", first=first, base=base.study)


def _changed(params: Params, names: Sequence[str], values: Params) -> dict[str, Any]:
    return {**{name: value for name, value in params.items() if name not in names}, **values}


def _define(
    storage: RDBStorage | None,
    whole: Configuration,
    trials: Mapping[str, Params],
    rounds: int,
    suffix: str,
    *,
    first: int | None,
    base: str,
) -> tuple[str, StudyDefinition]:
    """Returns a study of listed configurations: one that is the same, or a new one by a name that is free.

    Args:
        first: its first round; None takes the first that neither study has had.
    """
    definition, study = whole.definition, whole.study
    table = {
        **derived_table(definition, f"Ablation of {study}"),
        "trial": [{"label": label, "params": dict(params)} for label, params in trials.items()],
        "run": {**definition.run.model_dump(mode="json"), "keep": [], "trial_timeout_seconds": None},
    }

    def defined(begin: int) -> StudyDefinition:
        fresh = {"rounds": rounds, "first_round": begin, "select_on": "test"}
        protocol = {**definition.protocol.model_dump(mode="json"), **fresh}
        return resolve_derived({**table, "protocol": protocol}, study=study)

    def is_same(name: str) -> bool:
        if storage is None or name not in known:
            return False
        begun = read_definition(storage, name)
        begin = begun.protocol.first_round
        return first in (None, begin) and not defined(begin).differences(begun)

    known = study_names(storage) if storage is not None else []
    looks = read_looks(storage, study) if storage is not None and study in known else {}
    name = free_name(study, suffix, {*known, *looks}, is_same)
    if storage is not None and name in known:
        return name, defined(read_definition(storage, name).protocol.first_round)
    return name, defined(_first_fresh(storage, whole, base) if first is None else first)


def _first_fresh(storage: RDBStorage | None, whole: Configuration, base: str) -> int:
    """Returns the first round that neither study has had, nor what measured them again; by these both were chosen."""
    ours = own_studies(storage) if storage is not None else {}
    used = [first_fresh(storage, name) for name in {whole.study, base} & ours.keys()] if storage is not None else []
    return max(whole.definition.protocol.round_numbers.stop, *used, 0)


def card_of_ablation(
    storage: RDBStorage | None, whole: Configuration, definition: StudyDefinition, loaded: LoadedTask, sources: Sources
) -> Card | None:
    """Returns the card of an ablation's study; None of a light task, of which anybody can make it.

    Args:
        loaded: the whole's task.
    """
    if is_light(definition, study=whole.study):
        return None
    if storage is not None and whole.study in study_names(storage):
        return derived_card(storage, whole.study, is_test=True)
    loaded.prepare(sources.data)
    return make_card(definition, loaded, sources)
