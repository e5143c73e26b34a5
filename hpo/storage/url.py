"""Where a storage's URL comes from: an option, a file, the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hpo.errors import RequestError
from hpo.text.secrets import read_secret

DEFAULT = "sqlite:///hpo.db"
URL, FILE = "HPO_STORAGE", "HPO_STORAGE_FILE"


def find_url(url: str | None = None, file: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Returns a storage's URL: the one given, or what a file holds; else those that the environment names.

    A file keeps a URL with a password out of command lines and process lists.

    Raises:
        RequestError: where both are given, one is empty, the file cannot be read, or a URL is not one printable line.
    """
    if "" in (url, file):  # as where a shell's variable is not set
        raise RequestError(f"the storage's URL, or its file's name, is empty; without any it is {DEFAULT}")
    if url is None and file is None:
        url, file = environ.get(URL) or None, environ.get(FILE) or None
    if url is not None and file is not None:
        raise RequestError(f"a storage is named by --storage or by --storage-file ({URL} or {FILE}), not by both")
    found = (DEFAULT if url is None else url) if file is None else read_secret(file, "the storage's URL")
    if not found.isprintable():  # the rest may be another secret, and is not said
        raise RequestError("the storage's URL must be one line of printable characters")
    return found
