"""What a person reads of what was found: the winner, its confirmation, drift between machines, an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.analysis.confirmation import Confirmation, describe
from hpo.analysis.hardware_drift import Drift, Measurement
from hpo.analysis.results import Best, TrialRow
from hpo.analysis.statistics import LEVEL, Interval
from hpo.cli.columns import FittedTable
from hpo.cli.views import text_of
from hpo.limits import FEWEST_ROUNDS
from hpo.study.definition import StudyDefinition
from hpo.study.space import short_name
from hpo.text.commands import command_here
from hpo.text.formatting import count, interval, p_value, spread

SELECTION_BIAS = "the best of many noisy results looks better than it is (selection bias)"
NEW_SELECTION = "picking a different one now is a new selection and biases its figure"


def best_table(best: Best, decision: str) -> list[Any]:
    """Returns the winner as lines and a table."""
    table = FittedTable()
    table.add_column()
    table.add_column(wraps=True)
    for name, value in best.params.items():
        table.add_row(f"  {name}", f" {text_of(value)}")
    which = f"trial {best.trial}" if best.label is None else f"{best.label} (trial {best.trial})"
    headline = (
        f"study {best.study}: {which} has the lowest test error, {spread(best.value, best.std)} "
        f"(mean and deviation of {count(best.rounds, 'round')}, {best.dataset}, by {decision})"
    )
    return [headline, table, _verdict(best)]


def _verdict(best: Best) -> str:
    """Returns how far a winner's figure can be believed."""
    if best.confirmed is not None:
        confirmed = best.confirmed
        return (
            f"confirmed on {count(confirmed['rounds'], 'fresh round')}: {confirmed['mean']:.2f} % "
            f"(95 %: {interval(confirmed['low'], confirmed['high'])}); "
            f"{beside_search(confirmed['mean'], confirmed['optimism'])}"
        )
    if best.label is not None:
        compare = command_here("report", "--study", best.study, "-o", "report")
        return f"{compare} compares the list's configurations round by round"
    return f"{SELECTION_BIAS}; it is not confirmed yet"


def listed_view(study: str, rows: Sequence[TrialRow], definition: StudyDefinition) -> list[Any]:
    """Returns what a list has measured, in the list's order, by its labels."""
    measured = {row.label: row for row in rows if row.state == "COMPLETE" and row.value is not None}
    published = any(entry.published for entry in definition.trial)
    table = FittedTable()
    table.add_column("configuration", wraps=True)
    for heading in ("error %", *(["published %"] if published else [])):
        table.add_column(heading, justify="right", rank=int(heading == "published %"))
    for entry in definition.trial:
        row = measured.get(entry.label)
        error = "" if row is None or row.value is None else spread(row.value, row.std, unit="")
        beside = spread(entry.published.mean, entry.published.std, unit="") if entry.published else ""
        table.add_row(entry.label, error, *([beside] if published else []))
    protocol = definition.protocol
    headline = (
        f"study {study}: {len(measured)} of {count(len(definition.trial), 'configuration')} measured "
        f"(mean and deviation of {count(protocol.rounds, 'round')}, {protocol.dataset}, by {protocol.decision})"
    )
    return [headline, table]


def all_measured(configurations: int) -> str:
    """Returns what to say of a space that has been measured whole."""
    return (
        f"the space has {count(configurations, 'configuration')}; all are measured, and more trials would repeat their "
        "numbers (run.repeat_configurations = true in the study's file allows it)"
    )


def confirmation_view(found: Confirmation) -> list[Any]:
    """Returns what fresh rounds say of a study's best: the headline, all of them, and which can be told apart."""
    first = found.confirmed[0]
    headline = (
        f"study {found.study}: best trial {first.trial}: {first.mean.estimate:.2f} % "
        f"(95 %: {interval(first.mean.low, first.mean.high)}) on {count(found.rounds, 'fresh round')} "
        f"({found.dataset}, by {found.decision}); {beside_search(first.mean.estimate, first.optimism)}"
    )
    table = FittedTable()
    for heading, rank in {"trial": 0, "search %": 1, "fresh %": 0, "95 %": 2}.items():
        table.add_column(heading, justify="left" if heading == "95 %" else "right", rank=rank)
    table.add_column("configuration", wraps=True)
    for one in found.confirmed:
        reach = interval(one.mean.low, one.mean.high)
        fresh = spread(one.mean.estimate, one.std, unit="")
        table.add_row(str(one.trial), f"{one.searched:.2f}", fresh, reach, short_name(one.params))
    lines = []
    for contrast in found.contrasts:
        by = contrast.difference
        apart = (
            f"{contrast.second} is {'worse' if by.estimate > 0 else 'better'} than {contrast.first}"
            if contrast.is_told_apart
            else f"{contrast.first} and {contrast.second} cannot be told apart"
        )
        reach = f"95 %: {interval(by.low, by.high, '+')}"
        lines.append(f"{apart}: {by.estimate:+.2f} points ({reach}; p {p_value(contrast.p_value)})")
    if not lines:
        return [headline, table]
    how = f"compared round by round; p values corrected for their number (Holm), intervals not; {NEW_SELECTION}"
    return [headline, table, lines, how]


def confirmation_json(found: Confirmation) -> dict[str, Any]:
    """Returns a confirmation as `hpo confirm --json` has it."""
    return {
        **{key: getattr(found, key) for key in ("study", "name", "rounds", "dataset", "decision")},
        "confirmed": [
            {"trial": one.trial, "searched": one.searched, "errors": one.errors, "params": one.params}
            | describe(one, found.rounds)
            for one in found.confirmed
        ],
        "contrasts": [
            {"first": one.first, "second": one.second, "difference": one.difference.estimate}
            | {"low": one.difference.low, "high": one.difference.high, "p_value": one.p_value}
            for one in found.contrasts
        ],
    }


def drift_view(found: Drift) -> list[Any]:
    """Returns what machines make of one trial: each repetition beside the first, and the study's own."""
    first = found.repetitions[0].measurement if found.repetitions else found.own
    others = len(found.repetitions) - 1
    table = FittedTable()
    beside_the_first = ("less the first", "95 %") if others > 0 else ()
    for heading in ("error %", *beside_the_first, "rounds that differ"):
        table.add_column(heading, justify="right", rank={"95 %": 1, "rounds that differ": 2}.get(heading, 0))
    table.add_column("measured on", wraps=True)

    def add(one: Measurement, by: Interval | None, what: str) -> None:
        differ = sum(error != other for error, other in zip(one.errors, first.errors, strict=True))
        beside = "" if one is first else f"{differ} of {len(one.errors)}"
        reach = (f"{by.estimate:+.2f}", interval(by.low, by.high, "+")) if by else ("", "")
        table.add_row(f"{one.mean:.2f}", *(reach if others > 0 else ()), beside, f"{what}{place(one)}")

    add(found.own, None, "in the study: ")
    for one in found.repetitions:
        add(one.measurement, one.difference, "")
    apart = sum(one.is_told_apart for one in found.repetitions)
    if others < 1:
        said = "a repetition on a machine of another kind is to be compared with the first"
    elif len(first.errors) < FEWEST_ROUNDS:
        said = f"{count(len(first.errors), 'round')}, too few to tell a difference from chance"
    elif apart:
        said = f"{apart} of {count(others, 'machine')} told apart from the first by more than chance"
    else:
        said = f"no difference between {others + 1} repetitions that is more than chance"
    how = f"compared with the first, round by round; more than chance: p < {LEVEL:g}, corrected for their number"
    headline = f"study {found.study}, trial {found.trial} ({short_name(found.params)}): {said}"
    return [headline, table, how] if others > 0 else [headline, table]


def place(one: Measurement) -> str:
    """Returns where a trial was measured, and by what."""
    return f"{one.host}, {one.device}, {one.precision or 'precision unknown'}, torch {one.torch}"


def drift_json(found: Drift) -> dict[str, Any]:
    """Returns what machines make of one trial as `hpo drift --json` has it."""

    def described(one: Measurement) -> dict[str, Any]:
        return {key: getattr(one, key) for key in ("host", "device", "precision", "torch", "mean", "errors")}

    return {
        **{key: getattr(found, key) for key in ("study", "trial", "params")},
        "own": described(found.own),
        "repetitions": [
            {
                **described(one.measurement),
                "difference": one.difference
                and {key: getattr(one.difference, key) for key in ("estimate", "low", "high", "p_value")},
            }
            for one in found.repetitions
        ],
    }


def export_view(described: Mapping[str, Any], file: Path) -> list[Any]:
    """Returns what was exported: the configuration, and each network's error beside the search's."""
    searched, rounds = described["search"], len(described["rounds"])
    table = FittedTable()
    for heading in ("round", "error %", "in the search %"):
        table.add_column(heading, justify="right", rank=int(heading == "in the search %"))
    first = described["protocol"]["first_round"]
    for one in described["rounds"]:
        place = one["round"] - first
        before = f"{searched['errors'][place]:.2f}" if place < len(searched["errors"]) else "fresh"
        table.add_row(str(one["round"]), f"{one['error']:.2f}", before)
    headline = (
        f"study {described['study']}, trial {described['trial']} ({short_name(described['configuration'])}): "
        f"{spread(described['error']['mean'], described['error']['std'])} over {count(rounds, 'round')}; "
        f"{spread(searched['mean'], searched['std'])} in the search"
    )
    return [headline, table, f"written: {file} and {file.with_suffix('.json').name}; both are in the study too"]


def beside_search(fresh: float, optimism: float) -> str:
    """Returns what the search had reported, beside the mean of fresh rounds."""
    reported, off = f"the study reported {fresh - optimism:.2f} %", f"{abs(optimism):.2f} points"
    if off == "0.00 points":
        return reported
    return f"{reported}, {off} too {'optimistic' if optimism > 0 else 'pessimistic'}"
