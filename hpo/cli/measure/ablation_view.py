"""What `hpo ablate` prints: a headline and three tables, or JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpo.analysis.caveats import too_few_to_tell
from hpo.cli.columns import FittedTable
from hpo.text.formatting import capitalized, change, count, mean_and_deviation, p_value, rounds_on, with_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.analysis.ablation import Ablation, Step
    from hpo.analysis.contrasts import Measured


def ablation_view(found: Ablation) -> list[Any]:
    """Returns the headline, and the three tables: taken out, put in, and the way."""
    unit = found.metric.unit
    base, whole = (
        with_unit(mean_and_deviation(one.mean.estimate, one.std, unit), unit) for one in (found.base, found.whole)
    )
    headline = (
        f"{capitalized(found.metric.title)}: {base} for the base, {whole} for the whole "
        f"({rounds_on(found.rounds, found.dataset, 'fresh round')})"
    )
    otherwise = f"both are measured by the whole's study; the base's own has otherwise: {', '.join(found.overruled)}"
    return [
        headline,
        *([otherwise] if found.overruled else []),
        *_part("taken out of the whole, each alone:", found.without, found),
        *_part("put into the base, each alone:", found.alone, found),
        *_part("from the base to the whole, one after another:", found.path, found),
        [
            f"{one.name} {one.convergence.text(found.metric)}"
            for one in {one.name: one for one in _all_measured(found)}.values()
            if one.convergence
        ],
        "compared round by round; p values are corrected in each table for all of its rows, intervals are of each "
        "alone; the order of the last table was chosen by the one before it, on the same rounds"
        + (f"; {too_few}" if (too_few := too_few_to_tell(found.rounds)) else ""),
    ]


def _all_measured(found: Ablation) -> list[Measured]:
    steps = [*found.without, *found.alone, *found.path]
    return [found.base, found.whole, *(one.measured for one in steps)]


def _part(title: str, steps: Sequence[Step], found: Ablation) -> list[Any]:
    from hpo.analysis.contrasts import estimate_of

    if not steps:
        return []
    unit = found.metric.unit
    table = FittedTable()
    table.add_column("ingredient", wraps=True)
    table.add_column("from the base to the whole", rank=4, wraps=True)
    table.add_column(with_unit(found.metric.noun, unit), justify="right")
    table.add_column("change", justify="right")
    table.add_column("95 %", rank=2)
    table.add_column("p", justify="right", rank=1)
    for one in steps:
        by, errs = one.contrast.difference, one.measured
        changed = "" if estimate_of(by) is None else change(by.estimate, unit, by.standard_error)
        table.add_row(
            *(one.ingredient.name, one.ingredient.change, mean_and_deviation(errs.mean.estimate, errs.std, unit)),
            *(changed, by.text(unit, "+"), p_value(one.contrast.p_value)),
        )
    often = [_how_often(one, found.rounds) for one in steps if one.contrast.diverges]
    return [title, table, *([often] if often else [])]


def _how_often(step: Step, rounds: int) -> str:
    """Returns how often a configuration diverged, and the one before: their errors are of the other rounds."""
    before, after = step.contrast.diverged
    return (
        f"{step.ingredient.name}: diverged in {after or 'none'} of {count(rounds, 'round')}, before in "
        f"{before or 'none'} (p {p_value(step.contrast.diverged_p_value)}); the change is of the others"
    )


def ablation_json(found: Ablation) -> dict[str, Any]:
    """Returns an ablation as `hpo ablate --json` has it."""
    return {
        **{"study": found.name, "rounds": found.rounds, "dataset": found.dataset},
        **{"metric": found.metric.name, "unit": found.metric.unit, "overruled": [*found.overruled]},
        **{name: _measured_json(getattr(found, name)) for name in ("base", "whole")},
        **{name: [_step_json(one) for one in getattr(found, name)] for name in ("without", "alone", "path")},
    }


def _measured_json(one: Measured) -> dict[str, Any]:
    return {
        **{"mean": one.mean.estimate, "low": one.mean.low, "high": one.mean.high, "std": one.std},
        **{"errors": one.errors, "params": one.params, "diverged_rounds": list(one.diverged)},
    }


def _step_json(one: Step) -> dict[str, Any]:
    from hpo.analysis.contrasts import estimate_of

    by, contrast = one.contrast.difference, one.contrast
    return {
        "ingredient": {**asdict(one.ingredient), "names": list(one.ingredient.names)},
        **_measured_json(one.measured),
        **{"difference": estimate_of(by), "difference_low": by.low, "difference_high": by.high},
        **{"p_value": contrast.p_value, "diverged": list(contrast.diverged)},
        "diverged_p_value": contrast.diverged_p_value,
    }
