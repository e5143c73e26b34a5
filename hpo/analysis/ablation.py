"""An ablation: what each ingredient gives in which two configurations differ.

It is taken out of the one alone, put into the other alone, and the way from this to that is gone one ingredient at a
time, the one first that alone gave most. All are measured on the same rounds, which the study has not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.contrasts import Contrast, Measured, contrasts_of, measured
from hpo.analysis.results import read_best, read_entries
from hpo.errors import RequestError
from hpo.storage.artifacts import files_of_trials
from hpo.storage.queries import study_names
from hpo.storage.studies import read_card, read_definition
from hpo.study import catalog
from hpo.study.card import MetricCard
from hpo.study.definition import StudyDefinition
from hpo.study.examples import EXAMPLES_FILE
from hpo.study.loading import is_light, load_task
from hpo.study.references import NOWHERE, Sources
from hpo.study.resolving import resolve_by
from hpo.study.space import meets, short_name
from hpo.study.task import Params
from hpo.study.training import MAY_BE_TRAINED_BY

WHOLE, BASE = "the whole", "the base"  # labels of both configurations


@dataclass(frozen=True)
class Configuration:
    """A configuration of a study: its best, or the only one that it lists."""

    study: str
    definition: StudyDefinition
    params: Params


@dataclass(frozen=True)
class Ingredient:
    """Parameters in which two configurations differ, and that change together.

    Attributes:
        base, whole: their values in both; a parameter that one does not have is not in it.
    """

    names: tuple[str, ...]
    base: Params
    whole: Params

    @property
    def name(self) -> str:
        """What it is called: its parameters."""
        return ", ".join(name.replace("_", " ") for name in self.names)

    @property
    def change(self) -> str:
        """What it changes, from the base to the whole."""
        before, after = ((short_name(dict(side)) or "off") if side else "none" for side in (self.base, self.whole))
        return f"{before} → {after}"


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


def find_configuration(storage: RDBStorage | None, study: str, sources: Sources = NOWHERE) -> Configuration:
    """Returns the best configuration of a study in the storage; or the only one that a study's file lists.

    Args:
        storage: None where there is none yet.
        sources: where code is that a file names.

    Raises:
        RequestError: where there is neither.
    """
    name = catalog.name_of(study)
    if storage is not None and name in study_names(storage):
        return Configuration(name, read_definition(storage, name), read_best(storage, name).params)
    _, definition, _ = catalog.find_study(study)
    if len(definition.trial) != 1:
        raise RequestError(f"study {name!r} is not in the storage, and does not list a single configuration")
    if not is_light(definition, study=name):
        definition = resolve_by(load_task(definition, study=name, sources=sources), definition, study=name)
    return Configuration(name, definition, definition.trial[0].params)


def find_ingredients(
    base: Configuration, whole: Configuration, conditions: Mapping[str, Mapping[str, Any]], together: Sequence[str] = ()
) -> list[Ingredient]:
    """Returns in what two configurations differ, in the order of their parameters.

    A parameter that one of them cannot have, as the other's architecture is not its own, goes with what it hangs on.

    Args:
        conditions: parameter -> the values that others must have for it to be there.
        together: names with commas between, of parameters that are to be one ingredient.

    Raises:
        RequestError: where nothing differs, or a name is of nothing that does.
    """
    before, after = with_training(base, whole)
    names = [name for name in {**after, **before} if before.get(name) != after.get(name)]
    group = {name: name for name in names}  # name -> the first of its ingredient

    def join(one: str, other: str) -> None:
        first, second = sorted((group[one], group[other]), key=names.index)
        group.update({name: first for name, of in group.items() if of == second})

    for words in together:
        listed = [word.strip() for word in words.split(",")]
        if unknown := [word for word in listed if word not in group]:
            raise RequestError(f"--together names {unknown[0]!r}, but what differs is {', '.join(names)}")
        for word in listed[1:]:
            join(listed[0], word)
    for name in names:
        for key, wanted in conditions.get(name, {}).items():
            if key in group and not all(meets(wanted, side.get(key, "")) for side in (before, after)):
                join(name, key)
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(group[name], []).append(name)
    if not members:
        raise RequestError(f"studies {base.study!r} and {whole.study!r} have the same configuration")
    sides = (before, after)
    return [
        Ingredient(tuple(of), *({name: side[name] for name in of if name in side} for side in sides))
        for of in members.values()
    ]


def with_training(base: Configuration, whole: Configuration) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns both configurations, with what their studies say of training where they differ in that."""
    params: list[dict[str, Any]] = []
    for one, other in ((base, whole), (whole, base)):
        own, others = one.definition.training, other.definition.training
        said = {} if own is None or others is None else own.model_dump(include={*MAY_BE_TRAINED_BY})
        known = {} if others is None else others.model_dump()
        differs = {name: value for name, value in said.items() if known.get(name) != value or name in other.params}
        params.append({**one.params, **{name: value for name, value in differs.items() if name not in one.params}})
    return params[0], params[1]


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
    without = [(one, whole, found[f"without {one.name}"]) for one in ingredients]
    alone = [(one, base, found.get(f"with {one.name}", whole)) for one in ingredients]
    way: list[tuple[Ingredient, Measured, Measured]] = []
    if path is not None:
        between, (study, order) = base, path
        on_the_way = _read(storage, study) if study else {}
        for number, one in enumerate(order, 1):
            reached = whole if number == len(order) else on_the_way.get(f"step {number}: {one.name}")
            reached = reached or found[f"with {one.name}"]
            way.append((one, between, reached))
            between = reached
    return Ablation(
        *(name, definition.protocol.rounds, card.dataset, metric, base, whole),
        *(_steps(one, metric) for one in (without, alone, way)),
    )


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
