"""What `hpo optimize` is asked for: which study, brought to how many trials; nothing is changed yet."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.storages import RDBStorage

from hpo.errors import NoStorage, RequestError, StudyError
from hpo.storage.backends import open_storage
from hpo.storage.queries import study_names
from hpo.storage.studies import own_attributes, read_card, read_definition, stored_target
from hpo.study import catalog
from hpo.study.definition import StudyDefinition
from hpo.study.loading import make_task, resolve
from hpo.text.formatting import count
from hpo.text.names import check_name
from hpo.text.secrets import show_url
from hpo.workers.budget import most_trials


@dataclass(frozen=True)
class Plan:
    """What `hpo optimize` is to do: bring the study `name` to `target` finished trials.

    Attributes:
        most: at how many finished trials every configuration is measured; None where they are countless.
        lower: whether `target` is to be the study's, though more were asked for earlier.
        notes: what to say beforehand.
    """

    name: str
    definition: StudyDefinition
    target: int
    most: int | None = None
    lower: bool = False
    notes: tuple[str, ...] = ()


def make_plan(
    url: str,
    study: str,
    *,
    trials: int | None = None,
    lower: bool = False,
    dataset: str | None = None,
    rounds: int | None = None,
    name: str | None = None,
) -> Plan:
    """Finds out what is asked for; reads the storage, if there is one, and changes nothing.

    A study's definition comes from its file; where there is none by that name, from the study in the storage, so that
    joining needs no file.

    Args:
        study: a name or a file.
        dataset, rounds: others than the file's make it a study of its own.
        trials: the number asked for; None asks for the list's length, or for what was asked of the study before.
        lower: whether that number is to be the study's target, though more were asked for earlier.
        name: the study's name in the storage; None takes the file's.

    Raises:
        RequestError: where there is no such study, its file or a new name breaks a rule or differs from the study that
            is being joined, or no number of trials can be found.
    """
    try:
        storage = open_storage(url)
    except NoStorage:
        storage = None
    known = study_names(storage) if storage else []
    if storage and dataset is None and rounds is None and study in known and not catalog.has_study(study):
        found, definition = study, resolve(read_definition(storage, study), study=study)
    else:
        found, definition = catalog.load_study(study, dataset=dataset, rounds=rounds)
    found = found if name is None else name
    if found not in known:
        check_name(catalog.name_of(study) if name is None else name)
    attributes = (own_attributes(storage, found) if storage and found in known else None) or {}
    if storage and attributes:  # else it is new, its creator died half-way, or it is another program's
        check_same(storage, found, definition)
    before = stored_target(attributes)
    asked = _find_target(found, definition, trials, before)
    most = most_trials(storage, found, definition) if storage and attributes else definition.configurations
    target, before = (number if most is None else min(number, most) for number in (asked, before))
    return Plan(found, definition, target, most, lower, _notes(found, asked, target, 0 if lower else before))


def _notes(name: str, asked: int, target: int, asked_before: int) -> tuple[str, ...]:
    if target < asked:
        return (f"study {name!r} comes to {count(target, 'trial')}: then every configuration of its space is measured",)
    if target < asked_before:
        return (
            f"study {name!r} is to come to {count(asked_before, 'trial')}, asked for earlier; "
            f"--lower-target makes it {asked}",
        )
    return ()


def check_same(storage: RDBStorage, name: str, definition: StudyDefinition) -> None:
    """Makes sure that a study in the storage has this definition, and was made on the same data.

    Raises:
        StudyError: that says what differs, and how to start a new study.
    """
    where = f"study {name!r} in {show_url(storage.url)}"
    differences = definition.differences(resolve(read_definition(storage, name), study=name))
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise StudyError(
            f"{where} was created with another definition: {differences[0]}{more}; --name NEW starts a new study"
        )
    if read_card(storage, name).data_sha256 != make_task(definition, study=name).data_sha256:
        raise StudyError(f"{where} was created on other data; --name NEW starts a new study")


def _find_target(name: str, definition: StudyDefinition, trials: int | None, asked_before: int) -> int:
    if definition.trial:
        if trials not in (None, len(definition.trial)):
            raise RequestError(
                f"study {name!r} lists {count(len(definition.trial), 'trial')}, so --trials cannot be {trials}; "
                "leave it out"
            )
        return len(definition.trial)
    if not trials and not asked_before:
        raise RequestError(f"study {name!r} searches a space, so it needs a number of trials, as in --trials 200")
    return trials or asked_before
