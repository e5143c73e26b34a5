"""The note with which a study opens in the dashboard: what it measures, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.contrasts import measured
from hpo.analysis.ledger import Ledger, read_ledger
from hpo.analysis.results import read_entries
from hpo.storage.queries import read_trials
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import Card
from hpo.study.definition import StudyDefinition
from hpo.study.references import study_words
from hpo.study.space import Choices, Parameter
from hpo.text.commands import command
from hpo.text.escaping import escape_markdown
from hpo.text.formatting import count, rounds_on, text_of
from hpo.text.markdown import code_span, markdown_table

# Where optuna-dashboard keeps the note of a study (its module `_note`). Written here, not by its save_note: importing
# it takes a second, for it imports scikit-learn, and the parent of every run would wait for it.
_VERSION, _PART, _PART_LENGTH = "dashboard:note_ver", "dashboard:note_str:", 2045

_READING = "**How to read it.**"  # by which a note is known for ours


def note_study(storage: RDBStorage, name: str) -> None:
    """Gives a study its note, in the place of an earlier one of ours; one that somebody has edited stays."""
    study_id = storage.get_study_id_from_name(name)
    kept = storage.get_study_system_attrs(study_id)
    before = [key for key in kept if key.startswith(_PART)]
    if _VERSION in kept and (kept[_VERSION] != 1 or _READING not in "".join(str(kept[key]) for key in before)):
        return
    definition, card = read_definition(storage, name), read_card(storage, name)
    note = study_note(name, definition, card, read_ledger(storage, name), _diverged(storage, name, definition, card))
    parts = [note[start : start + _PART_LENGTH] for start in range(0, len(note), _PART_LENGTH)]
    for key, part in zip_longest([f"{_PART}{number}" for number in range(max(len(parts), len(before)))], parts):
        if kept.get(key) != (part or ""):
            storage.set_study_system_attr(study_id, key, part or "")
    if _VERSION not in kept:
        storage.set_study_system_attr(study_id, _VERSION, 1)


def study_note(name: str, definition: StudyDefinition, card: Card, ledger: Ledger, diverged: Sequence[str] = ()) -> str:
    """Returns a study's note in Markdown.

    Args:
        diverged: how often the best of a search did, or each of a list that did.
    """
    protocol = definition.protocol
    rows = [["parameter", "values"]]
    rows += [[key.replace("_", " "), _values(parameter)] for key, parameter in definition.search_space.items()]
    what = (
        f"A search ({definition.sampler.name}, {definition.pruner.name}) over"
        if definition.space
        else f"{count(len(definition.trial), 'listed configuration')} of"
    )
    again = ["confirm", *study_words(name, definition.references)]
    words = again if definition.space else ["compare", "--study", name]
    bias = "The best of many noisy results looks better than it is (selection bias). " if definition.space else ""
    training = definition.training
    trained = f"It trains networks for {definition.trained}, {training.precision}. " if training else ""
    return "\n\n".join(
        [
            f"# {escape_markdown(definition.title)}",
            f"{what}:",
            markdown_table(rows),
            f"**A trial** measures {rounds_on(protocol.rounds, escape_markdown(card.dataset), word='of')}, each with "
            f"random streams of its own, from seed {protocol.seed}. {trained}All trials share the rounds.",
            f"**Its value** is the mean {escape_markdown(card.metric.axis_title)} of the rounds"
            f"{': ' if card.metric.description else ''}{escape_markdown(card.metric.description)}. Intermediate values "
            "are that mean after so many steps. A pruned trial has none. User attributes hold the rounds' own errors "
            "and their deviation.",
            *([f"**Rounds that diverged.** {'; '.join(map(escape_markdown, diverged))}."] if diverged else []),
            f"**Looks at the test.** {_looks(definition, ledger)}",
            f"{_READING} Values differ by chance: compare them with their deviations. {bias}"
            f"Next: {code_span(command(*words))}.",
        ]
    )


def _diverged(storage: RDBStorage, name: str, definition: StudyDefinition, card: Card) -> list[str]:
    """Returns how often the best of a search diverged, or each of a list, and what it errs else; of those that did."""
    if definition.space:
        best = read_trials(storage, name, states=(TrialState.COMPLETE,), best=1)
        found = [measured(f"trial {one.number}, the best,", one.number, one, card.metric).as_searched() for one in best]
    else:
        entries = read_entries(storage, name)
        found = [measured(entry.label, trial.number, trial, card.metric) for entry, trial in entries]
    return [f"{one.name} {one.convergence.text(card.metric)}" for one in found if one.convergence]


def _looks(definition: StudyDefinition, ledger: Ledger) -> str:
    """Returns by what its trials are chosen, and how often it was confirmed; of its trials there will be more."""
    if definition.protocol.select_on == "validation":
        said = f"None while searching, {ledger.selection}."
    elif definition.space:
        said = "One with every trial, for they are measured on the test."
    else:
        said = "One, for its configurations are compared by it."
    return f"{said} Besides: {ledger.afterwards}."


def _values(parameter: Parameter) -> str:
    if isinstance(parameter, Choices):
        text = ", ".join(text_of(choice) for choice in parameter.choices)
    else:
        text = f"{parameter.low:g} to {parameter.high:g}" + (", log-uniform" if parameter.log else "")
    for key, wanted in parameter.when.items():
        text += f", where {key} is {' or '.join(map(text_of, wanted if isinstance(wanted, tuple) else (wanted,)))}"
    return text
