"""A guard before a web application that has none: who may see it, from where, and what may be done with it.

optuna-dashboard by itself has no login, answers to any Host (so a page on the web can reach it through DNS that points
at 127.0.0.1), deletes studies for whoever asks, serves uploaded files as pages of its own, and computes plots of any
size. docs/security.md lists each of these and what is done about it; tests attack every one.

Plain WSGI (PEP 3333), and nothing of Optuna: the application behind it may be another.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Headers = list[tuple[str, str]]

READING = ("GET", "HEAD")
FILES = ("", "dashboard", "static", "favicon.ico")  # what is served without a look at the storage
PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",  # a file is what it says, not what a browser guesses
    "X-Frame-Options": "DENY",  # no other page lays itself over this one
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
AREAS: Mapping[str, Mapping[str, str]] = {  # more of them, by a path's first segment
    "artifacts": {  # uploaded files: never a page of this origin
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": "attachment",
    },
    "static": {"Cache-Control": "private, no-cache"},  # the program's own: kept, and asked for whether it is still so
}
Refusal = tuple[HTTPStatus, str]
NO_PAGE: Refusal = HTTPStatus.NOT_FOUND, "no page of this dashboard has such a name"


@dataclass(frozen=True)
class Policy:
    """What the guard lets through.

    Attributes:
        token: the secret that a reader shows, once in a link, or as `Authorization: Bearer`. Of letters, digits and
            `._~-` alone, which links take as they are.
        cookie: the cookie's name. Ports share cookies, so each dashboard on a host needs its own.
        hosts: the values of the Host header that are answered, lower case, with the port where it is not the usual.
        writable: whether methods other than GET and HEAD get through.
        max_plotted: a study with more trials gets no contour and no rank plot: with 5 000 they are gigabytes.
    """

    token: str
    cookie: str
    hosts: frozenset[str]
    writable: bool = False
    max_plotted: int = 1000

    @property
    def cookie_value(self) -> str:
        """What the cookie holds in the token's place.

        A browser sends a host's cookies to each of its ports, so another program there may read this one.
        """
        return hmac.new(self.token.encode(), self.cookie.encode(), "sha256").hexdigest()


class Guard:
    """The application, guarded.

    Args:
        count_trials: tells the number of trials of a study by its id; 0 for one that is not there.
        read_fault: says why nothing can be read at this moment, if it cannot.
    """

    def __init__(
        self,
        application: Application,
        policy: Policy,
        count_trials: Callable[[int], int],
        read_fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._application, self._policy = application, policy
        self._count_trials, self._read_fault = count_trials, read_fault

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request, or passes it on."""
        segments = split_path(environ["PATH_INFO"])
        if segments is None:
            return _answer(environ, start_response, *NO_PAGE)
        refusal = self._refuse_stranger(environ)
        if refusal:
            return _answer(environ, start_response, *refusal)
        if not self.knows(environ):
            return self._greet(environ, start_response)
        if segments[0] not in FILES and (fault := self._read_fault()):
            return _answer(environ, start_response, HTTPStatus.SERVICE_UNAVAILABLE, fault)
        refusal = self._refuse_deed(environ["REQUEST_METHOD"], segments)
        if refusal:
            return _answer(environ, start_response, *refusal)
        return self._application(environ, _with_headers(start_response, segments[0]))

    def knows(self, environ: Environ) -> bool:
        """Says whether a request shows the token, or the cookie; reads its headers alone."""
        scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer":
            return _same(credentials.strip(), self._policy.token)
        # By hand: http.cookies gives up at the first cookie that it cannot read, and other programs on this host set
        # some. One of them may be of the same name, for a part of our paths.
        pairs = (part.strip().partition("=") for part in environ.get("HTTP_COOKIE", "").split(";"))
        shown = [value for name, _, value in pairs if name == self._policy.cookie]
        return any(_same(value, self._policy.cookie_value) for value in shown)

    def _refuse_stranger(self, environ: Environ) -> Refusal | None:
        """Refuses a request under a foreign name, and one that another site's page has made."""
        if environ.get("HTTP_HOST", "").lower() not in self._policy.hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "this dashboard is not known by that name; --allow-host adds one"
        origin = environ.get("HTTP_ORIGIN")
        ours = {f"{scheme}://{host}" for host in self._policy.hosts for scheme in ("http", "https")}
        if origin is not None and origin.lower() not in ours:
            return HTTPStatus.FORBIDDEN, "a page of another site may not use this dashboard"
        return None

    def _refuse_deed(self, method: str, segments: Sequence[str]) -> Refusal | None:
        """Refuses writing where reading was agreed, and plots that would not end."""
        if method not in READING and not self._policy.writable:
            return HTTPStatus.METHOD_NOT_ALLOWED, "this dashboard is for reading; hpo dashboard --writable is for more"
        match segments:
            case ["api", "trials", *_, "tell"]:
                return HTTPStatus.FORBIDDEN, "a trial's result comes from its worker"
            case ["api", "studies", study, "plot", ("contour" | "rank") as plot] if NUMBER.fullmatch(study):
                return self._refuse_large(int(study), plot)
            case ["api", "studies", *_, "contour" | "rank"]:
                return NO_PAGE
        return None

    def _refuse_large(self, study: int, plot: str) -> Refusal | None:
        trials, most = self._count_trials(study), self._policy.max_plotted
        if trials > most:
            return HTTPStatus.FORBIDDEN, f"a {plot} plot takes at most {most} trials; this study has {trials}"
        return None

    def _greet(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Lets in who comes by the link, and tells everybody else that there is one."""
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if environ["REQUEST_METHOD"] != "GET" or not _same(dict(query).get("token", ""), self._policy.token):
            message = "open the link that hpo dashboard has printed"
            return _answer(environ, start_response, HTTPStatus.UNAUTHORIZED, message)
        rest = urlencode([(key, value) for key, value in query if key != "token"])
        place = (environ["PATH_INFO"] or "/") + (f"?{rest}" if rest else "")
        cookie = f"{self._policy.cookie}={self._policy.cookie_value}; HttpOnly; SameSite=Strict; Path=/"
        # A page rather than a redirection: a browser that came from another site would not show a Strict cookie along
        # the way, and a page of our own leads on as our own.
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(place)}"><title>hpo</title>'
        body = page.encode()
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Set-Cookie", cookie)]
        start_response("200 OK", [*headers, ("Content-Length", str(len(body))), *HEADERS.items()])
        return [body]


def split_path(path: str) -> list[str] | None:
    """Returns a path's segments, or None where others could read the path otherwise than these rules do.

    Read alike by everybody are plain ASCII letters, digits and `._~-` between single slashes, no segment of dots that
    leads up, and numbers in their shortest form, of 18 digits at most. A slash at the end says nothing.
    """
    if not PATH.fullmatch(path):
        return None
    segments = path.strip("/").split("/")
    numbers = (segment.lstrip("-") for segment in segments if re.fullmatch(r"-*[0-9]+", segment))
    if {".", ".."} & {*segments} or not all(map(NUMBER.fullmatch, numbers)):
        return None
    return segments


def _same(shown: str, secret: str) -> bool:
    return hmac.compare_digest(shown.encode(), secret.encode())


def _with_headers(start_response: StartResponse, area: str) -> StartResponse:
    """Adds the guard's headers to an answer, in the place of the application's of the same name."""
    added = {**HEADERS, **AREAS.get(area, {})}
    dropped = {name.lower() for name in (*added, "Access-Control-Allow-Origin", "Server")}

    def start(status: str, headers: Headers, *error: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        return start_response(status, [*kept, *added.items()], *error)

    return start


def _answer(environ: Environ, start_response: StartResponse, status: HTTPStatus, message: str) -> Iterable[bytes]:
    body = f"{message}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *HEADERS.items()]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", 'Bearer realm="hpo dashboard"'))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", ", ".join(READING)))
    start_response(f"{status.value} {status.phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
