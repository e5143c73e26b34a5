"""Commands of this program as texts that can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from hpo.text.escaping import is_printable
from hpo.text.secrets import show_url


def command(*words: str) -> str:
    """Returns `hpo` with these words, quoted where a shell needs it; a study stands by its name alone where it can."""
    if words[1:2] == ("--study",) and not words[2].startswith("-"):
        words = (words[0], *words[2:])
    return _quoted(words)


def command_here(*words: str) -> str:
    """Returns a command for the storage that this one was given, where another would not find it by itself.

    A worker process has the arguments of its parent.
    """
    return command(*words, *_storage_options(sys.argv))


def this_command(*more: str) -> str:
    """Returns the command that is running, without passwords, and what it needs besides."""
    return _quoted([*map(_without_password, sys.argv[1:]), *more])


def _quoted(words: Iterable[str]) -> str:
    return " ".join(["hpo", *map(quote, words)])


def quote(word: str) -> str:
    r"""Returns a word as a shell takes it; one with characters that are not shown as in `$'two\x0alines'`.

    So is one with a backtick, for commands stand between backticks in texts.
    """
    if is_printable(word) and "`" not in word:
        return shlex.quote(word)
    shown = "".join(c if is_printable(c) and c not in "\\'`" else _bytes(c) for c in word)
    return f"$'{shown}'"


def _bytes(character: str) -> str:
    was_byte = "\udc80" <= character <= "\udcff"
    encoded = character.encode("utf-8", "surrogateescape" if was_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in encoded)


def _without_password(word: str) -> str:
    return show_url(word) if re.search(r"://|@|=", word) else word


def _storage_options(argv: list[str]) -> list[str]:
    program = Path(argv[0])
    if program.name != "hpo" and program.parts[-2:] != ("hpo", "__main__.py"):  # another, with this one as a library
        return []
    found: list[str] = []
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option in ("--storage", "--storage-file"):
            given = value if equals else after
            found = [option, show_url(given) if option == "--storage" else given]
    return found
