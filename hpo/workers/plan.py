"""What `hpo optimize` is asked for: which study, brought to how many trials; nothing is changed yet.

A study whose task is light is understood here. Any other names code, or data, which this process does not touch: a
worker understands it, and says what it found (checking.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import RDBStorage

from hpo.errors import NoStorage, RequestError, StudyError
from hpo.storage.backends import open_storage
from hpo.storage.queries import study_names
from hpo.storage.studies import own_attributes, read_card, read_definition, stored_target
from hpo.study import catalog
from hpo.study.card import Card, make_card, parse_card
from hpo.study.definition import StudyDefinition
from hpo.study.loading import SHIPPED, is_light, load_task
from hpo.study.overrides import Override
from hpo.study.references import Sources
from hpo.study.resolving import resolve
from hpo.text.formatting import count
from hpo.text.names import check_name
from hpo.text.secrets import show_url
from hpo.workers.messages import Checked
from hpo.workers.slots import most_trials

BESIDE = "--name NEW starts a new study"


@dataclass(frozen=True)
class Wanted:
    """A study that is asked for, as its file has it, or the storage.

    Attributes:
        name: in the storage.
        definition: resolved, where the task is light or the storage has it.
        file: where it was read; None for one that the storage has.
        folder: of its code, unless that is named: the file's, or the working folder for one that is given by its name.
        asked: how many finished trials it is to come to.
        asked_before: how many were asked for before.
        is_stored: whether the storage has it.
        must_be_checked: whether a worker is to try it before anything is written.
    """

    name: str
    definition: StudyDefinition
    file: Path | None
    folder: Path
    asked: int
    asked_before: int
    is_stored: bool
    must_be_checked: bool

    @property
    def preload(self) -> str:
        """The module that workers can import while they wait for orders; empty where it is not known."""
        return "hpo.training.trainer" if self.definition.task.name in SHIPPED else ""

    def sources(self, given: Sources, code: Path | None) -> Sources:
        """Returns where its data and code are; whoever names a file allows what that names.

        Args:
            given: what was said of them.
            code: the folder of code; None takes its own.
        """
        if self.file is None:
            return given
        return given.allowing_file(code or self.folder, self.definition.references, self.definition.network)


@dataclass(frozen=True)
class Plan:
    """What `hpo optimize` is to do: bring the study `name` to `target` finished trials.

    Attributes:
        most: at how many finished trials every configuration is measured; None where they are countless.
        lower: whether `target` is to be the study's, though more were asked for earlier.
        notes: what to say beforehand.
        card: the study's; None where the task is light, so that anybody can make it.
    """

    name: str
    definition: StudyDefinition
    target: int
    most: int | None = None
    lower: bool = False
    notes: tuple[str, ...] = ()
    card: Card | None = None


def find_file(study: str, overrides: Sequence[Override] = ()) -> Wanted:
    """Returns a study by its name or its file, as one that is new, without a storage.

    Raises:
        RequestError: where there is no such study, or its file breaks a rule.
    """
    name, definition, file = catalog.find_study(study, overrides)
    return Wanted(name, definition, file, _folder(study, file), 1, 0, is_stored=False, must_be_checked=True)


def find_study(
    url: str,
    study: str,
    *,
    trials: int | None = None,
    overrides: Sequence[Override] = (),
    name: str | None = None,
) -> Wanted:
    """Finds out which study is asked for; reads the storage, if there is one, and changes nothing.

    A study's definition comes from its file; where there is none by that name, from the study in the storage, so that
    joining needs no file.

    Args:
        study: a name or a file.
        overrides: settings that are to differ from the file's, which makes it a study of its own.
        trials: the number asked for; None asks for the list's length, or for what was asked of the study before; 0 only
            reads.
        name: the study's name in the storage; None takes the file's.

    Raises:
        RequestError: where there is no such study, its file or a new name breaks a rule, or no number of trials can be
            found.
    """
    storage = _open(url)
    known = study_names(storage) if storage else []
    file: Path | None = None
    if storage and study in known and not catalog.has_study(study):
        if overrides:
            raise RequestError(
                f"study {study!r} is in the storage, and its settings stay as they are; settings are changed where a "
                "study's file is given"
            )
        found, definition = study, read_definition(storage, study)
        if is_light(definition, study=study):
            definition = resolve(definition, study=study)
    else:
        found, definition, file = catalog.find_study(study, overrides)
    found = found if name is None else name
    if found not in known:
        check_name(catalog.name_of(study) if name is None else name)
    is_given = file is not None
    return _wanted(storage, known, found, definition, trials, file, _folder(study, file), is_given=is_given)


def find_defined(url: str, name: str, definition: StudyDefinition, *, trials: int | None = None) -> Wanted:
    """Finds out how far a study is that is defined in Python; see `find_study`.

    Raises:
        RequestError: where its name breaks a rule, the storage has another study of that name, or no number of trials
            can be found.
    """
    storage = _open(url)
    known = study_names(storage) if storage else []
    if name not in known:
        check_name(name)
    if is_light(definition, study=name):
        definition = resolve(definition, study=name)
    wanted = _wanted(storage, known, name, definition, trials, None, Path(), is_given=True)
    if storage and wanted.is_stored:
        _refuse_differences(storage, name, definition.differences(read_definition(storage, name), said_by_both=True))
    return wanted


def _wanted(
    storage: RDBStorage | None,
    known: Collection[str],
    name: str,
    definition: StudyDefinition,
    trials: int | None,
    file: Path | None,
    folder: Path,
    *,
    is_given: bool,
) -> Wanted:
    """Returns a study that is asked for; `is_given` says whether the definition is not the storage's own."""
    # Else it is new, its creator died half-way, or it is another program's.
    attributes = (own_attributes(storage, name) if storage and name in known else None) or {}
    before = stored_target(attributes)
    asked = 0 if trials == 0 else _find_target(name, definition, trials, before)
    must_be_checked = not attributes if is_light(definition, study=name) else is_given
    return Wanted(name, definition, file, folder, asked, before, bool(attributes), must_be_checked)


def _folder(study: str, file: Path | None) -> Path:
    return file.parent if file and study.endswith(".toml") else Path()


def make_plan(url: str, wanted: Wanted, checked: Checked | None = None, *, lower: bool = False) -> Plan:
    """Makes sure that a study in the storage is the one that is asked for, and finds its target; changes nothing.

    Args:
        checked: what a worker found out, where it was to.
        lower: whether the number of trials that is asked for is to be the target, though more were asked for earlier.

    Raises:
        RequestError: where the study differs from the one that is being joined.
    """
    storage, name = _open(url), wanted.name
    definition = checked.definition if checked else wanted.definition
    card = parse_card(checked.card, study=name) if checked else None
    if storage and wanted.is_stored:
        if card is None and wanted.file is None:
            card = read_card(storage, name)
        check_same(storage, name, definition, card)
    most = most_trials(storage, name, definition) if storage and wanted.is_stored else definition.configurations
    target, before = (number if most is None else min(number, most) for number in (wanted.asked, wanted.asked_before))
    notes = _notes(name, wanted.asked, target, 0 if lower else before)
    return Plan(name, definition, target, most, lower, notes, card)


def _open(url: str) -> RDBStorage | None:
    try:
        return open_storage(url)
    except NoStorage:
        return None


def _notes(name: str, asked: int, target: int, asked_before: int) -> tuple[str, ...]:
    if target < asked:
        return (f"study {name!r} comes to {count(target, 'trial')}: then every configuration of its space is measured",)
    if target < asked_before:
        return (
            f"study {name!r} is to come to {count(asked_before, 'trial')}, asked for earlier; "
            f"--lower-target makes it {asked}",
        )
    return ()


def check_same(storage: RDBStorage, name: str, definition: StudyDefinition, card: Card | None = None) -> None:
    """Makes sure that a study in the storage has this definition, and was made on the same data and with the same code.

    Args:
        card: that of the study which is asked for; None where its task is light.

    Raises:
        StudyError: that says what differs, and how to start a new study.
    """
    where = _where(storage, name)
    stored, stored_card = read_definition(storage, name), read_card(storage, name)
    light = is_light(stored, study=name)
    _refuse_differences(storage, name, definition.differences(resolve(stored, study=name) if light else stored))
    if card is None and light:
        card = make_card(definition, load_task(definition, study=name))
    if card is None:  # a worker looks at the code and the data, before it works
        return
    if stored_card.data_sha256 != card.data_sha256:
        raise StudyError(f"{where} was created on other data; {BESIDE}")
    for path in sorted(stored_card.code.keys() | card.code.keys()):
        if stored_card.code.get(path) != card.code.get(path):
            raise StudyError(f"{where} was created with other code: {path} differs; {BESIDE}")


def _where(storage: RDBStorage, name: str) -> str:
    return f"study {name!r} in {show_url(storage.url)}"


def _refuse_differences(storage: RDBStorage, name: str, differences: Sequence[str]) -> None:
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        other = f"{_where(storage, name)} was created with another definition"
        raise StudyError(f"{other}: {differences[0]}{more}; {BESIDE}")


def _find_target(name: str, definition: StudyDefinition, trials: int | None, asked_before: int) -> int:
    if definition.trial:
        if trials not in (None, len(definition.trial)):
            raise RequestError(
                f"study {name!r} lists {count(len(definition.trial), 'trial')}, so --trials cannot be {trials}; "
                "leave it out"
            )
        return len(definition.trial)
    if not trials and not asked_before and definition.sampler.name == "grid":
        return definition.configurations or 1
    if not trials and not asked_before:
        raise RequestError(f"study {name!r} searches a space, so it needs a number of trials, as in --trials 200")
    return trials or asked_before
