"""What the reports claim and how their tables agree as wholes, as rows of tables, headings first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from hpo.analysis.statistics import holm
from hpo.reports.agreement import Estimate, TableVerdict, counted, judge_table
from hpo.reports.claims import NOTHING, VERDICTS, Comparison, judge_claims
from hpo.reports.published import Claim, Names, reports
from hpo.reports.reproduction import Reproduction
from hpo.text.formatting import count, p_value

UNITS = {  # of what is compared, where it is no error
    "spread": "distance from the median, points; published: difference of the deviations",
    "loss": "training loss after the last epoch",
    "half_life": "epochs until the training loss is half of that after the first",
    "norms": "largest over smallest layer, powers of ten",
    "rate": "learning rate",
    "parameters": "number",
}
DECIMALS = {"rate": 4, "loss": 4, "parameters": 0}


def claim_rows(found: Reproduction, report: str) -> list[list[str]]:
    """Returns a row for each pair of each claim of a report, `A` or `B`; the claim stands in its first."""
    rows = [["claim", "first below second", "published", "ours (95 %)", "z", "p, not 0", "p, not published", "verdict"]]
    compared = [one for one in judge_claims(found) if one.claim.report == report]
    for claim, pairs in groupby(compared, key=lambda one: one.claim):
        said = _said(claim)
        for one in pairs:
            rows.append([said, *_cells_of(one)])
            said = ""
    return rows


def _said(claim: Claim) -> str:
    return f"{claim.says} ({'; '.join([claim.place, *([UNITS[claim.of]] if claim.of in UNITS else [])])})"


def _cells_of(one: Comparison) -> list[str]:
    pair = " < ".join(map(_side, one.pair))
    if one.claim.factor != 1:
        pair = f"{one.claim.factor:g} x {pair}"
    decimals = DECIMALS.get(one.claim.of, 2)
    published = _size(one.published, decimals) if one.published else "in words" if one.pair else ""
    if one.ours is None:
        return [pair, published, "", "", "", "", f"{one.verdict}: {one.why}"]
    ours = _size(one.ours, decimals)
    if not one.ours.variance:
        return [pair, published, ours, "", "", "", one.verdict]
    ours += " ({:+.{d}f} to {:+.{d}f})".format(*one.ours.interval(), d=decimals)
    apart = one.difference
    z = f"{apart.value / apart.standard_error:+.1f}" if apart else ""
    return [pair, published, ours, z, p_value(one.p_ours), p_value(one.p_difference), one.verdict]


def _side(labels: Names) -> str:
    return labels[0] if len(labels) == 1 else f"mean of {', '.join(labels)}"


def _size(effect: Estimate, decimals: int) -> str:
    """Returns an effect with its standard error, where it has one."""
    error = f" ± {effect.standard_error:.{decimals}f}" if effect.variance else ""
    return f"{effect.value:+,.{decimals}f}{error}"


def summary_of_claims(found: Reproduction) -> str:
    """Returns how many of the claimed effects have which verdict, each published one counted once."""
    told = Counter(one.verdict for one in judge_claims(found) if one.is_counted)
    compared = sum(told.values()) - told[NOTHING]
    if not compared:
        return "No claim can be judged yet."
    shares = ", ".join(f"{told[verdict]} *{verdict}*" for verdict in VERDICTS if told[verdict] and verdict != NOTHING)
    return f"Of {count(compared, 'claimed effect')} that can be compared: {shares}; {told[NOTHING]} cannot be."


def judge_tables(found: Reproduction) -> list[TableVerdict]:
    """Returns the joint verdicts of all tables that are measured; each published cell is counted once."""
    cells = counted(found.cells)
    tables = (judge_table([cell for cell in cells if cell.table == item]) for item in reports().items)
    return [verdict for verdict in tables if verdict]


def table_rows(verdicts: Sequence[TableVerdict]) -> list[list[str]]:
    """Returns a row for each table; p values are corrected for the number of tables."""
    rows = [["table", "equivalent within a point", "mean difference (95 %)", "p, all cells", "p, all effects"]]
    corrected = [holm([getattr(one, key) for one in verdicts]) for key in ("p_cells", "p_effects")]
    for one, *ps in zip(verdicts, *corrected, strict=True):
        title = reports().items[one.table].title.partition(":")[0]
        shift = "{:+.2f} ({:+.2f} to {:+.2f})".format(one.shift.value, *one.shift.interval())
        rows.append([title, f"{one.equivalent} of {one.cells}", shift, *map(p_value, ps)])
    return rows
