"""`hpo best`: a study's best trial, and what fresh rounds say of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hpo.analysis.caveats import SELECTION_BIAS, beside_search
from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts, storage_option, stored_name, study_option
from hpo.limits import FEWEST_ROUNDS
from hpo.text.commands import command_here
from hpo.text.formatting import count, spread, text_of

if TYPE_CHECKING:
    from hpo.analysis.results import Best


@click.command()
@study_option()
@storage_option
@json_option
def best(study: str, storage: str, as_json: bool) -> None:
    """Show a study's best trial, and what fresh rounds say of it.

    The best is the trial with the lowest mean error among those measured to the end, or of a metric that is to be
    maximised the highest.
    """
    from hpo.analysis.confirmation import read_winner
    from hpo.storage.backends import open_storage

    opened = open_storage(storage)
    winner = read_winner(opened, stored_name(study))
    if as_json:
        print_json(asdict(winner))
        return
    print_parts(*best_table(winner))


def best_table(best: Best) -> list[Any]:
    """Returns the winner as lines and a table."""
    table = FittedTable()
    table.add_column()
    table.add_column(wraps=True)
    for name, value in best.params.items():
        table.add_row(f"  {name}", f" {text_of(value)}")
    return [str(best), table, [*_notes(best), _verdict(best)]]


def _verdict(best: Best) -> str:
    """Returns how far a winner's figure can be believed."""
    from hpo.analysis.statistics import ALIKE, DIVERGED, Interval, both_intervals

    if best.confirmed is not None:
        confirmed = best.confirmed
        why = DIVERGED if confirmed["convergence"] else ALIKE
        mean = Interval(confirmed["mean"], confirmed["low"], confirmed["high"], why=why)
        on_new = Interval(confirmed["mean"], **confirmed["on_new"]) if confirmed["on_new"] else None
        optimism = Interval(confirmed["optimism"], **confirmed["optimism_interval"])
        diverged = f"it {confirmed['convergence']['text']}; " if confirmed["convergence"] else ""
        return (
            f"confirmed on {count(confirmed['rounds'], 'fresh round')}: {spread(confirmed['mean'], None, best.unit)} "
            f"({both_intervals(mean, on_new, best.unit)}); {diverged}"
            f"{beside_search(best.value, optimism, best.unit, confirmed['std'])}"
        )
    if best.label is not None:
        compare = command_here("compare", "--study", best.study)
        return f"{compare} compares the list's configurations round by round"
    return f"{SELECTION_BIAS}; it is not confirmed yet"


def _notes(best: Best) -> list[str]:
    """Returns what there is to know besides: its intervals, how often it diverged, who has the same."""
    from hpo.analysis.statistics import ALIKE, DIVERGED, TOO_FEW, Interval, both_intervals

    said = []
    if best.interval:
        why = DIVERGED if best.convergence else ALIKE if best.rounds >= FEWEST_ROUNDS else TOO_FEW
        mean = Interval(best.value, best.interval["low"], best.interval["high"], why=why)
        on_new = Interval(best.value, best.on_new["low"], best.on_new["high"]) if best.on_new else None
        said.append(both_intervals(mean, on_new, best.unit))
    if best.convergence:
        said.append(f"it {best.convergence['text']}")
    if best.ties:
        have = "has" if len(best.ties) == 1 else "have"
        trials = ", ".join(map(str, best.ties))
        said.append(f"{'trial' if len(best.ties) == 1 else 'trials'} {trials} {have} the very same {best.title}")
    return said
