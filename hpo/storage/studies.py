"""Studies in a storage: created or joined, found again, and their definitions read."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from hpo.errors import StorageError
from hpo.storage.backends import experimental, start_lock
from hpo.storage.queries import finished_slots, read_studies, read_study, study_attributes
from hpo.study.card import Card, parse_card
from hpo.study.definition import FORMAT, StudyDefinition, define_study
from hpo.text.secrets import show_url

STUDY_ATTRIBUTES: dict[str, type] = {  # of a study that is wholly created
    "definition": dict,
    "definition_sha256": str,
    "card": dict,
    "versions": dict,
    "identity": str,
}


def are_ours(attributes: Mapping[str, Any]) -> bool:
    """Says whether a study's attributes are those of one that this program has made."""
    return all(isinstance(attributes.get(key), kind) for key, kind in STUDY_ATTRIBUTES.items())


def _is_ours(attributes: Mapping[str, Any], direction: str) -> bool:
    """Says whether this program has made a study: it has all that one is created with, and its card's direction."""
    if not are_ours(attributes):
        return False
    metrics = attributes["card"].get("metrics")
    objective = metrics[0] if isinstance(metrics, list) and metrics else None
    more_is_better = isinstance(objective, dict) and objective.get("maximize") is True
    return direction == ("maximize" if more_is_better else "minimize")


OLD_ATTRIBUTES = {"definition", "definition_sha256", "dataset_sha256"}  # of a study from before format 1


def create_study(
    storage: RDBStorage,
    name: str,
    attributes: dict[str, Any],
    target: int,
    *,
    most: int | None = None,
    lower: bool = False,
) -> None:
    """Creates a study with its attributes, or joins it; its target is the largest that was asked.

    A study without trials that lacks attributes, and has no others, is one whose creator died half-way, or an empty
    one; it is completed. Nothing is written to any other that is not ours.

    Args:
        most: the largest target that can be reached.
        lower: whether `target` counts though a larger one was asked before.

    Raises:
        StorageError: where there is a study of that name that this program has not made.
    """
    with start_lock(storage, name).hold():
        metric = parse_card(attributes["card"], study=name).metric
        study = optuna.create_study(study_name=name, storage=storage, direction=metric.direction, load_if_exists=True)
        known = study.user_attrs
        is_fit = study.directions == [StudyDirection[metric.direction.upper()]]
        if not is_fit or not (are_ours(known) or _is_empty(study, attributes)):
            raise not_ours(storage, name)
        largest = target if lower else max(target, stored_target(known))
        asked = {"target": largest if most is None else min(largest, most)}
        # The identity at the end: from then on it is ours, and whoever waits for it is to find all the rest.
        new = {} if are_ours(known) else {**attributes, **asked, "identity": uuid.uuid4().hex}
        if new:
            with experimental():
                study.set_metric_names([metric.axis_title])
        for key, value in (new or asked).items():
            study.set_user_attr(key, value)


def stored_target(attributes: Mapping[str, Any]) -> int:
    """Returns the number of trials that was asked of a study, by its attributes; 0 where none was."""
    target = attributes.get("target")
    return target if isinstance(target, int) and not isinstance(target, bool) and target > 0 else 0


def _is_empty(study: optuna.Study, attributes: Mapping[str, Any]) -> bool:
    """Says whether a study has no trials, and no attributes but some that it is about to be given."""
    known = study.user_attrs
    ours = {**attributes, "versions": known.get("versions")}  # the creator that died may have had others
    if attributes.keys() <= known.keys():  # what comes after all of these
        ours["target"] = known.get("target")
    return known.items() <= ours.items() and not study.get_trials(deepcopy=False)


def is_old(attributes: Mapping[str, Any]) -> bool:
    """Says whether a study was made by a version of this program that knew no formats."""
    return attributes.keys() >= OLD_ATTRIBUTES


def not_ours(storage: RDBStorage, name: str) -> StorageError:
    """Returns the error about a study that another program made, or another version of this one."""
    where, beside = f"study {name!r} in {show_url(storage.url)}", "--name NAME starts one beside it"
    if is_old(study_attributes(storage, name)):
        return StorageError(f"{where} was made by hpo before format 1, which this version does not read; {beside}")
    return StorageError(f"{where} was not made by hpo; {beside}")


@dataclass(frozen=True)
class UnfinishedStudy:
    """A study with fewer finished trials than were asked for.

    Attributes:
        target: the number of finished trials that was asked for.
        identity: tells it from a study of the same name that is made after this one was deleted.
    """

    name: str
    target: int
    identity: str | None


def own_attributes(storage: RDBStorage, study: str) -> dict[str, Any] | None:
    """Returns the attributes of a study that this program has made; None for another program's.

    Raises:
        UnknownName: where the storage has no such study.
    """
    attributes, direction = read_study(storage, study)
    return attributes if _is_ours(attributes, direction) else None


def own_studies(storage: RDBStorage) -> dict[str, dict[str, Any]]:
    """Returns the studies of a storage that this program has made, name -> attributes, in order of their creation."""
    return {
        name: attributes
        for name, (attributes, direction) in read_studies(storage).items()
        if _is_ours(attributes, direction)
    }


def unfinished_studies(storage: RDBStorage) -> list[UnfinishedStudy]:
    """Returns the studies of this program's with fewer finished slots than were asked for, the oldest first."""
    finished = finished_slots(storage)
    return [
        UnfinishedStudy(name, target, attributes["identity"])
        for name, attributes in own_studies(storage).items()
        if (target := stored_target(attributes)) > finished.get(name, 0)
    ]


def read_definition(storage: RDBStorage, study: str) -> StudyDefinition:
    """Returns the definition that a study was created with.

    Raises:
        StorageError: where the study was not made by this program, or by a later version.
    """
    stored = _attributes_of_ours(storage, study)["definition"]
    made_in = stored.get("format")
    if isinstance(made_in, int) and made_in > FORMAT:
        raise StorageError(
            f"study {study!r} in {show_url(storage.url)} is of format {made_in}, and this hpo reads format {FORMAT}; "
            "upgrade it to read it"
        )
    return define_study(stored, name=study)


def read_card(storage: RDBStorage, study: str) -> Card:
    """Returns the card of a study's task.

    Raises:
        StorageError: where the study was not made by this program.
    """
    return parse_card(_attributes_of_ours(storage, study)["card"], study=study)


def derived_card(storage: RDBStorage, study: str, *, is_test: bool = False) -> Card:
    """Returns the card of a study that measures another's trials again.

    Args:
        is_test: whether it measures them on the test in any case.
    """
    card = read_card(storage, study)
    tested = {"metrics": card.tested, "tested": ()} if is_test and card.tested else {}
    return card.model_copy(update={"at_chance": {}, **tested})


def _attributes_of_ours(storage: RDBStorage, study: str) -> dict[str, Any]:
    attributes = own_attributes(storage, study)
    if attributes is None:
        raise not_ours(storage, study)
    return attributes


def read_target(attributes: Mapping[str, Any]) -> int | None:
    """Returns the number of trials that a study was asked for; None where it says none, or no number."""
    return stored_target(attributes) or None
