"""An ablation: what each ingredient gives in which two configurations differ.

It is taken out of the one alone, put into the other alone, and the way from this to that is gone one ingredient at a
time, the one first that alone gave most. All are measured on the same rounds, which neither study has used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.contrasts import Contrast, Measured, contrasts_of, measured
from hpo.analysis.fresh_rounds import first_fresh, read_looks
from hpo.analysis.ingredients import Configuration, Ingredient, resolved, with_training
from hpo.analysis.results import read_entries
from hpo.errors import RequestError
from hpo.storage.artifacts import files_of_trials
from hpo.storage.queries import study_names
from hpo.storage.studies import own_studies, read_card, read_definition
from hpo.study.card import MetricCard
from hpo.study.definition import StudyDefinition, define_study, derived_table
from hpo.study.examples import EXAMPLES_FILE
from hpo.study.references import NOWHERE, Sources
from hpo.study.task import Params
from hpo.text.names import free_name

WHOLE, BASE = "the whole", "the base"  # labels of both configurations


@dataclass(frozen=True)
class Step:
    """A comparison of an ablation: what the errors are with an ingredient more, or less, than before.

    Attributes:
        contrast: of what it was before with this; its difference is this error less that.
    """

    ingredient: Ingredient
    measured: Measured
    contrast: Contrast


@dataclass(frozen=True)
class Ablation:
    """What the rounds of an ablation say.

    Attributes:
        without: the whole without each ingredient, beside the whole.
        alone: the base with each, beside the base.
        path: from the base to the whole, each step beside the one before; empty until it is measured.
        overruled: what the base's own study has otherwise: settings, precision, metric, files of code.
    """

    name: str
    rounds: int
    dataset: str
    metric: MetricCard
    base: Measured
    whole: Measured
    without: list[Step]
    alone: list[Step]
    path: list[Step]
    overruled: Sequence[str] = field(default=(), kw_only=True)


def define_ablation(
    storage: RDBStorage | None,
    base: Configuration,
    whole: Configuration,
    ingredients: Sequence[Ingredient],
    rounds: int,
    sources: Sources = NOWHERE,
) -> tuple[str, StudyDefinition]:
    """Returns the study that measures both configurations, and each ingredient taken out and put in.

    One that was begun for the same is found again, though there are confirmations since, which have later rounds.
    """
    before, after = with_training(base, whole)
    without, alone = _labels(ingredients)
    trials = {WHOLE: after, BASE: before}
    trials |= {label: _changed(after, one.names, one.base) for label, one in zip(without, ingredients, strict=True)}
    trials |= {label: _changed(before, one.names, one.whole) for label, one in zip(alone, ingredients, strict=True)}
    ours = own_studies(storage) if storage is not None else {}
    is_alike = base.definition.protocol.seed == whole.definition.protocol.seed  # else its rounds are others
    both = (base, whole) if is_alike else (whole,)

    def defined(first: int) -> StudyDefinition:
        return _define(whole, trials, range(first, first + rounds), sources)

    def is_same(name: str) -> bool:
        if storage is None or name not in ours:
            return False
        begun = read_definition(storage, name)
        return not defined(begun.protocol.first_round).differences(begun)

    name = free_name(whole.study, "-ablation", _taken(storage, whole.study), is_same)
    if storage is not None and name in ours:
        return name, defined(read_definition(storage, name).protocol.first_round)
    stored = [first_fresh(storage, one.study) for one in both] if storage is not None else []
    return name, defined(max(*(one.definition.protocol.round_numbers.stop for one in both), *stored, 0))


def _labels(ingredients: Sequence[Ingredient]) -> tuple[list[str], list[str]]:
    """Returns what the whole is called without each ingredient, and the base with each; what is the same, alike."""
    without, alone = ([f"{word} {one.name}" for one in ingredients] for word in ("without", "with"))
    return {1: ([BASE], [WHOLE]), 2: (without, without[::-1])}.get(len(ingredients), (without, alone))


def by_gain(found: Ablation) -> list[Ingredient]:
    """Returns the ingredients, the one first that alone gave most; rounds that diverged count as they do in a mean."""
    return [
        one.ingredient for one in sorted(found.alone, key=lambda one: found.metric.sign * one.measured.mean.estimate)
    ]


def define_path(
    storage: RDBStorage | None,
    base: Configuration,
    whole: Configuration,
    order: Sequence[Ingredient],
    rounds: range,
    sources: Sources = NOWHERE,
) -> tuple[str, StudyDefinition] | None:
    """Returns the study that measures what lies on the way between; None where all of it is measured by the ablation.

    That has the first step, the base with the first ingredient, and the last but one, the whole without the last.

    Args:
        order: the ingredients, the first that is put in first.
        rounds: those of the ablation.
    """
    params, _ = with_training(base, whole)
    trials = {}
    for number, one in enumerate(order[:-2], 1):
        params = _changed(params, one.names, one.whole)
        if number > 1:
            trials[f"step {number}: {one.name}"] = params
    if not trials:
        return None
    defined, ours = _define(whole, trials, rounds, sources), own_studies(storage) if storage is not None else {}

    def is_same(name: str) -> bool:
        return storage is not None and name in ours and not defined.differences(read_definition(storage, name))

    return free_name(whole.study, "-ablation-path", _taken(storage, whole.study), is_same), defined


def _taken(storage: RDBStorage | None, study: str) -> set[str]:
    """Returns the names that a study's ablation cannot have: those of studies, and of what looked and is deleted."""
    return {*study_names(storage), *read_looks(storage, study)} if storage is not None else set()


def _changed(params: Params, names: Sequence[str], values: Params) -> dict[str, Any]:
    return {**{name: value for name, value in params.items() if name not in names}, **values}


def _define(whole: Configuration, trials: Mapping[str, Params], rounds: range, sources: Sources) -> StudyDefinition:
    """Returns a study of listed configurations in some rounds, on the test."""
    definition, study = whole.definition, whole.study
    measured_in = {"rounds": len(rounds), "first_round": rounds.start, "select_on": "test"}
    table = {
        **derived_table(definition, f"Ablation of {study}"),
        "trial": [{"label": label, "params": dict(params)} for label, params in trials.items()],
        "run": {**definition.run.model_dump(mode="json"), "keep": [], "trial_timeout_seconds": None},
        "protocol": {**definition.protocol.model_dump(mode="json"), **measured_in},
    }
    return resolved(define_study(table, name=study), study, sources)


def read_ablation(
    storage: RDBStorage, name: str, ingredients: Sequence[Ingredient], path: tuple[str, Sequence[Ingredient]] | None
) -> Ablation:
    """Returns what an ablation says, its p values corrected in each of its tables.

    Args:
        path: the study that measures it, empty where none is needed, and its order; None leaves it out.

    Raises:
        RequestError: where it is not measured whole.
    """
    found = _read(storage, name)
    definition, card = read_definition(storage, name), read_card(storage, name)
    metric, whole, base = card.metric, found[WHOLE], found[BASE]
    taken_out, put_in = _labels(ingredients)
    without = [(one, whole, found[label]) for one, label in zip(ingredients, taken_out, strict=True)]
    alone = [(one, base, found[label]) for one, label in zip(ingredients, put_in, strict=True)]
    way: list[tuple[Ingredient, Measured, Measured]] = []
    if path is not None:
        between, (study, order) = base, path
        on_the_way = _read(storage, study) if study else {}
        first, last = found[put_in[ingredients.index(order[0])]], found[taken_out[ingredients.index(order[-1])]]
        known = {len(order) - 1: last, 1: first, len(order): whole}
        for number, one in enumerate(order, 1):
            reached = known[number] if number in known else on_the_way[f"step {number}: {one.name}"]
            way.append((one, between, reached))
            between = reached
    tables = (_steps(steps, metric) for steps in (without, alone, way))
    return Ablation(name, definition.protocol.rounds, card.dataset, metric, base, whole, *tables)


def _read(storage: RDBStorage, study: str) -> dict[str, Measured]:
    """Returns the configurations of a listed study by their labels."""
    metric, examples = read_card(storage, study).metric, files_of_trials(storage, study, EXAMPLES_FILE)
    listed = read_definition(storage, study).trial
    entries = read_entries(storage, study)
    if len(entries) < len(listed):
        raise RequestError(f"study {study!r} is measured only in part, {len(entries)} of {len(listed)}")
    return {entry.label: measured(entry.label, trial.number, trial, metric, examples) for entry, trial in entries}


def _steps(parts: Sequence[tuple[Ingredient, Measured, Measured]], metric: MetricCard) -> list[Step]:
    contrasts = contrasts_of([(before, after) for _, before, after in parts], metric) if parts else []
    return [Step(one, after, contrast) for (one, _, after), contrast in zip(parts, contrasts, strict=True)]
