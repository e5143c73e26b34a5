"""Where a storage's URL comes from: an option, a file, the environment; and texts without its password."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from .errors import RequestError

DEFAULT = "sqlite:///hpo.db"
URL, FILE = "HPO_STORAGE", "HPO_STORAGE_FILE"


def find_url(url: str | None = None, file: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """Returns a storage's URL: the one given, or what a file holds; else those that the environment names.

    A file keeps a URL with a password out of command lines and process lists.

    Raises:
        RequestError: where both are given, or the file cannot be read or is empty.
    """
    if url is None and file is None:
        url, file = environ.get(URL) or None, environ.get(FILE) or None
    if url is not None and file is not None:
        raise RequestError(f"a storage is named by --storage or by --storage-file ({URL} or {FILE}), not by both")
    if file is None:
        return url or DEFAULT
    try:
        held = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the storage's URL cannot be read from {file}: {error}") from error
    if not held:
        raise RequestError(f"{file} is empty; it is to hold a storage's URL")
    return held


def without_password(text: str) -> str:
    """Returns a text whose URLs have lost their passwords."""
    return re.sub(r"(\w://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
