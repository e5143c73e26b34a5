"""One seed in, the same numbers out: a random stream has a name, and its seed is a hash of that."""

from __future__ import annotations

import hashlib


def derive_seed(*name: int | str) -> int:
    """Returns the seed of a random stream, an integer in [0, 2**32).

    The name is spelled out, as in `derive_seed(study_seed, "round", 3, "weights")`; streams with different names are
    unrelated. 32 bits, because NumPy's and Optuna's samplers take no more.
    """
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:4], "big")
