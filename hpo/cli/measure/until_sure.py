"""What `hpo confirm --until-sure` has found, as a person reads it, and as JSON."""

from __future__ import annotations

from statistics import stdev
from typing import TYPE_CHECKING, Any

from hpo.cli.columns import FittedTable
from hpo.text.formatting import change, count, figure, mean_and_deviation, points, with_unit
from hpo.text.short_names import short_name

if TYPE_CHECKING:
    from hpo.analysis.until_sure import Contender, Series


def series_view(found: Series) -> list[Any]:
    """Returns what a series has come to: its answer, all configurations, and how to read them."""
    metric = found.metric
    is_list = any(one.name != f"trial {one.trial}" for one in found.contenders)
    table = FittedTable()
    table.add_column("configuration" if is_list else "trial", justify="left" if is_list else "right", wraps=is_list)
    table.add_column(with_unit("fresh", metric.unit), justify="right")
    table.add_column("rounds", justify="right", rank=3)
    table.add_column("from the best (at any time)", rank=1)
    table.add_column("best is better", justify="right", rank=2)
    if found.margin is not None:
        table.add_column(f"within {_margin(found)}", justify="right", rank=2)
    if not is_list:
        table.add_column("configuration", wraps=True, rank=4)
    for one in found.contenders:
        fresh = mean_and_deviation(one.mean, stdev(one.errors), metric.unit)
        row = [one.name if is_list else str(one.trial), fresh, str(len(one.errors)), _from_best(one, metric.unit)]
        row += [_probability(one.better), *([] if found.margin is None else [_probability(one.within)])]
        table.add_row(*row, *([] if is_list else [short_name(one.params)]))
    diverged = [f"{one.name}: {count(one.diverged, 'round')} diverged" for one in found.contenders if one.diverged]
    return [str(found), table, *([diverged] if diverged else []), *_how(found)]


def _how(found: Series) -> list[str]:
    said = [
        "compared round by round by e-values, which may be looked at after every round: in 95 % of series the best is "
        "never given up, and all intervals hold; the two probabilities are of normal errors"
    ]
    if len(found.left) > 1 and not found.will_do:
        within = "" if found.margin is not None else ", or --margin X where X does not matter"
        said.append(f"it ended after --rounds {found.most}; more can be given{within}")
    return said


def _margin(found: Series) -> str:
    return points(figure(found.margin or 0.0, found.metric.unit), found.metric.unit)


def _from_best(one: Contender, unit: str) -> str:
    if one.against is None:
        return ""
    low, high = one.against.low, one.against.high
    by = change(one.against.estimate, unit, None if low is None or high is None else high - low)
    return f"{by} ({one.against.text(unit, '+')})"


def _probability(share: float | None) -> str:
    if share is None:
        return ""
    return "> 0.999" if share > 0.999 else "< 0.001" if share < 0.001 else f"{share:.3f}"


def series_json(found: Series) -> dict[str, Any]:
    """Returns a series as `hpo confirm --until-sure --json` has it."""
    return {
        **{key: getattr(found, key) for key in ("study", "names", "rounds", "margin", "most", "dataset")},
        **{"metric": found.metric.name, "unit": found.metric.unit, "direction": found.metric.direction},
        "is_sure": len(found.left) == 1 or found.will_do,
        "answer": str(found),
        "configurations": [
            {
                **{key: getattr(one, key) for key in ("trial", "name", "params", "mean", "errors", "diverged")},
                **{"is_out": one.is_out, "best_is_better": one.better, "within_margin": one.within},
                "from_best": None
                if one.against is None
                else {
                    "difference": one.against.estimate,
                    **{key: getattr(one.against, key) for key in ("low", "high", "p_value")},
                },
            }
            for one in found.contenders
        ],
    }
