"""The reports' claims, judged: each published effect beside ours, which is measured round by round.

An effect is the first of a pair minus the second; where the claim holds it is negative. Verdicts:

* reproduced: ours is significantly negative, and not significantly another than the published, where that is known;
* direction yes, size no: ours is significantly negative, and significantly another than the published;
* not reproduced: ours is not significantly negative and significantly another than the published; or it is
  significantly positive, the opposite;
* cannot tell: none of these, as too few rounds or too small an effect leave it;
* not compared: what it takes was not measured.

Significant means p < 0.05, corrected by Holm for all pairs of a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from hpo.analysis.statistics import LEVEL, holm
from hpo.reports.agreement import FEWEST, Estimate, combined, measured_mean, published_mean
from hpo.reports.published import Claim, Names, reports
from hpo.reports.reproduction import Cell, Reproduction

REPRODUCED, SIZE, NOT, OPPOSITE, OPEN, NOTHING = VERDICTS = (
    "reproduced",
    "direction yes, size no",
    "not reproduced",
    "not reproduced: the opposite",
    "cannot tell",
    "not compared",
)
Rounds = Sequence[Sequence[float]]  # (cells, R)


@dataclass(frozen=True)
class Comparison:
    """A pair of a claim with its verdict; effects in the unit of what is compared.

    Attributes:
        pair: empty where the claim has none.
        published: None where the report has words alone.
        is_sized: whether the published effect has a standard error, and is of the same quantity as ours.
        ours: None where nothing was compared; then `why` says why.
        p_ours: that ours is 0, corrected; p_difference: that ours is the published.
    """

    claim: Claim
    pair: tuple[Names, ...] = ()
    published: Estimate | None = None
    is_sized: bool = False
    ours: Estimate | None = None
    p_ours: float | None = None
    p_difference: float | None = None
    verdict: str = NOTHING
    why: str = ""

    @property
    def difference(self) -> Estimate | None:
        """Our effect minus the published, where both have a size."""
        return self.ours.minus(self.published) if self.is_sized and self.ours and self.published else None

    @property
    def is_counted(self) -> bool:
        """Whether it is no second look at a published effect, by rows that show published cells again."""
        return not {label for side in self.pair for label in side} & set(reports().beside)


def judge_claims(found: Reproduction) -> list[Comparison]:
    """Returns all pairs of all claims with their verdicts, in the order of the reports."""
    return [one for claim in reports().claims for one in _judge(claim, found)]


def _judge(claim: Claim, found: Reproduction) -> list[Comparison]:
    if not claim.pairs:
        return [Comparison(claim, why=claim.why)]
    compare = {"rate": _of_rates, "parameters": _of_parameters}.get(claim.of, _of_cells)
    compared = [compare(Comparison(claim, pair), found) for pair in claim.pairs]
    p_ours = _corrected([one.ours for one in compared])
    p_differences = _corrected([one.difference for one in compared])
    return [
        _told(replace(one, p_ours=ours, p_difference=difference))
        for one, ours, difference in zip(compared, p_ours, p_differences, strict=True)
    ]


def _corrected(effects: Sequence[Estimate | None]) -> list[float | None]:
    corrected = iter(holm([one.p_value for one in effects if one]))
    return [next(corrected) if one else None for one in effects]


def _told(one: Comparison) -> Comparison:
    """Returns a comparison with its verdict, where it has none yet."""
    if one.ours is None or one.p_ours is None or one.verdict != NOTHING:
        return one
    is_another = one.p_difference is not None and one.p_difference < LEVEL
    if one.p_ours < LEVEL:
        verdict = OPPOSITE if one.ours.value > 0 else SIZE if is_another else REPRODUCED
    else:
        verdict = NOT if is_another else OPEN
    return replace(one, verdict=verdict)


def _of_cells(one: Comparison, found: Reproduction) -> Comparison:
    cells = {cell.label: cell for cell in found.cells}
    missing = [label for side in one.pair for label in side if label not in cells]
    if missing:
        return replace(one, why=f"{missing[0]} is not measured yet")
    less, more = ([cells[label] for label in side] for side in one.pair)
    if one.claim.of == "error":
        signed = [(sign / len(side), published_mean(cell)) for sign, side in ((1, less), (-1, more)) for cell in side]
        one = replace(one, published=combined(signed), is_sized=True)
    elif one.claim.of == "spread":
        below, above = (fmean(cell.published_std for cell in side) for side in (less, more))
        one = replace(one, published=Estimate(below - above, 0.0, 1.0))
    values = QUANTITIES[one.claim.of]
    return _paired(one, [values(cell) for cell in less], [values(cell) for cell in more])


def _from_median(errors: Sequence[float]) -> list[float]:
    """Returns how far each round lies from the median: their paired t test is Brown and Forsythe's, for shared rounds.

    At ten rounds it rejects equal spreads in 2 to 5 % for normal, skewed and heavy-tailed errors and with rare far
    rounds, where Pitman and Morgan's reaches 50 % (20 000 simulations each).
    """
    middle = median(errors)
    return [abs(error - middle) for error in errors]


QUANTITIES: Mapping[str, Callable[[Cell], Sequence[float]]] = {
    "error": lambda cell: cell.errors,
    "spread": lambda cell: _from_median(cell.errors),
    "loss": lambda cell: cell.curves.get("loss", ()),
    "half_life": lambda cell: cell.curves.get("half_life", ()),
    "norms": lambda cell: cell.curves.get("norms", ()),
}


def _paired(one: Comparison, less: Rounds, more: Rounds) -> Comparison:
    """Compares two sides round by round, each the mean of its cells."""
    rounds = {len(values) for values in (*less, *more)}
    if min(rounds) == 0:
        return replace(one, why="what it takes was not kept, or is not finite in all rounds")
    if len(rounds) > 1 or min(rounds) < FEWEST:
        return replace(one, why=f"it takes the same {FEWEST} rounds or more on both sides")
    below, above = ([fmean(values) for values in zip(*side, strict=True)] for side in (less, more))
    ours = measured_mean([one.claim.factor * a - b for a, b in zip(below, above, strict=True)])
    return replace(one, ours=ours) if ours.variance else replace(one, why="it is the same in all rounds")


def _of_rates(one: Comparison, found: Reproduction) -> Comparison:
    optima = {test.optimizer: test.optima for test in found.range_tests}
    (less,), (more,) = one.pair
    known = [[[rate for rate in optima.get(name, ()) if rate is not None]] for name in (less, more)]
    if any(len(side[0]) < len(optima.get(name, ())) for side, name in zip(known, (less, more), strict=True)):
        return replace(one, why="a round of a range test diverged")
    rates = reports().rates
    return _paired(replace(one, published=Estimate(one.claim.factor * rates[less] - rates[more], 0.0, 1.0)), *known)


def _of_parameters(one: Comparison, found: Reproduction) -> Comparison:
    """Compares numbers of parameters, which are counted and leave nothing to chance."""

    def difference(known: Mapping[str, Sequence[int]]) -> Estimate:
        less, more = (known[name.removesuffix(" + WS")][name.endswith(" + WS")] for (name,) in one.pair)
        return Estimate(less - more, 0.0, 1.0)

    ours = difference(found.parameters)
    verdict = REPRODUCED if ours.value < 0 else OPPOSITE
    return replace(one, published=difference(reports().parameters), ours=ours, verdict=verdict)
