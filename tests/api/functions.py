"""A function that other processes can import."""

from __future__ import annotations

from typing import Any


def bowl(params: dict[str, Any], seed: int) -> float:
    """Returns how far a parameter is from 0.3, with a round's own noise."""
    return float((params["x"] - 0.3) ** 2 + 0.001 * (seed % 10))
