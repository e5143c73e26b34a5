"""What is said of a figure that was chosen for being low."""

from __future__ import annotations

from hpo.text.formatting import points, with_unit

SELECTION_BIAS = "the best of many noisy results looks better than it is (selection bias)"
NEW_SELECTION = "picking a different one now is a new selection and biases its figure"


def beside_search(fresh: float, optimism: float, unit: str) -> str:
    """Returns what the search had reported, beside the mean of fresh rounds."""
    reported, off = f"the study reported {with_unit(f'{fresh - optimism:.2f}', unit)}", f"{abs(optimism):.2f}"
    if off == "0.00":
        return reported
    return f"{reported}, {points(off, unit)} too {'optimistic' if optimism > 0 else 'pessimistic'}"
