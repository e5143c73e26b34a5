"""The errors that digit pairs are measured by: one for each way in which a network's outputs decide."""

from __future__ import annotations

from hpo.study.task import Metric


def pair_metrics(kind: str, by_recognition: float, by_head: float, *, posterior: bool = False) -> tuple[Metric, ...]:
    """Returns the errors by each decision, of a kind, each with its resolution.

    Args:
        posterior: whether the third is measured; its resolution is the recognition's.
    """
    decisions = [
        ("recognition", "recognition", "both digits are recognised, and the two compared", by_recognition),
        ("head", "the head", "the comparison's own output is taken", by_head),
    ]
    if posterior:
        described = "the probabilities of both digits say whether the first is at most the second"
        decisions.append(("posterior", "posterior", described, by_recognition))
    return tuple(
        Metric(name, f"{kind} by {by}", described, resolution=resolution)
        for name, by, described, resolution in decisions
    )
