"""Two configurations of studies, and in what they differ: the ingredients of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from hpo.analysis.results import read_best
from hpo.errors import RequestError
from hpo.storage.queries import study_names
from hpo.storage.studies import read_definition
from hpo.study import catalog
from hpo.study.definition import StudyDefinition, define_study, derived_table
from hpo.study.loading import load_task
from hpo.study.references import NOWHERE, Sources
from hpo.study.resolving import resolve_by
from hpo.study.space import meets
from hpo.study.task import Params
from hpo.study.training import MAY_BE_TRAINED_BY
from hpo.text.capture import capture
from hpo.text.short_names import short_name

NOT_OF_THE_TEST = {"validation_pairs", "validation_examples"}  # settings that an ablation does not go by


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
        sides = (self.base, self.whole)
        before, after = ((short_name(dict(side), self.names) or "off") if side else "none" for side in sides)
        return f"{before} → {after}"


def find_configuration(
    storage: RDBStorage | None, study: str, sources: Sources = NOWHERE, *, like: Configuration | None = None
) -> Configuration:
    """Returns the best configuration of a study in the storage; or the only one that a study's file lists.

    Args:
        storage: None where there is none yet.
        like: another study's, by whose task it is to be measured.

    Raises:
        RequestError: where there is neither, or it is of another task.
    """
    name = catalog.name_of(study)
    is_stored = storage is not None and name in study_names(storage)
    definition = read_definition(storage, name) if storage is not None and is_stored else catalog.find_study(study)[1]
    if like is not None and (ours := _measured_by(definition)) != (theirs := _measured_by(like.definition)):
        raise RequestError(
            f"study {name!r} measures {ours}, but study {like.study!r} {theirs}, so they have no ingredients"
        )
    if storage is not None and is_stored:
        if study.endswith(".toml"):  # which may have been changed since
            _check_same(study, name, definition, sources)
        return Configuration(name, definition, read_best(storage, name).params)
    if len(definition.trial) != 1:
        raise RequestError(f"study {name!r} is not in the storage, and does not list a single configuration")
    definition = resolved(definition, name, sources)
    return Configuration(name, definition, definition.trial[0].params)


def _check_same(file: str, name: str, stored: StudyDefinition, sources: Sources) -> None:
    said = resolved(catalog.find_study(file)[1], name, sources)
    differences = said.differences(resolved(stored, name, sources))
    if differences:
        raise RequestError(
            f"study {name!r} in the storage was created with another definition than {file} has: {differences[0]}; "
            f"name it {name} to take the storage's"
        )


def _measured_by(definition: StudyDefinition) -> str:
    return " ".join(str(name) for name in (definition.task.name, definition.network) if name)


def resolved(definition: StudyDefinition, study: str, sources: Sources) -> StudyDefinition:
    """Returns a study as its task understands it, whose code is imported for that, and prints nothing."""
    with capture() if definition.references else nullcontext():
        return resolve_by(load_task(definition, study=study, sources=sources), definition, study=study)


def with_defaults(one: Configuration, sources: Sources = NOWHERE) -> Configuration:
    """Returns a configuration with the defaults of what it leaves out, as a search's may: a listed one has them."""
    table = {**derived_table(one.definition, one.study), "trial": [{"label": "it", "params": dict(one.params)}]}
    return replace(one, params=resolved(define_study(table, name=one.study), one.study, sources).trial[0].params)


def find_ingredients(
    base: Configuration, whole: Configuration, conditions: Mapping[str, Mapping[str, Any]], together: Sequence[str] = ()
) -> list[Ingredient]:
    """Returns in what two configurations differ, in the order of their parameters.

    A parameter that one of them cannot have, as the other's architecture is not its own, goes with what it hangs on.

    Args:
        conditions: parameter -> the values that others must have for it to be there, as the task says; where it says
            nothing the studies' spaces do.
        together: names with commas between, of parameters that are to be one ingredient.

    Raises:
        RequestError: where nothing differs, or a name is of nothing that does.
    """
    before, after = with_training(base, whole)
    spaces = {name: parameter.when for one in (base, whole) for name, parameter in one.definition.space.items()}
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
        for key, wanted in (conditions.get(name) or spaces.get(name, {})).items():
            if key in group and not all(meets(wanted, side.get(key, "")) for side in (before, after)):
                join(name, key)
    if {"momentum", "nesterov"} <= {*names} and not all(side.get("momentum") for side in (before, after)):
        join("momentum", "nesterov")  # which has no effect without
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


def overruled(base: Configuration, whole: Configuration, of_base: Sources, sources: Sources) -> list[str]:
    """Names what the base's own study has otherwise, and the whole's overrules: settings, precision, metric, code."""
    ours, theirs = base.definition, whole.definition
    settings = {**theirs.task.settings, **ours.task.settings}.keys() - NOT_OF_THE_TEST
    precision, other = (one.training and one.training.precision for one in (ours, theirs))
    files = {one.place for one in theirs.references if one.is_file}
    return [
        *sorted(name for name in settings if ours.task.settings.get(name) != theirs.task.settings.get(name)),
        *(["precision"] if precision != other else []),
        *(["metric"] if ours.protocol.metric != theirs.protocol.metric else []),
        *sorted(place for place in files if _differ(of_base.code / place, sources.code / place)),
    ]


def _differ(file: Path, other: Path) -> bool:
    return file.is_file() and other.is_file() and file.read_bytes() != other.read_bytes()


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
