"""The note with which a study opens in the dashboard: what it measures, and how to read it."""

from __future__ import annotations

from optuna.storages import RDBStorage

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


def note_study(storage: RDBStorage, name: str) -> None:
    """Gives a study its note, where it has none yet."""
    study_id = storage.get_study_id_from_name(name)
    if _VERSION in storage.get_study_system_attrs(study_id):
        return
    note = study_note(name, read_definition(storage, name), read_card(storage, name))
    for number, start in enumerate(range(0, len(note), _PART_LENGTH)):
        storage.set_study_system_attr(study_id, f"{_PART}{number}", note[start : start + _PART_LENGTH])
    storage.set_study_system_attr(study_id, _VERSION, 1)


def study_note(name: str, definition: StudyDefinition, card: Card) -> str:
    """Returns a study's note in Markdown."""
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
    trained = (
        f"It trains networks for {count(training.epochs, 'epoch')}, in batches of {training.batch_size}, "
        f"{training.precision}. "
        if training
        else ""
    )
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
            f"**How to read it.** Values differ by chance: compare them with their deviations. {bias}"
            f"Next: {code_span(command(*words))}.",
        ]
    )


def _values(parameter: Parameter) -> str:
    if isinstance(parameter, Choices):
        text = ", ".join(text_of(choice) for choice in parameter.choices)
    else:
        text = f"{parameter.low:g} to {parameter.high:g}" + (", log-uniform" if parameter.log else "")
    for key, wanted in parameter.when.items():
        text += f", where {key} is {' or '.join(map(text_of, wanted if isinstance(wanted, tuple) else (wanted,)))}"
    return text
