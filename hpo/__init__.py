"""hpo: hyperparameter studies of small neural networks whose every trial is a mean over rounds, with its spread."""

from __future__ import annotations

TYPE_CHECKING = False  # not typing's: nothing may be imported before entry.py has seen to where modules are found
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from torch import nn

    from hpo.api.study import Study as Study

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Study":
        from hpo.api.study import Study

        return Study
    raise AttributeError(f"module 'hpo' has no attribute {name!r}")


def load_results(study: str, storage: str | None = None) -> list[dict[str, Any]]:
    """Returns a study's trials, one flat dictionary each, as `pandas.DataFrame` takes them.

    Keys: number, state, value and std (in the metric's unit; None for what was not measured to the end), `round N` for
    the error of each round, the parameters by their names (None for one that a trial lacks), label, published_mean
    and published_std of listed trials, seconds, device, error for what failed, and of a trial of which rounds diverged
    diverged_percent and converged_mean, each also with _low and _high.

    Args:
        study: its name in the storage.
        storage: a database URL; unless given `$HPO_STORAGE`, or what `$HPO_STORAGE_FILE` holds, else `sqlite:///hpo.db`.

    Raises:
        hpo.errors.HpoError: where there is no such storage or study.
    """
    from hpo.analysis.results import flatten, read_rows
    from hpo.errors import RequestError
    from hpo.storage.backends import open_storage
    from hpo.storage.studies import read_definition
    from hpo.storage.url import find_url

    if not isinstance(study, str):
        raise RequestError(f"a study's name must be a text, but is {study!r}")
    opened = open_storage(find_url(storage))
    definition = read_definition(opened, study)
    return [flatten(row, definition) for row in read_rows(opened, study)]


def load_network(
    file: str | Path, number: int | None = None, code: str | Path | None = None, allow: Sequence[str] = ()
) -> nn.Module:
    """Returns a network that `hpo export` has written, in evaluation mode, on the CPU.

    It takes inputs as the data has them. That of the digit pairs maps pairs of images (B, 2, 14, 14), pixels as the
    dataset has them (MNIST: 0 to 255, means of 2x2), to the logits (B, 2) of "the first digit is at most the second"
    and the logits (B, 2, 10) of the two digits.

    Args:
        file: the `.safetensors` file.
        number: of the round whose network it is to be; the first in the file unless given.
        code: the folder below which the file of a network of your own is.
        allow: patterns of code that may be imported for it, as `tiny.py:TinyNet`; a file of others can name any.

    Raises:
        hpo.errors.RequestError: where the file is not there, is another, or lacks that round.
    """
    from pathlib import Path

    from hpo.training.export import load_network

    return load_network(Path(file), number, None if code is None else Path(code), allow)
