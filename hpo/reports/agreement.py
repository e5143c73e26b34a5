"""How what was measured agrees with what was published: cell by cell, and all cells of a table together.

Of the published side only means, deviations and numbers of rounds are known, so its cells are taken for independent of
each other, and its deviations for those of a sample (divisor n - 1). Ours share their rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev, variance

import numpy as np
from numpy.typing import NDArray

from hpo.reports.published import reports
from hpo.reports.reproduction import Cell

LEVEL = 0.01  # at which a cell's mean, and its spread, is judged: so often is a true one of normal errors rejected
EQUIVALENCE = 1.0  # percentage points: two means are equivalent whose difference is surely smaller
FEWEST = 5  # rounds on either side, for a verdict
DRAWS = 10_000  # tables that a joint p value is counted of

Floats = NDArray[np.float64]

# SciPy is imported where it is used: it takes half a second, and commands that only read need none of it.


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, its variance, and the degrees of freedom with which that is known."""

    value: float
    variance: float
    freedom: float

    @property
    def standard_error(self) -> float:
        """The square root of the variance."""
        return float(self.variance**0.5)

    def minus(self, other: Estimate) -> Estimate:
        """Returns the difference from an independent estimate, its freedom by Welch and Satterthwaite."""
        return combined([(1.0, self), (-1.0, other)])

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Returns the t interval."""
        from scipy import stats

        reach = float(stats.t.ppf(0.5 + confidence / 2, self.freedom)) * self.standard_error
        return self.value - reach, self.value + reach

    @property
    def p_value(self) -> float:
        """How often chance makes of a true 0 at least as much; 1 without variance, which leaves nothing to judge by."""
        from scipy import stats

        return 2 * float(stats.t.sf(abs(self.value) / self.standard_error, self.freedom)) if self.variance else 1.0


def combined(weighted: Iterable[tuple[float, Estimate]]) -> Estimate:
    """Returns the sum of independent estimates, each times its weight; its freedom by Welch and Satterthwaite."""
    parts = [(weight, one) for weight, one in weighted]
    shares = [(weight**2 * one.variance, one.freedom) for weight, one in parts]
    total = sum(share for share, _ in shares)
    unsure = sum(share**2 / freedom for share, freedom in shares)
    return Estimate(sum(weight * one.value for weight, one in parts), total, total**2 / unsure if unsure else 1.0)


def measured_mean(values: Sequence[float]) -> Estimate:
    """Returns the mean of at least two rounds."""
    return Estimate(fmean(values), variance(values) / len(values), len(values) - 1)


def published_mean(cell: Cell) -> Estimate:
    """Returns what a report gives for a cell, of at least two rounds."""
    rounds = cell.published_rounds
    return Estimate(cell.published_mean, cell.published_std**2 / rounds, rounds - 1)


@dataclass(frozen=True)
class Verdict:
    """How a cell stands to its published figure.

    Attributes:
        difference: measured minus published, in percentage points.
        spread: the measured deviation over the published.
        same_mean, same_spread: whether they could be equal, at `LEVEL` each.
        far: which single round the rest would agree without, in words; empty where none, or where all agree.
    """

    difference: Estimate
    spread: float
    same_mean: bool
    same_spread: bool
    far: str = ""

    @property
    def is_consistent(self) -> bool:
        """Whether mean and spread could be the published; not rejected is not the same as equal."""
        return self.same_mean and self.same_spread

    @property
    def is_equivalent(self) -> bool:
        """Whether the means surely differ by less than a point: two one-sided t tests at 5 % (TOST)."""
        low, high = self.difference.interval(0.9)
        return low > -EQUIVALENCE and high < EQUIVALENCE

    def __str__(self) -> str:
        by = self.difference
        away = f"{abs(by.value) / by.standard_error:.1f} s.e."
        if self.is_consistent:
            return f"consistent ({away})"
        if self.far:
            return f"consistent but for {self.far}"
        if self.same_mean:  # a wide spread makes a large standard error, which proves nothing
            return f"not: {self.spread:.3g} times the spread ({away})"
        return f"not: {abs(by.value):.2f} {'lower' if by.value < 0 else 'higher'}, {away}"


def judge(cell: Cell) -> Verdict | str:
    """Returns the verdict on a cell, or why there is none.

    Means by Welch's t. Deviations by Fisher's F, which holds for normal errors; where one round in twenty lies far away
    it rejects equal ones nearly every second time. So where it rejects, the round of ours that is farthest from the
    median is left out, or the one of the report's that would have made its deviation; where the rest agrees, that round
    is named.
    """
    if min(len(cell.errors), cell.published_rounds) < FEWEST:
        return f"none: it takes {FEWEST} rounds on both sides"
    if not (cell.std and cell.published_std):
        return "none: a deviation of 0 leaves nothing to judge by"
    ours, theirs = measured_mean(cell.errors), published_mean(cell)
    same_mean, same_spread = _agree(ours, cell.std, theirs, cell.published_std)
    far = "" if same_spread else _our_far_round(cell) or _their_far_round(cell)
    return Verdict(ours.minus(theirs), cell.std / cell.published_std, same_mean, same_spread, far)


def _agree(ours: Estimate, std: float, theirs: Estimate, other_std: float) -> tuple[bool, bool]:
    """Says whether two means could be equal, and two deviations."""
    from scipy import stats

    ratio = (std / other_std) ** 2
    tails = [
        float(stats.f.sf(ratio, ours.freedom, theirs.freedom)),
        float(stats.f.cdf(ratio, ours.freedom, theirs.freedom)),
    ]
    return ours.minus(theirs).p_value >= LEVEL, 2 * min(tails) >= LEVEL


def _our_far_round(cell: Cell) -> str:
    """Names the round of ours without which the others agree with the published; nothing where there is none."""
    middle = median(cell.errors)
    far = max(range(len(cell.errors)), key=lambda r: abs(cell.errors[r] - middle))
    rest = cell.errors[:far] + cell.errors[far + 1 :]
    agrees = all(_agree(measured_mean(rest), stdev(rest), published_mean(cell), cell.published_std))
    return f"our round {far}, {cell.errors[far]:.1f}" if agrees and stdev(rest) < (cell.std or 0) else ""


def _their_far_round(cell: Cell) -> str:
    """Says where one far round of the report's would lie, if the others deviate as ours do and agree with our mean.

    Of n errors with mean m and deviation s let all but one, x, have mean a and deviation t, ours: then
    (n - 1) s² = (n - 2) t² + (x - a)² (n - 1) / n, and m = a + (x - a) / n.
    """
    n, std = cell.published_rounds, cell.std or 0.0
    square = n / (n - 1) * ((n - 1) * cell.published_std**2 - (n - 2) * std**2)
    if square <= 0 or cell.published_std <= std:
        return ""
    rest = Estimate(cell.published_mean - square**0.5 / n, std**2 / (n - 1), n - 2)
    far = rest.value + square**0.5
    agrees = rest.value >= 0 and far <= 100 and _agree(measured_mean(cell.errors), std, rest, std)[0]
    return f"a round of the report's near {far:.0f}" if agrees else ""


@dataclass(frozen=True)
class TableVerdict:
    """How all cells of a table agree with the published together; see `judge_table`.

    Attributes:
        cells: how many could be judged.
        equivalent: how many of them are equivalent within `EQUIVALENCE`.
        shift: the mean over the cells of measured minus published, in percentage points.
        p_cells: that all cells are the published.
        p_effects: that all differences between cells are the published, whatever all cells are shifted by.
    """

    table: str
    cells: int
    equivalent: int
    shift: Estimate
    p_cells: float
    p_effects: float


def judge_table(cells: Sequence[Cell]) -> TableVerdict | None:
    """Returns the joint verdict on the cells of a table; None where fewer than two can be judged, or too few rounds.

    The statistic is d' S^-1 d, with d the differences of the means and S the sum of both sides' covariances: of ours
    the sample covariance over the shared rounds divided by their number, of the published its squared standard errors.
    For a known S it would be a chi-square of the z values; S is estimated from few rounds, so the p values are from
    `DRAWS` tables drawn with these covariances and equal means (a parametric bootstrap).
    """
    judged = [(cell, verdict) for cell in cells if isinstance(verdict := judge(cell), Verdict)]
    rounds = {len(cell.errors) for cell, _ in judged}
    if len(judged) < 2 or len(rounds) > 1 or len(judged) >= min(rounds):
        return None
    errors = np.array([cell.errors for cell, _ in judged]).T  # (R, K)
    published = [published_mean(cell) for cell, _ in judged]
    mean = combined((1 / len(judged), one) for one in published)
    p_cells, p_effects = _joint_p_values(errors, published)
    return TableVerdict(
        judged[0][0].table,
        len(judged),
        sum(verdict.is_equivalent for _, verdict in judged),
        measured_mean(errors.mean(axis=1).tolist()).minus(mean),
        p_cells,
        p_effects,
    )


def _joint_p_values(errors: Floats, published: Sequence[Estimate]) -> tuple[float, float]:
    """Returns the p values of all cells, and of all differences between neighbours, which make up all others."""
    rounds, cells = errors.shape
    others = min(round(one.freedom) for one in published) + 1
    stream = np.random.default_rng(0)
    ours = stream.multivariate_normal(np.zeros(cells), np.cov(errors.T), (DRAWS, rounds))  # (D, R, K)
    theirs = stream.normal(size=(DRAWS, others, cells)) * [(one.variance * others) ** 0.5 for one in published]
    drawn = ours.mean(axis=1) - theirs.mean(axis=1), _covariance(ours), theirs.var(axis=1, ddof=1) / others
    values = np.array([one.value for one in published])
    found = (
        (errors.mean(axis=0) - values)[None],
        _covariance(errors[None]),
        np.array([[one.variance for one in published]]),
    )
    eye = np.eye(cells)
    p_cells, p_effects = (
        float((1 + (_statistic(change, *drawn) >= _statistic(change, *found)).sum()) / (1 + DRAWS))
        for change in (eye, np.diff(eye, axis=0))
    )
    return p_cells, p_effects


def _covariance(errors: Floats) -> Floats:
    """Returns the covariance of the means of rounds: (D, R, K) -> (D, K, K)."""
    apart = errors - errors.mean(axis=1, keepdims=True)
    rounds = errors.shape[1]
    return np.asarray(np.einsum("drk,drl->dkl", apart, apart) / (rounds - 1) / rounds)


def _statistic(change: Floats, apart: Floats, ours: Floats, variances: Floats) -> Floats:
    """Returns d' S^-1 d of D tables: change (L, K), apart (D, K), ours (D, K, K), variances (D, K) -> (D,)."""
    both = change @ (ours + variances[:, :, None] * np.eye(variances.shape[1])) @ change.T
    moved = apart @ change.T  # (D, L)
    return np.asarray(np.einsum("dl,dl->d", moved, np.linalg.solve(both, moved[:, :, None])[:, :, 0]))


def counted(cells: Iterable[Cell]) -> list[Cell]:
    """Returns cells without those that show a published cell a second time: each published one is counted once."""
    return [cell for cell in cells if cell.label not in reports().beside]
