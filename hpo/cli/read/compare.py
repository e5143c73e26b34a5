"""`hpo compare`: which configuration is better, by how much, how sure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hpo.analysis.caveats import NEW_SELECTION, SEED_UNUSED, SELECTION_BIAS, of_intervals
from hpo.cli.arguments import StudyName, complete_first
from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts, storage_option, stored_name
from hpo.text.commands import command_here
from hpo.text.formatting import (
    capitalized,
    change,
    mean_and_deviation,
    p_value,
    with_unit,
)

if TYPE_CHECKING:
    from hpo.analysis.comparison import Comparison


@click.command()
@click.argument("words", nargs=-1, metavar="STUDY [A B]...", shell_complete=complete_first)
@click.option("--study", type=StudyName(), metavar="STUDY", help="The same as STUDY.")
@storage_option
@json_option
def compare(words: tuple[str, ...], study: str | None, storage: str, as_json: bool) -> None:
    """Say which configuration of a study is better, by how much, how sure.

    A and B are labels of a list, or numbers of a search's trials. Unless given, a list is compared whole; of a search
    what hpo confirm has measured on fresh rounds, or else its two best. Configurations are compared round by round;
    of hpo confirm --until-sure, which has its own evidence, without a test.
    """
    from hpo.analysis.comparison import compare as compare_study
    from hpo.storage.backends import open_storage

    if study is None:
        if not words:
            raise click.UsageError("name a study, as in hpo compare quickstart")
        study, words = StudyName().convert(words[0], None, click.get_current_context()), words[1:]
    found = compare_study(open_storage(storage), stored_name(study), words)
    if as_json:
        print_json(comparison_json(found))
    else:
        print_parts(*comparison_view(found))


def comparison_view(found: Comparison) -> list[Any]:
    """Returns the answer, every configuration beside the best, and how they were compared."""
    from hpo.analysis.comparison import answer, how_compared
    from hpo.analysis.contrasts import NO_DIFFERENCE

    metric = found.metric
    table = FittedTable()
    table.add_column("configuration", wraps=True)
    table.add_column(with_unit(metric.noun, metric.unit), justify="right")
    table.add_column("95 %", rank=2)
    table.add_column("difference", justify="right", rank=1)
    table.add_column("95 %", rank=3)
    has_new = any(contrast.on_new for contrast in found.contrasts)
    if has_new:
        table.add_column("95 %, new examples", rank=4)
    table.add_column("p", justify="right", rank=1)
    contrasts = {contrast.second: contrast for contrast in found.contrasts}
    for one in found.compared:
        mean = mean_and_deviation(one.mean.estimate, one.std, metric.unit)
        reach = one.mean.text(metric.unit)
        beside = ["", "", *([""] if has_new else []), ""]
        if (contrast := contrasts.get(one.trial)) is not None:
            by = contrast.difference
            difference = "" if by == NO_DIFFERENCE else change(by.estimate, metric.unit, by.standard_error)
            on_new = [contrast.on_new.text(metric.unit, "+") if contrast.on_new else ""] if has_new else []
            beside = [difference, by.text(metric.unit, "+"), *on_new, p_value(contrast.p_value)]
        table.add_row(one.name, mean, reach, *beside)
    diverged = [f"{one.name} {one.convergence.text(metric)}" for one in found.compared if one.convergence]
    notes = [how_compared(found), *of_intervals(found.rounds, found.compared, metric), *_caveats(found)]
    return [answer(found), table, *([diverged] if diverged else []), notes]


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Returns a comparison as `hpo compare --json` has it."""
    from hpo.analysis.contrasts import estimate_of
    from hpo.analysis.convergence import convergence_json
    from hpo.analysis.statistics import ends_of

    names = {one.trial: one.name for one in found.compared}
    return {
        **{key: getattr(found, key) for key in ("study", "source", "rounds", "dataset")},
        "direction": found.metric.direction,
        **{"metric": found.metric.name, "unit": found.metric.unit, "is_biased": found.is_biased},
        "is_series": found.is_series,
        "compared": [
            {"name": one.name, "trial": one.trial, "mean": one.mean.estimate, "low": one.mean.low}
            | {"high": one.mean.high, "std": one.std, "errors": one.errors, "params": one.params}
            | {"on_new": one.on_new and ends_of(one.on_new), "diverged_rounds": list(one.diverged)}
            | {"convergence": one.convergence and convergence_json(one.convergence, found.metric)}
            for one in found.compared
        ],
        "contrasts": [
            {"first": names[one.first], "second": names[one.second], "is_significant": one.is_significant}
            | {key: value for key, value in asdict(one.difference).items() if key in ("low", "high")}
            | {"difference": estimate_of(one.difference), "p_value": one.p_value}
            | {"on_new": one.on_new and ends_of(one.on_new)}
            | {"diverged": list(one.diverged), "diverged_p_value": one.diverged_p_value}
            for one in found.contrasts
        ],
        "missing": list(found.missing),
    }


def _caveats(found: Comparison) -> list[str]:
    if not any(one.std for one in found.compared) and found.rounds > 1:
        return [SEED_UNUSED]
    if found.winner not in (None, found.compared[0].name):
        return [f"{found.winner} was first in the study; {NEW_SELECTION}"]
    if not found.is_biased:
        return []
    confirm = command_here("confirm", *found.words)
    return [f"{capitalized(SELECTION_BIAS)}, and these were chosen so; {confirm} compares the best on fresh rounds"]
