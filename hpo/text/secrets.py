"""Secrets: read from files, remembered, and kept out of every text.

Passwords stand in many places of what libpq and SQLAlchemy take: `USER:PASSWORD@`, often with an `@` or a `/` that
should be written `%40` or `%2F`; the query, under several keys; libpq's own `password=…`. Too much is hidden rather
than too little: of a query only what is known to be harmless is shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote_plus

from hpo.errors import RequestError
from hpo.text.files import NotUtf8, read_text

HIDDEN = "***"
SECRET_VARIABLES = ("PGPASSWORD", "HPO_DASHBOARD_TOKEN")
SECRET_KEY = re.compile(r"(pass(word|wd|phrase|code)?|pwd|secret|scram_(client|server)_key)$", re.IGNORECASE)
SECRET_KEYS = {"password", "passwd", "sslpassword", "pgpassword"}
HARMLESS_KEYS = {
    # libpq's
    *("host", "hostaddr", "port", "dbname", "user", "service", "passfile", "connect_timeout", "application_name"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslnegotiation", "channel_binding", "gssencmode"),
    *("target_session_attrs", "load_balance_hosts", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "tcp_user_timeout", "client_encoding", "options", "fallback_application_name", "sslsni"),
    *("sslcompression", "sslcertmode", "sslcrldir", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("requirepeer", "require_auth", "krbsrvname", "gsslib", "gssdelegation", "replication"),
    # SQLite's
    *("timeout", "mode", "uri", "cache", "immutable", "nolock", "vfs", "psow", "check_same_thread"),
    *("isolation_level", "cached_statements"),
}
FEWEST = 4  # characters of a secret that is looked for in other texts: shorter ones stand in every sentence
PIECES = re.compile(r"[^\s&;]+")
COLON = re.compile(":|%3A", re.IGNORECASE)
PORT_THAT_IS_NONE = re.compile(r"[^/?#\[]*:(?!\d*(,|/|\?|$))")
_URL_IN_TEXT = re.compile(r"(?<!\w)(?!sqlite:///)(\w[\w+.-]*://[^\s:]*:)\S*@", re.IGNORECASE)
_KEY_IN_TEXT = re.compile(r"""([\w%+-]+)["']?\s*[=:]\s*""")
_VALUE_IN_TEXT = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^\s&]*[^\s&'"]""", re.DOTALL)
_remembered: set[str] = set()


def read_secret(file: str | Path, what: str) -> str:
    """Returns what a file holds alone, without blanks around it.

    Args:
        what: it is, for people.

    Raises:
        RequestError: where the file cannot be read or is empty.
    """
    try:
        held = read_text(Path(file)).strip()
    except (OSError, NotUtf8) as error:
        raise RequestError(f"{what} cannot be read from {file}: {error}") from error
    if not held:
        raise RequestError(f"{file} is empty; it is to hold {what}")
    return held


def show_url(url: str) -> str:
    """Returns a storage's URL, or libpq's `key=value` form of one, without what is or may be secret."""
    return _without(url, _hidden(url))


def remember_secrets(url: str) -> None:
    """Takes note of what is secret in a URL, so that `without_secrets` finds it in any text, as a driver's message."""
    spans = list(_hidden(url))
    for first, last in spans + _merged(spans):
        remember(url[first:last])


def remember(secret: str) -> None:
    """Takes note of a secret, so that `without_secrets` finds it in any text, written otherwise or in part too."""
    for text in (secret, unquote_plus(secret), repr(secret)[1:-1]):
        pieces = {text, *re.split(r"""[\s@/?#:&=;,'"\\]+""", text)}
        _remembered.update(piece for piece in pieces if len(piece) >= FEWEST and piece not in HARMLESS_KEYS)


def without_secrets(text: str) -> str:
    """Returns a text without passwords: those of URLs in it, of `password=…`, and those that were remembered."""
    known = _remembered | {os.environ.get(name, "") for name in SECRET_VARIABLES}
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= FEWEST and secret in text:
            text = re.sub(rf"(?:(?<!\w)|(?<=%[\da-fA-F]{{2}})){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = _URL_IN_TEXT.sub(rf"\1{HIDDEN}@", text)
    return _without(text, _secret_values(text))


def _hidden(url: str) -> Iterator[tuple[int, int]]:
    """Yields where something stands that is or may be secret, from a place to before another."""
    scheme, found, rest = url.partition("://")
    is_file = scheme.lower().startswith("sqlite") and rest.startswith("/")
    start = len(scheme) + 3 if found else 0
    if not is_file:
        yield from _password(url, start)
    yield from _secret_values(url)
    query = url.find("?", start) + 1 if found else 0
    if query or _is_conninfo(url):
        for piece in PIECES.finditer(url, query):
            key, equals, _ = piece[0].partition("=")
            if not equals or unquote_plus(key).lower() not in HARMLESS_KEYS:
                is_shown = equals and unquote_plus(key).lower() in SECRET_KEYS  # another's may be half a password
                yield piece.start() + (len(key) + 1 if is_shown else 0), piece.end()


def _secret_values(text: str) -> Iterator[tuple[int, int]]:
    """Yields where the values of `password=…` and its like stand."""
    for key in _KEY_IN_TEXT.finditer(text):
        if _is_secret(key[1]) and (value := _VALUE_IN_TEXT.match(text, key.end())):
            yield value.span()


def _password(url: str, start: int) -> Iterator[tuple[int, int]]:
    """Yields where `:PASSWORD@` stands: up to the last `@`, for the password's own may be written as they are."""
    at = url.rfind("@", start)
    if start and at > 0 and PORT_THAT_IS_NONE.match(url, at + 1):  # `USER@HOST:PASSWORD`
        yield url.index(":", at + 1) + 1, len(url)
    if at < 0 and start and PORT_THAT_IS_NONE.match(url, start):  # a password whose `@` is left out, or is `%40`
        at = len(url)
    if colon := COLON.search(url, start, max(at, start)):
        yield colon.end(), at


def _is_conninfo(text: str) -> bool:
    return "://" not in text and any(_is_key(key) for key in re.findall(r"([\w%]+)\s*=", text))


def _is_key(text: str) -> bool:
    return text.lower() in HARMLESS_KEYS or _is_secret(text)


def _is_secret(key: str) -> bool:
    return SECRET_KEY.search(unquote_plus(key).strip()) is not None


def _without(text: str, spans: Iterator[tuple[int, int]]) -> str:
    shown, end = "", 0
    for first, last in _merged(spans):
        shown += text[end:first] + HIDDEN
        end = last
    return shown + text[end:]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(span for span in spans if span[0] < span[1]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
