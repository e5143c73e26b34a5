"""What a study says, in sections: each a few sentences, perhaps a table, perhaps a figure.

`html.py` makes a page or a text of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.analysis.caveats import NEW_SELECTION, few_rounds
from hpo.analysis.confirmation import Confirmation
from hpo.analysis.contrasts import NO_DIFFERENCE
from hpo.analysis.effects import BEST_SHARE, FEWEST_TRIALS, Importances, read_importances
from hpo.analysis.ledger import Ledger
from hpo.analysis.results import entry_of
from hpo.analysis.statistics import Interval, mean_of
from hpo.report.study_figures import (
    MOST,
    history_figure,
    importances_figure,
    parallel_figure,
    rates_figure,
)
from hpo.storage.queries import StoredTrial
from hpo.study.card import Card, MetricCard
from hpo.study.definition import StudyDefinition
from hpo.study.space import LEARNING_RATE, FloatRange, is_always_there
from hpo.text.formatting import (
    capitalized,
    change,
    count,
    join_words,
    lasted,
    mean_and_deviation,
    text_of,
    with_unit,
)
from hpo.text.short_names import initials, short_name

BEST = 10  # configurations in the table


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: what its picture's file is called by.
        table: rows, the first of headings; empty for none.
        wide: whether the figure needs the page's whole width.
    """

    name: str
    title: str
    text: list[str]
    table: list[list[str]] = field(default_factory=list)
    figure: go.Figure | None = None
    wide: bool = False


def best_section(
    trials: Sequence[StoredTrial], definition: StudyDefinition, card: Card, confirmation: Confirmation | None
) -> Section:
    """Returns the best configurations of a study."""
    fresh = {one.trial: one for one in confirmation.confirmed} if confirmation else {}
    rows = [
        [
            "trial",
            with_unit(card.metric.noun, card.metric.unit),
            *([] if definition.space else ["95 %"]),
            *(["on fresh rounds"] if fresh else []),
            "configuration",
        ]
    ]
    means: list[Interval] = []
    for trial in ranked(trials, card.metric)[:BEST]:
        confirmed = fresh.get(trial.number)
        again = mean_and_deviation(confirmed.mean.estimate, confirmed.std, card.metric.unit) if confirmed else ""
        row = [str(trial.number), error_of(trial, card.metric)]
        if not definition.space:
            diverged = trial.attributes.get("diverged_rounds", ())
            means.append(mean_of(trial.attributes["errors"], card.metric, diverged))
            row.append(means[-1].text(card.metric.unit))
        rows.append([*row, *([again] if fresh else []), name_of(trial, definition)])
    flags = [
        name for name, parameter in definition.search_space.items() if any(value is True for value in parameter.values)
    ]
    if definition.space:
        text = ["Mean and deviation over rounds, as searched: chosen for being low, so they have no intervals."]
        text = [text[0].replace("low", "high")] if card.metric.maximize else text
    else:
        text = ["Mean and deviation over rounds; the interval is the mean's, on these test examples."]
        if len(definition.trial) > 1:
            text.append("The first is first by these very figures, so its own interval is too hopeful.")
        text += [f"{capitalized(few)}."] if (few := few_rounds(definition.protocol.rounds, *means)) else []
    if flags and definition.space:
        text.append("; ".join(f"+{initials(name)}: {name.replace('_', ' ')}" for name in flags) + ".")
    if fresh:
        text.append(f"{NEW_SELECTION.capitalize()}.")
    return Section("best", "Best configurations", text, rows)


def search_sections(
    storage: RDBStorage, study: str, trials: Sequence[StoredTrial], definition: StudyDefinition, card: Card
) -> Iterator[Section]:
    """Yields what a search says."""
    whole, pruned = _count(trials, TrialState.COMPLETE), _count(trials, TrialState.PRUNED)
    pruned_too = f"; {pruned} pruned" if pruned else ""
    over = count(definition.protocol.rounds, "round")
    each = ", each" if whole > 1 else ""
    text = [f"{count(whole, 'trial')} measured to the end{each} over {over}{pruned_too}."]
    if whole > MOST:
        text.append(f"The figures draw the best {MOST} of them.")
    yield Section("history", "History", text, figure=history_figure(trials, card.metric))
    if isinstance(definition.space.get(LEARNING_RATE), FloatRange):
        text = ["A colour for each optimizer."] if "optimizer" in definition.parameters else []
        figure = rates_figure(trials, card.metric)
        yield Section("rates", f"{capitalized(card.metric.noun)} against learning rate", text, figure=figure)
    yield _importances(read_importances(storage, study))
    text = ["A line is a trial measured to the end. A click in the legend hides its lines."]
    always = {name for name, parameter in definition.space.items() if is_always_there(parameter, definition.space)}
    if conditional := [name for name in definition.space if name not in always]:
        text.append(f"Without {', '.join(conditional)}, which not every trial has.")
    varied = [name for name in definition.space if name in always and len(set(definition.space[name].values)) > 1]
    figure = parallel_figure(trials, varied, definition, card.metric)
    yield Section("parallel", "All parameters", text, figure=figure, wide=True)
    yield from _pruning(trials, definition)


def _importances(importances: Importances) -> Section:
    if not importances.shares:
        return Section(
            "importances",
            "Importances",
            [f"They need {FEWEST_TRIALS} trials that were measured to the end and differ."],
        )
    text = [
        f"For being among the best {_percent(BEST_SHARE)} (PED-ANOVA): among the trials that survived, in the space "
        "that was searched; no causes, and no directions."
    ]
    if importances.left_out:
        names = join_words([name.replace("_", " ") for name in importances.left_out])
        text.append(f"Left out, for all that survived have the same: {names}.")
    return Section("importances", "Importances", text, figure=importances_figure(importances.shares))


def _pruning(trials: Sequence[StoredTrial], definition: StudyDefinition) -> Iterator[Section]:
    steps = definition.steps
    word = "epoch" if definition.training and not definition.goes_by_rounds else definition.step_word
    means = [
        *([definition.pruner.name] if definition.pruner.name != "none" else []),
        *(["race"] if definition.race else []),
    ]
    if not means or steps is None:
        return
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    rounds = 1 if definition.goes_by_rounds else definition.protocol.rounds
    own = [trial.params.get("epochs", steps) if definition.training else steps for trial in finished]
    spent = sum(
        mine * _round_steps(trial, steps, rounds) / (steps * rounds) for mine, trial in zip(own, finished, strict=True)
    )
    whole = sum(own)
    done = "trained" if definition.training else "taken"
    text = [
        f"Pruned: {_count(trials, TrialState.PRUNED)} of {count(len(finished), 'trial')}; {_percent(spent / whole)} of "
        f"all {word}s were {done}, {_percent(1 - spent / whole)} saved ({', '.join(means)})."
    ]
    yield Section("pruning", "Pruning", text)


def time_section(trials: Sequence[StoredTrial], clean: Callable[[str], str]) -> Section:
    """Returns how long trials took, and on which machines."""
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    seconds = sum(trial.attributes.get("seconds") or 0.0 for trial in finished)
    moments = [(trial.started, trial.finished) for trial in finished if trial.started and trial.finished]
    wall = max(end for _, end in moments) - min(begin for begin, _ in moments) if moments else None
    rows = [["worker", "device", "trials", "time"]]
    by_worker: dict[tuple[str, str], list[float]] = {}
    for trial in finished:
        worker = trial.attributes.get("worker") or {}
        key = (clean(str(worker.get("host", "unknown"))), str(trial.attributes.get("device", "")))
        by_worker.setdefault(key, []).append(trial.attributes.get("seconds") or 0.0)
    for (host, device), spent in by_worker.items():
        rows.append([host, device, str(len(spent)), lasted(sum(spent))])
    span = f", {lasted(wall.total_seconds())} from the first start to the last end" if wall else ""
    text = [f"{lasted(seconds)} of training{span}."]
    if failed := _count(trials, TrialState.FAIL):
        text.append(f"Failed or interrupted besides: {failed}.")
    return Section("time", "Time and machines", text, rows)


def environment_section(
    trials: Sequence[StoredTrial], definition: StudyDefinition, card: Card, definition_sha256: str, ledger: Ledger
) -> Section:
    """Returns under which conditions a study was measured."""
    protocol, training = definition.protocol, definition.training
    used = {", ".join(f"{k} {v}" for k, v in (trial.attributes.get("versions") or {}).items()) for trial in trials}
    settings = {
        name: value for name, value in definition.task.settings.items() if name != "dataset" and value not in ("", None)
    }
    code = ", ".join(f"{path} (SHA-256 {sha[:12]}…)" for path, sha in card.code.items())
    search = f"{definition.sampler.name}, {definition.pruner.name}" if definition.space else "none: a list"
    rows = [
        ["", ""],
        *([["dataset", f"{card.dataset} (SHA-256 {card.data_sha256[:12]}…)"]] if card.dataset else []),
        *([["code", code]] if code else []),
        ["task", ", ".join([definition.task.name, *(f"{name} = {text_of(settings[name])}" for name in settings)])],
    ]
    if training:
        rows.append(["training", f"{definition.trained}, {training.precision}"])
    rows += [
        ["protocol", f"{count(protocol.rounds, 'round')}, {card.metric.title}"],
        ["selection", f"{ledger.selection}; {str(ledger).partition(';')[0]}"],
        ["study", f"seed {protocol.seed}, SHA-256 {definition_sha256[:12]}…"],
        ["sampler, pruner", search],
        ["versions", "; ".join(sorted(used - {""}))],
    ]
    return Section("environment", "Conditions", [], rows)


def name_of(trial: StoredTrial, definition: StudyDefinition) -> str:
    """Returns what a configuration is called: by its label in a list, else by its parameters."""
    entry = entry_of(trial, definition.trial)
    return entry.label if entry else short_name(trial.params)


def ranked(trials: Sequence[StoredTrial], metric: MetricCard) -> list[StoredTrial]:
    """Returns the trials that were measured to the end, the best first."""
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    return sorted(whole, key=lambda trial: (metric.sign * (trial.value or 0.0), trial.number))


def _count(trials: Sequence[StoredTrial], state: TrialState) -> int:
    return sum(trial.state is state for trial in trials)


def _round_steps(trial: StoredTrial, steps: int, rounds: int) -> int:
    """Returns how many of its steps a finished trial has done, in all its rounds; a race may have spared it some."""
    if trial.state is TrialState.COMPLETE:
        return steps * rounds
    done, before = 0, 0
    for step, errors in sorted(
        (int(step), errors) for step, errors in trial.attributes.get("errors_by_step", {}).items()
    ):
        done, before = done + (step - before) * len(errors), step
    return done


def error_of(trial: StoredTrial, metric: MetricCard, unit: str = "") -> str:
    """Returns a trial's mean and deviation, and how many of its rounds diverged."""
    diverged = len(trial.attributes.get("diverged_rounds") or [])
    shown = with_unit(mean_and_deviation(trial.value or 0.0, trial.attributes.get("std"), metric.unit), unit)
    return f"{shown} ({diverged} diverged)" if diverged else shown


def heading_of(metric: MetricCard) -> str:
    """Returns what stands above errors."""
    return "Errors" if metric.noun == "error" else capitalized(metric.noun)


def change_of(by: Interval, metric: MetricCard) -> str:
    """Returns a difference with its interval; a dash where there is none."""
    if by == NO_DIFFERENCE:
        return f"– ({by.why})"
    return f"{change(by.estimate, metric.unit, by.standard_error)} ({by.text(metric.unit, '+')})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
