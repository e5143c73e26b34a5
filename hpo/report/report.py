"""A study's report: its headline, and its sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.caveats import NEW_SELECTION, SELECTION_BIAS, beside_search, of_intervals, too_few_to_tell
from hpo.analysis.confirmation import MOST_TIES, Confirmation, read_confirmations
from hpo.analysis.contrasts import measured
from hpo.analysis.fresh_rounds import Confirms, read_confirms
from hpo.analysis.ledger import read_ledger
from hpo.analysis.results import have_the_same, read_best
from hpo.analysis.statistics import both_intervals
from hpo.report.costs import cost_sections
from hpo.report.of_list import list_sections
from hpo.report.sections import (
    Section,
    best_section,
    environment_section,
    error_of,
    name_of,
    ranked,
    search_sections,
    time_section,
)
from hpo.storage.queries import StoredTrial, read_trials, study_attributes
from hpo.storage.studies import read_card, read_definition
from hpo.study.card import Card
from hpo.study.definition import StudyDefinition
from hpo.study.references import study_words
from hpo.text.commands import command
from hpo.text.formatting import capitalized, count, rounds_on, spread
from hpo.text.short_names import short_name


@dataclass(frozen=True)
class Report:
    """A study's report.

    Attributes:
        headline: what its winner errs, and how sure that is.
    """

    study: str
    title: str
    headline: list[str]
    sections: list[Section]


def read_report(storage: RDBStorage, study: str, clean: Callable[[str], str] = str) -> Report:
    """Returns what a study says so far.

    Args:
        clean: is given every text that people have written or that names a machine, and returns what stands in the
            report for it: studies' names, the title, labels, hosts.

    Raises:
        StorageError: where no trial has been measured to the end.
    """
    definition, card = _cleaned(read_definition(storage, study), clean), read_card(storage, study)
    attributes, name = study_attributes(storage, study), clean(study)
    best = read_best(storage, study).trial  # says so where there is none
    trials = read_trials(storage, study)
    of_best, of_any = read_confirmations(storage, study, [best]), read_confirmations(storage, study)
    confirmation = next(of_best, None) or next(of_any, None)
    if definition.space:
        parts = search_sections(storage, study, trials, definition, card)
    else:
        parts = list_sections(storage, study, trials, definition, card, clean)
    sections = [
        best_section(trials, definition, card, confirmation),
        *parts,
        *cost_sections(trials, definition, card.metric),
        time_section(trials, clean),
        environment_section(trials, definition, card, attributes["definition_sha256"], read_ledger(storage, study)),
    ]
    if confirms := read_confirms(attributes):
        confirms = confirms.model_copy(update={"study": clean(confirms.study)})
        headline = _headline_of_confirmation(trials, confirms, card)
    else:
        headline = _headline(name, trials, definition, card, confirmation, clean)
    return Report(name, definition.title, headline, sections)


def _cleaned(definition: StudyDefinition, clean: Callable[[str], str]) -> StudyDefinition:
    """Returns a study with its texts cleaned: the title and the labels; its configurations stay as they are."""
    listed = tuple(entry.model_copy(update={"label": clean(entry.label)}) for entry in definition.trial)
    return definition.model_copy(update={"title": clean(definition.title), "trial": listed})


def _headline(
    study: str,
    trials: Sequence[StoredTrial],
    definition: StudyDefinition,
    card: Card,
    confirmation: Confirmation | None,
    clean: Callable[[str], str],
) -> list[str]:
    best, metric = ranked(trials, card.metric)[0], card.metric
    which = "Highest" if metric.maximize else "Lowest"
    extreme = (
        f"{which} {metric.title}: {error_of(best, metric, metric.unit)} over "
        f"{rounds_on(definition.protocol.rounds, card.dataset)}, trial {best.number}: {name_of(best, definition)}."
    )
    own = measured("", best.number, best, metric)
    own = own if len(definition.trial) == 1 else own.as_searched()
    extreme += f" It {own.convergence.text(metric)}." if own.convergence else ""
    ties = [trial.number for trial in ranked(trials, metric)[1 : MOST_TIES + 1] if trial.value == best.value]
    extreme += f" {capitalized(have_the_same(ties))}." if ties else ""
    fresh = {one.trial: one for one in confirmation.confirmed} if confirmation else {}
    if confirmation is None or best.number not in fresh:
        if not definition.space:
            return [extreme]
        again = command("confirm", *study_words(study, definition.references))
        return [
            extreme,
            f"Not confirmed: {SELECTION_BIAS}. `{again}` measures it on fresh rounds.",
        ]
    confirmed = fresh[best.number]
    estimate = spread(confirmed.mean.estimate, None, metric.unit)
    sure = (
        f"Confirmed on {count(confirmation.rounds, 'fresh round')}: {estimate} "
        f"({both_intervals(confirmed.mean, confirmed.on_new, metric.unit)}); "
        f"{beside_search(confirmed.searched, confirmed.optimism, metric.unit, confirmed.std)}."
    )
    names = {one.trial: clean(one.name) for one in confirmation.confirmed}
    said = []
    if confirmed.convergence:
        said.append(f"On fresh rounds it {confirmed.convergence.text(metric)}.")
    alike = [
        f"{names[one.first]} and {names[one.second]}"
        for one in confirmation.contrasts
        if not one.is_significant and not one.diverges
    ]
    if (too_few := too_few_to_tell(confirmation.rounds)) and confirmation.contrasts:
        said.append(f"Which is better, {too_few}.")
    elif alike:
        said.append(f"On fresh rounds {', '.join(alike)} do not differ significantly.")
    said += [f"{capitalized(few)}." for few in of_intervals(confirmation.rounds, [confirmed], metric)]
    return [extreme, sure, *said]


def _headline_of_confirmation(trials: Sequence[StoredTrial], confirms: Confirms, card: Card) -> list[str]:
    """Never the best of the fresh figures: to choose by them is to select again."""
    first = next((t for t in trials if t.state is TrialState.COMPLETE and t.attributes.get("slot") == 0), None)
    which = f"The first of {confirms.study}, its trial {confirms.trials[0]}"
    if first is None:
        return [f"{which}, is not measured yet."]
    over = count(len(first.attributes["errors"]), "fresh round")
    return [
        f"{which}: {error_of(first, card.metric, card.metric.unit)} on {over}, {short_name(first.params)}.",
        f"{NEW_SELECTION.capitalize()}.",
    ]
