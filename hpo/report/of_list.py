"""Sections of a study that is a list: which configuration is better, what each choice changes, what is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from optuna.storages import RDBStorage

from hpo.analysis.caveats import too_few_to_tell
from hpo.analysis.comparison import answer, compare, how_compared
from hpo.analysis.effects import Effect, read_effects, related_lists
from hpo.analysis.results import measured_entries
from hpo.analysis.statistics import DIVERGED, LEVEL, Interval, difference_of_means
from hpo.report.sections import Section, change_of, error_of, heading_of
from hpo.report.study_figures import effect_name, effects_figure, listed_figure
from hpo.storage.queries import StoredTrial
from hpo.study.card import Card, MetricCard
from hpo.study.definition import Entry, StudyDefinition
from hpo.text.formatting import capitalized, count, mean_and_deviation, p_value, points


def list_sections(
    storage: RDBStorage,
    study: str,
    trials: Sequence[StoredTrial],
    definition: StudyDefinition,
    card: Card,
    clean: Callable[[str], str],
) -> Iterator[Section]:
    """Yields what a list says; `clean` as `read_report` has it."""
    entries = measured_entries(trials, definition)
    labels, measured = [entry.label for entry, _ in entries], [trial for _, trial in entries]
    text = [
        f"{len(measured)} of {len(definition.trial)} are measured, over {count(definition.protocol.rounds, 'round')}."
    ]
    if len(measured) > 1:
        yield _comparison(storage, study, card.metric, clean)
    yield Section("errors", heading_of(card.metric), text, figure=listed_figure(measured, labels, card.metric))
    yield from _published(entries, card.metric)
    lists = related_lists(storage, study)
    yield from _effects(read_effects(storage, lists), list(map(clean, lists)), card.metric)


def _comparison(storage: RDBStorage, study: str, metric: MetricCard, clean: Callable[[str], str]) -> Section:
    found = compare(storage, study)
    named = [replace(one, name=clean(one.name)) for one in found.compared]
    found = replace(found, study=clean(study), source=clean(found.source), compared=named)
    has_new = any(contrast.on_new for contrast in found.contrasts)
    on_new_heading = ["95 %, new test examples"] if has_new else []
    rows = [["configuration", "difference (95 %)", *on_new_heading, "p", "verdict"]]
    for one, contrast in zip(named[1:], found.contrasts, strict=True):
        worse = "worse" if metric.sign * contrast.difference.estimate > 0 else "better"
        often = (
            f"diverged in {contrast.diverged[1] or 'none'} of {count(found.rounds, 'round')}, the first in "
            f"{contrast.diverged[0] or 'none'} (p {p_value(contrast.diverged_p_value)})"
        )
        told = _verdict(worse if contrast.is_significant else "", contrast.rounds, often if contrast.diverges else "")
        on_new = [contrast.on_new.text(metric.unit, "+") if contrast.on_new else ""] if has_new else []
        rows.append([one.name, change_of(contrast.difference, metric), *on_new, p_value(contrast.p_value), told])
    diverged = [f"{one.name} {one.convergence.text(metric)}." for one in named if one.convergence]
    text = [f"{capitalized(answer(found))}.", *diverged, f"{capitalized(how_compared(found))}."]
    return Section("comparison", f"Beside {named[0].name}", text, rows)


def _effects(effects: Sequence[Effect], lists: Sequence[str], metric: MetricCard) -> Iterator[Section]:
    if not effects:
        return
    rows = [["change", "pairs", f"{points('', metric.unit).strip() or 'difference'} (95 %)", "p", "verdict"]]
    for effect in effects:
        by = effect.difference
        is_significant = effect.p_value is not None and effect.p_value < LEVEL
        changes = ("lowers" if by.estimate < 0 else "raises") if is_significant else ""
        often = (
            f"diverged in {effect.diverged_after or 'none'} of {count(effect.measured, 'round')}, before in "
            f"{effect.diverged_before or 'none'} (p {p_value(effect.diverged_p_value)})"
        )
        told = _verdict(changes, effect.rounds, often if effect.diverges else "")
        changed = change_of(by, effect.metric)
        rows.append([effect_name(effect, metric), str(effect.pairs), changed, p_value(effect.p_value), told])
    where = f"Of {', '.join(lists)}, which share their rounds. " if len(lists) > 1 else ""
    text = [
        f"{where}Trials that differ in this alone, compared round by round; p by flipping the signs of the "
        "differences, of all changes that are listed together, intervals of each alone. Trials whose error no loss "
        "trains are left out, and so are rounds in which one diverged; how often that is, is tested beside."
    ]
    shown = [effect for effect in effects if effect.rounds]
    figure = effects_figure(shown, metric) if shown else None
    yield Section("effects", "What each choice changes", text, rows, figure)


def _verdict(significant: str, rounds: int, often: str) -> str:
    """Returns what is told of a difference: of one that diverges how often, and it is never called none.

    Args:
        significant: what the errors tell; empty where they tell nothing.
        rounds: in which both converged.
        often: how often either diverged; empty where neither did.
    """
    if too_few_to_tell(rounds):
        told = "too few rounds" if rounds else ""
    else:
        told = significant or ("" if often else "not significant")
    return "; else ".join(part for part in (often, told) if part)


def _published(entries: Sequence[tuple[Entry, StoredTrial]], metric: MetricCard) -> Iterator[Section]:
    rows = [["", "published", "measured", "difference (95 %)"]]
    for entry, trial in entries:
        published, std = entry.published, trial.attributes["std"]
        if published is None or trial.value is None:
            continue
        row = [entry.label, mean_and_deviation(published.mean, published.std, metric.unit), error_of(trial, metric)]
        ours = trial.value, std or 0.0, len(trial.attributes["errors"])
        theirs = published.mean, published.std, published.rounds
        by = difference_of_means(*ours, *theirs, metric.resolution, metric.resolution).within(*metric.differences)
        if trial.attributes.get("diverged_rounds"):
            by = Interval(by.estimate, None, None, why=DIVERGED)
        rows.append([*row, change_of(by, metric)])
    if len(rows) > 1:
        what = capitalized(metric.axis_title)
        text = [f"{what}, mean and deviation; the interval is Welch's. `hpo reproduce` judges them."]
        yield Section("published", "Beside the published", text, rows)
