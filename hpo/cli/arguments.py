"""The kinds of values that options take: numbers, files and folders, each said in one line where it is none."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

LONGEST_VALUE = 40  # characters of it that a message shows


class _Kind(click.ParamType[float]):
    """A number between two limits."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def _refuse(self, given: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        shown = given if len(given) <= LONGEST_VALUE else f"{given[:LONGEST_VALUE]}…"
        self.fail(f"it must be a {self.name} from {self.least:g} to {self.most:.12g}, but is {shown!r}", param, ctx)


class WholeNumber(_Kind):
    """A whole number between two limits, in digits alone: Python would take `1_0` and other scripts' digits too."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the number."""
        number = value if isinstance(value, int) else int(value) if re.fullmatch(r"[0-9]{1,18}", value) else -1
        if not self.least <= number <= self.most:
            self._refuse(str(value), param, ctx)
        return number


class Number(_Kind):
    """A number between two limits, as in 0.1 or 1e-4."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number."""
        is_one = isinstance(value, float) or re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value)
        number = float(value) if is_one else math.nan
        if not self.least <= number <= self.most:
            self._refuse(str(value), param, ctx)
        return number


class StudyName(click.ParamType[str]):
    """A study's name, or its file; the name is that of a file in the working folder, where one has it."""

    name = "study"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name, or the file's path."""
        file = Path(f"{value}.toml")
        if value.endswith(".toml") or not value or not file.is_file():
            return str(value)
        from hpo.study.catalog import shipped

        if (shipped("studies") / file.name).is_file():
            self.fail(f"{file} has the name of a study of hpo's own; give the file as {file}, or rename it", param, ctx)
        return str(file)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Returns the studies that begin so: those that are known by name, and the files of the working folder."""
        from hpo.study.catalog import studies

        names = sorted({*studies(), *(file.stem for file in Path().glob("*.toml"))})
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_first(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes the study that is the first of several words; with `--study` they are configurations."""
    is_named = ctx.params.get(param.name or "") or ctx.params.get("study")
    return [] if is_named else StudyName().shell_complete(ctx, param, incomplete)


class Host(click.ParamType[str]):
    """What a machine is called, or its address."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the text."""
        if not value.strip():
            self.fail("it must name a host, but is empty", param, ctx)
        return str(value)


class _Place(click.Path):
    """A path; what is empty names none, where pathlib would take the working folder."""

    kind = ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path."""
        if value == "":
            self.fail(f"it must name a {self.kind}, but is empty", param, ctx)
        return super().convert(value, param, ctx)


class Folder(_Place):
    """A folder's path; there need not be one yet."""

    kind = "folder"

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)


class File(_Place):
    """A file's path; there need not be one yet."""

    kind = "file"

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path."""
        if isinstance(value, str) and value.endswith("/"):
            self.fail(f"it must name a file, but {value!r} is a folder", param, ctx)
        return super().convert(value, param, ctx)
