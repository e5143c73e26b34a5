"""`hpo best`: a study's best trial, and what fresh rounds say of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hpo.analysis.caveats import SELECTION_BIAS, beside_search, few_rounds
from hpo.cli.columns import FittedTable
from hpo.cli.options import json_option, print_json, print_parts, storage_option, stored_name, study_option
from hpo.limits import FEWEST_ROUNDS
from hpo.text.commands import command_here
from hpo.text.formatting import count, lasted, spread, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.analysis.expected import Expected
    from hpo.analysis.results import Best

FRESH_ROUNDS = 30  # of hpo confirm, unless it is told how many


@click.command()
@study_option()
@storage_option
@click.option(
    "--expected", is_flag=True, help="Show the configuration of which most can be expected, by a model of all trials."
)
@json_option
def best(study: str, storage: str, expected: bool, as_json: bool) -> None:
    """Show a study's best trial, and what fresh rounds say of it.

    The best is the trial with the lowest mean error among those measured to the end, or of a metric that is to be
    maximised the highest.

    With --expected it is the configuration of which most can be expected: a Gaussian process learns from all trials,
    each believed as far as its rounds' deviation allows, so that luck counts for less.
    """
    from hpo.analysis.confirmation import read_winner
    from hpo.analysis.ledger import read_ledger
    from hpo.storage.backends import open_storage

    opened = open_storage(storage)
    if expected:
        from hpo.analysis.expected import read_expected

        found = read_expected(opened, stored_name(study))
        if as_json:
            print_json(expected_json(found))
        else:
            print_parts(*expected_view(found))
        return
    winner, ledger = read_winner(opened, stored_name(study)), read_ledger(opened, stored_name(study))
    if as_json:
        print_json({**asdict(winner), "ledger": ledger.as_json()})
        return
    print_parts(*best_table(winner), str(ledger))


def best_table(best: Best) -> list[Any]:
    """Returns the winner as lines and a table."""
    return [str(best), _params_table(best.params), [*_notes(best), _verdict(best)]]


def _params_table(params: Mapping[str, Any]) -> FittedTable:
    table = FittedTable()
    table.add_column()
    table.add_column(wraps=True)
    for name, value in params.items():
        table.add_row(f"  {name}", f" {text_of(value)}")
    return table


def expected_view(found: Expected) -> list[Any]:
    """Returns what can be expected, beside the best trial, and what it would cost to find out."""
    unit = found.metric.unit
    learnt = (
        f"a guess by a model of {count(found.trials, 'trial')}, {found.whole} of them measured to the end; of trial "
        f"{found.best}, the best, it expects {spread(found.of_best.estimate, None, unit)} "
        f"(95 %: {found.of_best.text(unit)})"
    )
    chosen = "what is expected most of was chosen by its interval, which of 95 % is one of 90 % therefore"
    cost = lasted(FRESH_ROUNDS * found.seconds_a_round)
    confirm = command_here("confirm", "--expected", "--study", found.study)
    return [
        str(found),
        _params_table(found.params),
        [learnt, chosen, f"{confirm} measures it on fresh rounds: {cost} a configuration"],
    ]


def expected_json(found: Expected) -> dict[str, Any]:
    """Returns what can be expected as `hpo best --expected --json` has it."""
    return {
        **{key: getattr(found, key) for key in ("study", "params", "trial", "trials", "whole", "seconds_a_round")},
        **{"metric": found.metric.name, "unit": found.metric.unit},
        "expected": {"mean": found.error.estimate, "low": found.error.low, "high": found.error.high},
        "best": {
            "trial": found.best,
            **{"mean": found.of_best.estimate, "low": found.of_best.low, "high": found.of_best.high},
        },
    }


def _verdict(best: Best) -> str:
    """Returns how far a winner's figure can be believed."""
    from hpo.analysis.statistics import Interval, both_intervals

    if best.confirmed is not None:
        confirmed = best.confirmed
        mean = Interval(confirmed["mean"], confirmed["low"], confirmed["high"], why=confirmed["why"] or "")
        on_new = Interval(confirmed["mean"], **confirmed["on_new"]) if confirmed["on_new"] else None
        optimism = Interval(confirmed["optimism"], **confirmed["optimism_interval"])
        diverged = f"it {confirmed['convergence']['text']}; " if confirmed["convergence"] else ""
        return (
            f"confirmed on {count(confirmed['rounds'], 'fresh round')}: {spread(confirmed['mean'], None, best.unit)} "
            f"({both_intervals(mean, on_new, best.unit)}); {diverged}"
            + "; ".join([beside_search(best.value, optimism, best.unit, confirmed["std"]), *confirmed["caveats"]])
        )
    if best.label is not None:
        compare = command_here("compare", "--study", best.study)
        return f"{compare} compares the list's configurations round by round"
    return f"{SELECTION_BIAS}; it is not confirmed yet"


def _notes(best: Best) -> list[str]:
    """Returns the intervals of a listed one."""
    from hpo.analysis.statistics import ALIKE, DIVERGED, TOO_FEW, Interval, both_intervals

    said = []
    if best.interval:
        why = DIVERGED if best.convergence else ALIKE if best.rounds >= FEWEST_ROUNDS else TOO_FEW
        mean = Interval(best.value, best.interval["low"], best.interval["high"], why=why)
        on_new = Interval(best.value, best.on_new["low"], best.on_new["high"]) if best.on_new else None
        said.append(both_intervals(mean, on_new, best.unit))
        said += [few] if (few := few_rounds(best.rounds, mean)) else []
    return said
