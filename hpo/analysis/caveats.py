"""What is said of a figure that was chosen for being low."""

from __future__ import annotations

SELECTION_BIAS = "the best of many noisy results looks better than it is (selection bias)"
NEW_SELECTION = "picking a different one now is a new selection and biases its figure"


def beside_search(fresh: float, optimism: float) -> str:
    """Returns what the search had reported, beside the mean of fresh rounds."""
    reported, off = f"the study reported {fresh - optimism:.2f} %", f"{abs(optimism):.2f} points"
    if off == "0.00 points":
        return reported
    return f"{reported}, {off} too {'optimistic' if optimism > 0 else 'pessimistic'}"
