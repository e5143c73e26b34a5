"""Names of studies: the rule for a new one, names that are made of others, and names of files.

The rule is for creating; studies that are in a storage already, under whatever name, can be read and gone on with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from itertools import count

from hpo.errors import RequestError
from hpo.text.escaping import is_printable, printable

LONGEST = 100  # characters of a name that a person gives
LONGEST_DERIVED = 200  # of one that is made of it, as NAME-confirm is; PostgreSQL ends at 512
LONGEST_FILE = 100  # bytes; a file system ends at 255, and endings are added
SHOWN = 60
HASHED = re.compile(r"-[0-9a-f]{8}$")


def check_name(name: str, hint: str = "; --name gives another") -> None:
    """Holds the name of a study that is to be created against the rule.

    Args:
        hint: how to give another.

    Raises:
        RequestError: that says the rule.
    """
    if not _is_valid(name, LONGEST):
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}…"
        raise RequestError(
            f"a study's name must be 1 to {LONGEST} printable characters without '/', must neither begin nor end with "
            f"a blank nor begin with '-', and not be '.' or '..', but is {printable(repr(shown))}{hint}"
        )


def _is_valid(name: str, longest: int) -> bool:
    return (
        0 < len(name) <= longest
        and is_printable(name)
        and "/" not in name
        and name == name.strip()
        and not name.startswith("-")
        and name not in (".", "..")
    )


def derived_name(name: str, suffix: str, known: Collection[str] = ()) -> str:
    """Returns NAME-SUFFIX; where that would break the rule, a name that keeps it, another for every other.

    Args:
        suffix: with its hyphen, as in `-confirm`.
        known: names that are there already, whatever they are.
    """
    whole = f"{name}{suffix}"
    if whole in known or _is_valid(whole, LONGEST_DERIVED):
        return whole
    mark = f"-{_hash(whole)}"
    kept = "".join(c if is_printable(c) and c != "/" else "-" for c in whole).strip(" -.")
    return f"{kept[: LONGEST_DERIVED - len(mark)].rstrip()}{mark}".removeprefix("-")


def free_name(name: str, suffix: str, known: Collection[str], is_ours: Callable[[str], bool]) -> str:
    """Returns NAME-SUFFIX, or NAME-SUFFIX-2, -3 …: the first that is free, or that is ours to go on with.

    Args:
        known: names that are there already.
        is_ours: is asked of those.
    """
    numbered = (derived_name(name, suffix + (f"-{n}" if n > 1 else ""), known) for n in count(1))
    return next(made for made in numbered if made not in known or is_ours(made))


def safe_file_name(name: str) -> str:
    """Returns a name for a file, made of letters, digits, `_`, `-` and points; another for every other name.

    A name that stays as it is has nothing else, and up to `LONGEST_FILE` bytes; all others get the end of a hash.
    """
    kept = re.sub(r"[^\w.]+", "-", name).lstrip(".-")
    if name and kept == name and len(name.encode()) <= LONGEST_FILE and not HASHED.search(name):
        return name
    mark = f"-{_hash(name)}"
    return (kept or "study").encode()[: LONGEST_FILE - len(mark)].decode(errors="ignore") + mark


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
