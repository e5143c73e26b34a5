"""One number a round from what a trial keeps of its training: its losses and its gradient norms, epoch by epoch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curves = Sequence[Sequence[float | None]]  # epoch -> R rounds; None for what is not finite


def summarize_curves(kept: Mapping[str, Any], layers: Sequence[Mapping[str, Any]] | None) -> dict[str, list[float]]:
    """Returns the quantities of a trial's training that claims compare, (R,) each, as far as what they take is kept.

    Args:
        kept: the trial's attributes.
        layers: of its network with weight sharing, as `describe` in network_summary.py has them.
    """
    found = {}
    if "losses_by_step" in kept:
        found["loss"] = _numbers(kept["losses_by_step"])[-1].tolist()
        found["half_life"] = half_lives(kept["losses_by_step"])
    if "gradient_norms" in kept and layers is not None:
        norms = np.stack([_numbers(curves) for curves in by_kind(kept["gradient_norms"], layers).values()])  # (L, E, R)
        found["norms"] = np.log10(norms.max(axis=0) / norms.min(axis=0)).mean(axis=0).tolist()
    return {name: values for name, values in found.items() if all(map(math.isfinite, values))}


def half_lives(losses: Curves) -> list[float]:
    """Returns after how many epochs each round's loss is first at most half of what it was after the first, (R,).

    A round that never comes so far has the number of all epochs. The measure has no unit, so losses that weigh their
    parts differently, with and without auxiliary loss, can be compared by it.
    """
    values = _numbers(losses)  # (E, R)
    fallen = values <= values[0] / 2
    return [float(np.argmax(one) if one.any() else len(values)) for one in fallen.T]


def by_kind(norms: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names layers by kind and number: `tower Conv2d 1`; of two towers those of the first.

    Batch norms are left out, so that networks with and without have the same.
    """
    counts: Counter[str] = Counter()
    named = {}
    for layer in layers:
        kind = str(layer["kind"]).partition("(")[0]
        if kind in ("Conv2d", "Linear"):
            part = f"{layer['name'].partition('.')[0].removesuffix('s')} {kind}"
            counts[part] += 1
            named[f"{part} {counts[part]}"] = norms[layer["name"]]
    return named


def _numbers(curves: Curves) -> NDArray[np.float64]:
    return np.array(curves, dtype=float)
