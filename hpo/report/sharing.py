"""What is given to others, without what tells of the machines and people it comes from.

Host names become `machine 1`, `machine 2` …; user names, paths beyond their last part and storages' URLs go. Only texts
that people have written or that name a machine are cleaned: names, titles, labels, hosts. A configuration stays as it
is, for a host may be called cnn, and a user adam. Of a title no more is changed than that: who writes another's name
into one has to look for it.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from optuna.storages import RDBStorage

from hpo.analysis.hardware_drift import REPEATS
from hpo.analysis.results import read_rows
from hpo.storage.queries import study_attributes, study_names

STORAGE_URL = re.compile(r"\b(sqlite|postgres(ql)?)(\+\w+)?://[^\s'\"`<>]*", re.IGNORECASE)
PATH_CHARACTER = r"[^\s/'\"`<>:,;()]"
ABSOLUTE_PATH = re.compile(
    rf"(?:\bfile:/*|(?<![\w.…~/])(?:/|(?<!:)//+))((?:{PATH_CHARACTER}+/)+)({PATH_CHARACTER}*)", re.IGNORECASE
)  # not within https://…
IP_ADDRESS = re.compile(r"[\d.]+|.*:.*")
NOTHING = "(?!)"  # as a pattern: matches nowhere
HOMES = re.compile(r"(home|Users)/[^/]+")
SHORTEST = 2  # characters of a name that is looked for within a text
OWN = {"hpo", "localhost", ""}  # no secrets, and found in every text

Clean = Callable[[str], str]


def cleaner(hosts: Iterable[str]) -> Clean:
    """Returns a function that takes out of a text what tells of these machines, of this one, and of this user."""
    names: dict[str, str] = {}
    for host in dict.fromkeys([*hosts, platform.node()]):
        short = host if IP_ADDRESS.fullmatch(host) else host.partition(".")[0]
        number = len(set(names.values())) + 1
        names |= {name: f"machine {number}" for name in (host, short) if name not in (*names, *OWN)}
    home = _home()
    names |= {user: "somebody" for user in sorted(_users(home)) if user not in (*names, *OWN)}
    within = sorted((name for name in names if len(name) >= SHORTEST), key=len, reverse=True)
    word = re.compile(rf"(?<![^\W_])({'|'.join(map(re.escape, within)) or NOTHING})(?![^\W_])")
    own_path = re.compile(rf"(?<![\w.])(?:{re.escape(home) or NOTHING})(?!{PATH_CHARACTER})")

    def clean(text: str) -> str:
        if text in names:
            return names[text]
        text = STORAGE_URL.sub("STORAGE", text)
        text = ABSOLUTE_PATH.sub(_last_part, own_path.sub("/~", text))
        return word.sub(lambda found: names[found[1]], text)

    return clean


def _home() -> str:
    """Returns this user's home folder; nothing where there is none of one user alone, as in containers."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return ""
    return home if os.path.isabs(home) and home != "/" else ""


def _users(home: str) -> set[str]:
    """Returns what this user is called; a container's may have no name."""
    users = {Path(home).name, *(os.environ.get(name, "") for name in ("USER", "LOGNAME"))}
    with suppress(KeyError, OSError):  # from Python 3.13 on an OSError
        users.add(getpass.getuser())
    return users


def _last_part(path: re.Match[str]) -> str:
    return "…" if HOMES.fullmatch(path[1] + path[2]) else f"…/{path[2]}"


def known_hosts(storage: RDBStorage, study: str) -> list[str]:
    """Returns the machines that have worked on a study, and those that other studies of its storage are named by."""
    claims = [row.worker for row in read_rows(storage, study)]
    claims += [study_attributes(storage, name).get(REPEATS) for name in study_names(storage)]
    return list(dict.fromkeys(str(claim["host"]) for claim in claims if isinstance(claim, dict) and "host" in claim))
