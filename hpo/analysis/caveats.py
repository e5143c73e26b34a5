"""What is said of a figure that was chosen for being good."""

from __future__ import annotations

from hpo.text.formatting import figure, points, with_unit

ROUNDING = 1e-9  # of a figure: no difference
SELECTION_BIAS = "the best of many noisy results looks better than it is (selection bias)"
NEW_SELECTION = "picking a different one now is a new selection and biases its figure"


SEED_UNUSED = "every round of a configuration came to the same; if it should not, its seed is not used"


def beside_search(searched: float, optimism: float, unit: str, scale: float | None) -> str:
    """Returns what the search had reported, and by how much too well; `scale` as in `figure`."""
    reported, off = figure(searched, unit, scale), figure(abs(optimism), unit, scale)
    said = f"the study reported {with_unit(reported, unit)}"
    if float(off) == 0 or abs(optimism) <= ROUNDING * abs(searched):
        return said
    return f"{said}, {points(off, unit)} too {'optimistic' if optimism > 0 else 'pessimistic'}"
