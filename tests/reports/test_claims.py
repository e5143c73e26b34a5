"""The reports' claims: what is listed, and the verdicts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hpo.reports import claims, claims_document
from hpo.reports.agreement import judge
from hpo.reports.claims import judge_claims
from hpo.reports.claims_document import claim_rows, summary_of_claims
from hpo.reports.curves import summarize_curves
from hpo.reports.published import Claim, reports
from hpo.reports.reproduction import RangeTestResult, Reproduction
from hpo.study import catalog
from tests.reports.test_agreement import cell, spaced

SHARED = spaced(0.0, 0.5)


def judged(monkeypatch: pytest.MonkeyPatch, found: Reproduction, **claim: Any) -> list[claims.Comparison]:
    """Judges one claim."""
    one = Claim(report="A", place="table I", says="AL improves", **claim)
    monkeypatch.setattr(claims, "reports", lambda: reports().model_copy(update={"claims": (one,)}))
    return judge_claims(found)


def measured(*cells: Any, **more: Any) -> Reproduction:
    return Reproduction(list(cells), [], {}, {"dataset": "mnist", "rounds": 10, "seed": 0}, **more)


def pair(ours: float, published: float, *, noise: float = 0.2) -> Reproduction:
    """Two cells, `a` and `b`, whose difference is `ours`, of rounds that share what is hard about them."""
    own = noise * np.array([1, -1] * 5)
    sides = [("a", 5 + ours + SHARED + own, 5 + published), ("b", 5 + SHARED, 5.0)]
    return measured(*(cell(errors, mean, 0.3, label=label) for label, errors, mean in sides))


@pytest.mark.parametrize(
    ("ours", "published", "noise", "verdict"),
    [
        (-1.0, -1.1, 0.2, "reproduced"),
        (-1.0, -3.6, 0.2, "direction yes, size no"),
        (-0.05, -3.6, 0.2, "not reproduced"),
        (1.0, -1.0, 0.2, "not reproduced: the opposite"),
        (-1.0, -1.1, 3.0, "cannot tell"),
        (-1.0, -0.05, 0.02, "direction yes, size no"),
    ],
)
def test_a_verdict_is_of_effects_round_by_round(
    monkeypatch: pytest.MonkeyPatch, ours: float, published: float, noise: float, verdict: str
) -> None:
    (one,) = judged(monkeypatch, pair(ours, published, noise=noise), pairs=[["a", "b"]])
    assert one.ours is not None
    assert one.published is not None
    assert [one.ours.value, one.published.value] == pytest.approx([ours, published])
    assert one.ours.variance == pytest.approx(noise**2 / 9)  # nothing of what the rounds share
    assert one.published.variance == pytest.approx(2 * 0.3**2 / 10)
    assert one.verdict == verdict


FULLY_CONNECTED = [18.0, 18.8, 16.8, 16.5, 17.3, 17.8, 18.6, 19.9, 18.7, 20.7]
AND_SHARED = [16.9, 15.6, 16.8, 17.0, 16.3, 16.9, 17.3, 18.3, 19.2, 20.1]


def report_b() -> Reproduction:
    """Report B's fully connected network without weight sharing and with, as it was measured once."""
    without = cell(FULLY_CONNECTED, 19.70, 1.58, table="report_b_table_2", label="Fully connected")
    shared = cell(AND_SHARED, 16.09, 0.72, table="report_b_table_3", label="Fully connected + WS")
    parameters = {name: list(counted) for name, counted in reports().parameters.items()}
    return Reproduction([without, shared], [], parameters, {"dataset": "mnist", "rounds": 10, "seed": 0})


def test_cells_that_agree_one_by_one_can_hide_an_effect_that_is_not_reproduced() -> None:
    found = report_b()
    assert [str(judge(one)) for one in found.cells] == ["consistent (2.1 s.e.)", "consistent (2.8 s.e.)"]
    one = next(one for one in judge_claims(found) if one.pair == (("Fully connected + WS",), ("Fully connected",)))
    assert one.difference is not None
    assert one.published is not None
    assert [one.published.value, one.published.standard_error] == pytest.approx([-3.61, 0.549], abs=1e-3)
    assert one.difference.value / one.difference.standard_error == pytest.approx(4.2, abs=0.05)
    assert one.verdict == "direction yes, size no"


def test_all_pairs_of_a_claim_are_corrected_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six effects that are all 0, one is taken for real in at most 5.5 % of claims."""
    stream, alarms = np.random.default_rng(0), 0
    names = [f"{n}" for n in range(7)]
    for _ in range(400):
        draw = stream.normal(size=(1, 10))
        cells = [cell(9 + draw[0] + stream.normal(size=10), 9.0, 1.4, label=name) for name in names]
        alarms += any(
            one.verdict != "cannot tell"
            for one in judged(monkeypatch, measured(*cells), pairs=[[a, b] for a, b in pairwise(names)])
        )
    assert alarms / 400 < 2 * (0.055 + 3 * (0.055 / 400) ** 0.5)  # two families: of ours, and of differences


def test_spreads_are_compared_by_distances_from_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = cell(9 + 4 * np.array([1, -1.2] * 5), 9.0, 4.0, label="wide")
    narrow = cell(spaced(9.0, 0.4), 9.0, 0.5, label="narrow")
    (one,) = judged(monkeypatch, measured(wide, narrow), of="spread", pairs=[["narrow", "wide"]])
    assert one.verdict == "reproduced"
    assert one.difference is None  # deviations have no standard error of the same kind
    far = cell([*spaced(9.0, 0.4, 9), 38.0], 9.0, 4.0, label="wide")
    (one,) = judged(monkeypatch, measured(far, narrow), of="spread", pairs=[["narrow", "wide"]])
    assert one.verdict == "cannot tell"  # one round is no spread


def test_several_cells_are_compared_by_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        cell(spaced(mean, 0.1), mean, 0.1, label=label)
        for label, mean in zip("abcd", (1.0, 2.0, 3.0, 6.0), strict=True)
    ]
    (one,) = judged(monkeypatch, measured(*cells), pairs=[[["a", "b"], ["c", "d"]]])
    assert one.ours is not None
    assert one.ours.value == pytest.approx(-3.0)
    assert one.published is not None
    assert one.published.variance == pytest.approx(4 * 0.1**2 / 10 / 4)


def test_rates_losses_and_parameters_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: dict[str, Any] = {"sgd": spaced(0.12, 0.02), "adam": spaced(0.004, 0.001), "rmsprop": [None] * 10}
    tests = [RangeTestResult(name, 0.1, 0.1, None, list(optima)) for name, optima in rates.items()]
    found = Reproduction([], tests, {"fully_connected": [100, 60], "residual": [130, 70]}, {})
    how: dict[str, Any] = {"of": "rate", "factor": 10.0}
    adam, rmsprop = judged(monkeypatch, found, pairs=[["adam", "sgd"], ["rmsprop", "sgd"]], **how)
    assert (adam.verdict, rmsprop.why) == ("reproduced", "a round of a range test diverged")
    pairs = [["fully_connected + WS", "fully_connected"], ["residual", "fully_connected"]]
    told = [one.verdict for one in judged(monkeypatch, found, of="parameters", pairs=pairs)]
    assert told == ["reproduced", "not reproduced: the opposite"]
    losses = {"a": spaced(0.1, 0.02), "b": spaced(0.4, 0.02)}
    cells = [cell(SHARED, 0.0, 1.0, label=name, curves={"loss": list(one)}) for name, one in losses.items()]
    (one,) = judged(monkeypatch, measured(*cells), of="loss", pairs=[["a", "b"]])
    assert (one.verdict, one.published) == ("reproduced", None)
    (one,) = judged(monkeypatch, measured(*cells), of="norms", pairs=[["a", "b"]])
    assert one.why == "what it takes was not kept, or is not finite in all rounds"


def test_few_rounds_and_no_variance_give_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    few = measured(*(cell([2.0, 3.0, 4.0], 3.0, 1.0, label=label) for label in "ab"))
    assert judged(monkeypatch, few, pairs=[["a", "b"]])[0].why == "it takes the same 5 rounds or more on both sides"
    flat = measured(*(cell([2.0 + i] * 10, 3.0, 1.0, label=label) for i, label in enumerate("ab")))
    assert judged(monkeypatch, flat, pairs=[["a", "b"]])[0].why == "it is the same in all rounds"
    assert judged(monkeypatch, flat, pairs=[["a", "c"]])[0].why == "c is not measured yet"


def test_every_label_of_a_claim_is_a_cell() -> None:
    labels = {
        entry.label
        for study in catalog.studies()
        if study.startswith("report_")
        for entry in catalog.load_study(study)[1].trial
    }
    labels |= {one.label for one in reports().elsewhere}
    assert set(reports().beside) < labels
    for claim in reports().claims:
        known = {"rate": set(reports().rates), "parameters": set(reports().parameters)}.get(claim.of, labels)
        for one in (label for sides in claim.pairs for side in sides for label in side):
            assert one.removesuffix(" + WS") in known if claim.of == "parameters" else one in known, one
    named = Counter(side for claim in reports().claims if claim.of == "error" for side in claim.pairs)
    assert max(named.values()) == 1  # no effect is counted twice
    with pytest.raises(ValidationError, match="either pairs, or why there are none"):
        Claim(report="A", place="I", says="nothing")


def test_claims_are_shown_with_what_they_are_judged_by() -> None:
    rows = claim_rows(report_b(), "B")
    assert rows[1][0].endswith("significantly, even without auxiliary loss (V.B and VI)")
    effect = ["-3.61 ± 0.55", "-0.87 ± 0.35 (-1.65 to -0.09)", "+4.2", "0.033", "< 0.001"]
    assert rows[1][1:] == ["Fully connected + WS < Fully connected", *effect, "direction yes, size no"]
    assert rows[2][0] == ""
    assert rows[2][-1] == "not compared: Fully connected + WS + AL is not measured yet"
    counts = Counter(row[-1].partition(":")[0] for row in rows[1:])
    assert (counts["reproduced"], counts["direction yes, size no"]) == (4, 1)
    assert summary_of_claims(report_b()).startswith(
        "Of 7 claimed effects that can be compared: 4 *reproduced*, 1 *direction yes, size no*, "
        "1 *not reproduced: the opposite*, 1 *cannot tell*; "
    )
    own = [one for one in judge_claims(report_b()) if not one.is_counted]
    assert len(own) == 3  # table V at our range tests' rates


def test_a_small_loss_that_is_less_is_not_shown_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"a": spaced(0.001, 0.0005), "b": spaced(0.005, 0.001)}
    cells = [cell(SHARED, 0.0, 1.0, label=name, curves={"loss": list(one)}) for name, one in losses.items()]
    (one,) = judged(monkeypatch, measured(*cells), of="loss", pairs=[["a", "b"]])
    monkeypatch.setattr(claims_document, "judge_claims", lambda found: [one])
    assert claim_rows(measured(), "A")[1][3].startswith("-0.0040 ± 0.000")


def test_curves_come_to_one_number_a_round() -> None:
    layers = [
        {"name": "towers.0.0", "kind": "Conv2d(1, 2)"},
        {"name": "towers.0.1", "kind": "BatchNorm2d(2)"},
        {"name": "head.0", "kind": "Linear(2)"},
    ]
    losses = [[1.0, 4.0], [0.6, 3.0], [0.5, 2.5], [0.7, 2.2]]
    norms = {"towers.0.0": [[10.0, 1.0], [1000.0, 1.0]], "towers.0.1": [[1e9, 1e9]] * 2, "head.0": [[1.0, 1.0]] * 2}
    found = summarize_curves({"losses_by_step": losses, "gradient_norms": norms}, layers)
    assert found == {"loss": [0.7, 2.2], "half_life": [2.0, 4.0], "norms": [2.0, 0.0]}
    assert summarize_curves({}, layers) == {}
    assert "loss" not in summarize_curves({"losses_by_step": [[1.0, None]]}, None)
