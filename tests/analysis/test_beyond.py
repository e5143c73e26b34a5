"""What `python -m benchmarks.beyond` makes of what was measured: tables, a figure, and what it keeps."""

from __future__ import annotations

from typing import Any

from benchmarks.beyond import added, figures_of, parts_of

ROUNDS = [2.0, 2.2, 1.8, 2.1, 1.9, 2.0]


def step(names: list[str], mean: float, difference: float | None = -1.0, diverged: int = 0) -> dict[str, Any]:
    sides = {"base": {}, "whole": {name: 0.9 for name in names}}
    return {
        "ingredient": {"names": names, **sides},
        **{"mean": mean, "std": 0.2, "low": mean - 0.1, "high": mean + 0.1, "errors": ROUNDS},
        **{"difference": difference, "difference_low": -1.2, "difference_high": -0.8, "p_value": 0.03},
        **{"diverged": [0, diverged], "head": [8.0, 9.0, 8.5, 8.5, 8.5, 8.5]},
    }


def champion(label: str, errors: list[float]) -> dict[str, Any]:
    decided = {name: errors for name in ("recognition", "posterior", "head")}
    return {
        **{"label": label, "params": {"epochs": 3}, "seconds": 60.0, "parameters": 1000, "errors": decided},
        **{"mean": [1.8, 2.2], "new": None},
    }


FOUND: dict[str, Any] = {
    "searches": {},
    "champions": [
        champion("Champion", [*ROUNDS, 9.0]),
        champion("The mean of five champions", [1.0, 1.1, 0.9, 0.9, 0.9, 1.1]),
    ],
    "ablation": {
        **{"base": step([], 3.0), "whole": step([], 1.0)},
        "without": [step(["momentum"], 2.5, 0.5), step(["a", "b", "c"], 2.0, None, diverged=6)],
        "alone": [step(["momentum"], 1.5)],
        "path": [step(["momentum"], 1.5), step(["a", "b", "c"], 1.0)],
    },
}


def test_steps_are_shown_in_the_direction_in_which_they_were_taken() -> None:
    parts = parts_of(FOUND)
    assert (
        "| momentum 0.9 → none | 2.50 ± 0.20 | +0.50 | -1.20 to -0.80 | 0.03 | 8.50 ± 0.32 |" in parts["whole_without"]
    )
    assert (
        "| a, b, c (diverged in 6 of 6 rounds, before in 0) | 2.00 ± 0.20 |  |  |  | 8.50 ± 0.32 |"
        in parts["whole_without"]
    )
    assert "| nothing: report A's best | 3.00 ± 0.20 |  |  |  | 8.50 ± 0.32 |" in parts["base_with"]
    assert "| nothing: the champion | 1.00 ± 0.20 |" in parts["whole_without"]
    assert "| momentum none → 0.9 | 1.50 ± 0.20 | -1.00 |" in parts["base_with"]
    assert [line.split(" | ")[0] for line in parts["path"].splitlines()[3:]] == ["| momentum none → 0.9", "| a, b, c"]
    (points,) = figures_of(FOUND)["beyond_path"].data
    assert list(points.x) == [3.0, 1.5, 1.0]
    assert list(points.y) == ["report A's best", "+ momentum none → 0.9", "+ a, b, c"]


def test_a_mean_of_networks_is_held_against_one_on_the_rounds_that_both_have() -> None:
    assert parts_of(FOUND)["five"] == (
        "On the 6 rounds that both have, the mean of five differs from the champion by -1.02 points (95 %: -1.14 to "
        "-0.89; p 0.031); it errs less in 6 of them."
    )


def test_what_is_not_found_again_is_kept() -> None:
    new: dict[str, Any] = {"searches": {}, "champions": [champion("Champion", ROUNDS)], "ablation": None}
    old = {"beyond": [{"state": "PRUNED"}] * 2, "beyond_sizes": [{"state": "COMPLETE"}, {"state": "FAIL"}]}
    new["searches"] = {
        "beyond": [{"state": "PRUNED"}, {"state": "FAIL"}],  # begun again
        "beyond_sizes": [{"state": "COMPLETE"}],  # measured again
    }
    kept = added(new, FOUND | {"searches": old})
    assert [one["label"] for one in kept["champions"]] == ["Champion", "The mean of five champions"]
    assert kept["champions"][0]["errors"]["recognition"] == ROUNDS
    assert kept["ablation"] == FOUND["ablation"]
    assert kept["searches"] == {"beyond": old["beyond"], "beyond_sizes": new["searches"]["beyond_sizes"]}
