"""hpo: hyperparameter studies of small neural networks whose every trial is a mean over rounds, with its spread."""

from __future__ import annotations

import os
from typing import Any

__version__ = "0.1.0"


def load_results(study: str, storage: str | None = None) -> list[dict[str, Any]]:
    """Returns a study's trials, one flat dictionary each, as `pandas.DataFrame` takes them.

    Keys: number, state, value and std (percent; None for what was not measured to the end), `round N` for the error of
    each round, the parameters by their names, label, published_mean and published_std of listed trials, seconds,
    device, and error for what failed.

    Args:
        study: its name in the storage.
        storage: a database URL; `$HPO_STORAGE` unless given, else `sqlite:///hpo.db`.

    Raises:
        hpo.errors.HpoError: where there is no such storage or study.
    """
    from .results import flatten, read_definition, read_rows
    from .storage import open_storage

    url = storage or os.environ.get("HPO_STORAGE") or "sqlite:///hpo.db"
    opened = open_storage(url)
    first_round = read_definition(opened, study).protocol.first_round
    return [flatten(row, first_round) for row in read_rows(opened, study)]
