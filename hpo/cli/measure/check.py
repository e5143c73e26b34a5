"""`hpo check`: finds out whether a study can be measured, and creates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hpo.cli.columns import FittedTable
from hpo.cli.options import (
    Given,
    device_option,
    json_option,
    overrides_option,
    print_json,
    print_parts,
    sources_options,
    study_option,
)
from hpo.cli.run import begin_work, checked_by
from hpo.text.formatting import count, with_unit
from hpo.text.output import say

if TYPE_CHECKING:
    from hpo.study.card import Card
    from hpo.study.overrides import Override
    from hpo.workers.messages import Checked, Promise


@click.command()
@study_option("Its name (see hpo list), or its TOML file.")
@click.option("--contract", is_flag=True, help="Measure, too, whether the task keeps what every task promises.")
@overrides_option
@device_option
@sources_options
@json_option
def check(study: str, contract: bool, overrides: list[Override], device: str, given: Given, as_json: bool) -> None:
    """Find out whether a study can be measured.

    Its task is loaded, one round opened, and one step taken with the first values of its space. Nothing is created.
    hpo optimize does the same with a new study, before anything else.

    With --contract some configurations are measured, networks for two epochs: a round is the same whenever, after
    whatever and beside whichever others it is measured, or means and intervals would not mean what they say.
    """
    from hpo.errors import WorkError
    from hpo.study.card import parse_card
    from hpo.workers.devices import assign_devices
    from hpo.workers.plan import find_file
    from hpo.workers.supervisor import Supervisor

    begin_work()
    devices = assign_devices("1", device)
    wanted = find_file(study, overrides)
    with Supervisor(devices) as supervisor:
        sources = wanted.sources(given.sources(), given.code)
        checked = checked_by(supervisor, wanted, devices[0], sources, promises=contract)
    card = parse_card(checked.card, study=wanted.name)
    if as_json:
        found = {"study": wanted.name, "card": checked.card, "way": checked.way, "printed": checked.printed}
        print_json(
            {**found, "promises": {one.text: one.fault or None for one in checked.promises}} if contract else found
        )
    else:
        tables = [card_table(checked, card), *([promises_table(checked.promises)] if contract else [])]
        print_parts(f"study {wanted.name}: can be measured", *tables)
        if checked.printed:
            say("", "printed meanwhile:", *(f"  {line}" for line in checked.printed.splitlines()))
    if broken := sum(bool(one.fault) for one in checked.promises):
        raise WorkError(f"study {wanted.name!r}: its task breaks {count(broken, 'promise')}")


def promises_table(promises: Sequence[Promise]) -> FittedTable:
    """Returns what a task promises, and whether it holds."""
    table = FittedTable()
    table.add_column(wraps=True)
    table.add_column(wraps=True)
    for promise in promises:
        table.add_row(f"  {promise.text}", promise.fault or "holds")
    return table


def card_table(checked: Checked, card: Card) -> FittedTable:
    """Returns what was found out of a study."""
    definition, steps = checked.definition, checked.definition.steps
    first = "with the first values of the space" if definition.space else "with the first configuration"
    takers = dict.fromkeys(card.parameters.values())
    rows = {
        "metric": ", ".join(with_unit(metric.title, metric.unit) for metric in card.metrics),
        **{
            taker: ", ".join(name for name in definition.parameters if card.parameters[name] == taker)
            for taker in takers
        },
        "rounds": f"{definition.protocol.rounds}"
        + (f", {definition.race.group} at a time on a CPU" if definition.race else ""),
        "steps": definition.trained or (count(steps, definition.step_word) if steps else ""),
        "way": checked.way and f"{checked.way} ({first})",
        "data": card.dataset,
        "code": ", ".join(card.code),
    }
    table = FittedTable()
    table.add_column()
    table.add_column(wraps=True)
    for name, value in rows.items():
        if value:
            table.add_row(f"  {name}", value)
    return table
