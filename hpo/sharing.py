"""What is given to others, without what tells of the machines and people it comes from.

Host names become `machine 1`, `machine 2` …; user names, paths beyond their last part and storages' URLs go. Of labels,
titles and names only these are changed: who writes a name into a study's title has to look for it.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from optuna.storages import RDBStorage

from . import records
from .drift import REPEATS
from .report import Report, Section
from .results import read_rows

STORAGE_URL = re.compile(r"\b(sqlite|postgres(ql)?)(\+\w+)?://[^\s'\"`<>]*", re.IGNORECASE)
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/…~])(?:/[^\s/'\"`<>:,;()]+)+/([^\s/'\"`<>:,;()]*)")
HOMES = re.compile(r"/(home|Users)/[^/]+")
SHORTEST = 2  # characters of a name that is looked for within a text
OWN = {"hpo", "localhost", ""}  # no secrets, and found in every text

Clean = Callable[[str], str]


def cleaner(hosts: Iterable[str]) -> Clean:
    """Returns a function that takes out of a text what tells of these machines, of this one, and of this user."""
    names: dict[str, str] = {}
    for host in dict.fromkeys([*hosts, platform.node()]):
        number = len(set(names.values())) + 1
        names |= {name: f"machine {number}" for name in (host, host.partition(".")[0]) if name not in (*names, *OWN)}
    users = {getpass.getuser(), Path.home().name, *(os.environ.get(name, "") for name in ("USER", "LOGNAME"))}
    names |= {user: "somebody" for user in sorted(users) if user not in (*names, *OWN)}
    within = sorted((name for name in names if len(name) >= SHORTEST), key=len, reverse=True)
    word = re.compile(rf"(?<![^\W_])({'|'.join(map(re.escape, within)) or '(?!)'})(?![^\W_])")

    def clean(text: str) -> str:
        if text in names:
            return names[text]
        text = STORAGE_URL.sub("STORAGE", text)
        text = ABSOLUTE_PATH.sub(_last_part, text.replace(str(Path.home()), "/~"))
        return word.sub(lambda found: names[found[1]], text)

    return clean


def _last_part(path: re.Match[str]) -> str:
    return "…" if HOMES.fullmatch(path[0]) else f"…/{path[1]}"


def known_hosts(storage: RDBStorage, study: str) -> list[str]:
    """Returns the machines that have worked on a study, and those that other studies of its storage are named by."""
    claims = [row.worker for row in read_rows(storage, study)]
    claims += [records.study_attributes(storage, name).get(REPEATS) for name in records.study_names(storage)]
    return list(dict.fromkeys(str(claim["host"]) for claim in claims if isinstance(claim, dict) and "host" in claim))


def clean_value(value: Any, clean: Clean) -> Any:
    """Returns what JSON holds with all of its texts cleaned; keys stay."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: clean_value(item, clean) for key, item in value.items()}
    return [clean_value(item, clean) for item in value] if isinstance(value, list | tuple) else value


def clean_report(report: Report, clean: Clean) -> Report:
    """Returns a report with all of its texts cleaned, the figures' too."""
    sections = [_clean_section(section, clean) for section in report.sections]
    return Report(clean(report.study), clean(report.title), clean_value(report.headline, clean), sections)


def _clean_section(section: Section, clean: Clean) -> Section:
    figure = section.figure and go.Figure(clean_value(json.loads(section.figure.to_json()), clean))
    texts = {name: clean_value(getattr(section, name), clean) for name in ("title", "text", "table")}
    return replace(section, figure=figure, **texts)
