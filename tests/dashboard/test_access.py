"""The guard, attacked before a stub of an application."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest

from hpo.dashboard.access import Application, Guard, Policy

SECRET = "a-secret-of-24-characters"
HOST = "127.0.0.1:8080"
POLICY = Policy(token=SECRET, cookie="hpo_8080", hosts=frozenset([HOST, "dashboard.example"]), max_plotted=3)
WRITABLE = Policy(token=SECRET, cookie="hpo_8080", hosts=frozenset([HOST]), writable=True)


class Answer:
    """What came back: status, headers, body."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.sent, self.headers, self.body = int(status.split()[0]), headers, dict(headers), body


def ask(application: Application, path: str = "/", method: str = "GET", query: str = "", **headers: str) -> Answer:
    """Sends a request to a WSGI application; a header's name has underscores."""
    began: list[Any] = []
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8080", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": HOST,
        "HTTP_ACCEPT_ENCODING": "gzip", "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "wsgi.version": (1, 0), "SCRIPT_NAME": "",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }  # fmt: skip

    def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
        began[:] = [status, headers]

    parts = application(environ, start_response)
    body = b"".join(parts)
    if hasattr(parts, "close"):
        parts.close()
    status, answered = began
    return Answer(status, answered, body)


COOKIE = f"hpo_8080={POLICY.cookie_value}"


def known(**headers: str) -> dict[str, str]:
    return {"cookie": COOKIE, **headers}


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*")])
    return [environ["PATH_INFO"].encode()]


GUARD = Guard(echo, POLICY, lambda study: {1: 3, 2: 4}[study])


def test_what_needs_the_storage_is_not_asked_while_it_cannot_be_read() -> None:
    faults = ["storage x cannot be read: it is gone", None]
    guard = Guard(echo, POLICY, lambda _: 0, lambda: faults[0])
    for path in ("/api/studies", "/csv/1", "/artifacts/1/2", "/api/studies/1/plot/contour"):
        answer = ask(guard, path, **known())
        assert (answer.status, answer.body) == (503, b"storage x cannot be read: it is gone\n"), answer
    assert ask(guard, "/api/studies").status == 401
    assert ask(guard, "/dashboard/", **known()).status == 200
    faults.pop(0)
    assert ask(guard, "/api/studies", **known()).status == 200


def test_a_stranger_is_told_of_the_link_and_nothing_else() -> None:
    wrong = ("hpo_8080=wrong", "=;;hpo_8080", f"hpo_8080={SECRET}", COOKIE[:-1], f"hpo_9090={POLICY.cookie_value}")
    for headers in ({}, {"authorization": "Bearer wrong"}, *({"cookie": cookie} for cookie in wrong)):
        answer = ask(GUARD, "/api/studies", **headers)
        assert (answer.status, answer.body) == (401, b"open the link that hpo dashboard has printed\n")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for query in ("token=wrong", "token=", f"token={SECRET}x", f"token={SECRET[:-1]}", f"Token={SECRET}"):
        assert ask(GUARD, "/dashboard/", query=query).status == 401
    assert ask(GUARD, "/dashboard/", method="POST", query=f"token={SECRET}").status == 401
    for odd in (f"Basic {SECRET}", "Bearer", f"Bearer {POLICY.cookie_value}", f"Bearer {SECRET} x"):
        assert ask(GUARD, "/", authorization=odd).status == 401


def test_the_link_gives_a_cookie_that_opens_and_no_page_of_another_site_can_use() -> None:
    answer = ask(GUARD, "/dashboard/studies/1", query=f"token={SECRET}&a=b%26c")
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] == f"{COOKIE}; HttpOnly; SameSite=Strict; Path=/"
    assert b'content="0; url=/dashboard/studies/1?a=b%26c"' in answer.body
    assert SECRET.encode() not in answer.body
    assert ask(GUARD, "/dashboard/studies/1", **known()).body == b"/dashboard/studies/1"
    assert ask(GUARD, "/x", authorization=f"bearer {SECRET}").body == b"/x"
    assert b'url=/"' in ask(GUARD, "", query=f"token={SECRET}").body  # not to itself, for ever


def test_the_cookie_holds_no_token_and_opens_one_dashboard() -> None:
    """A browser sends a host's cookies to each of its ports, and whoever serves there has them."""
    assert SECRET not in COOKIE
    other = Policy(token=SECRET, cookie="hpo_9090", hosts=frozenset([HOST]))
    assert other.cookie_value != POLICY.cookie_value != Policy("x" * 16, "hpo_8080", frozenset([HOST])).cookie_value
    assert ask(Guard(echo, other, lambda _: 0), cookie=f"hpo_9090={POLICY.cookie_value}; {COOKIE}").status == 401


@pytest.mark.parametrize("path", ["//evil.example/", '/"><script>alert(1)</script>', "/\r\nSet-Cookie: a=b"])
def test_the_link_leads_nowhere_else_and_carries_no_markup(path: str) -> None:
    answer = ask(GUARD, path, query=f"token={SECRET}")
    assert b"<script" not in answer.body
    assert b"url=//" not in answer.body
    assert not any("\n" in value or "\r" in value for value in answer.headers.values())


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:8081", "127.0.0.1", "127.0.0.1:8080.evil.example", ""])
def test_another_name_is_not_answered_even_with_the_token(host: str) -> None:
    assert ask(GUARD, **known(host=host)).status == 421
    assert ask(GUARD, **known(host="DASHBOARD.example")).status == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:8081", "http://127.0.0.1:8080@evil.example", "http://[::1"],
)
def test_a_page_of_another_site_is_refused(origin: str) -> None:
    assert ask(GUARD, **known(origin=origin)).status == 403
    assert ask(GUARD, **known(origin=f"http://{HOST}")).status == 200


ODD_PATHS = [
    "//", "/api//studies", "/api/studies//", "/./api", "/api/..", "/x/../api/studies", "/.", "/api/studies;v=1",
    "/api/%73tudies", "/api\\studies", "/a b", "/a\tb", "/a\nb", "/a\0b", "/\xffartifacts/1/abc", "api/studies", "*", "http://127.0.0.1:8080/",
    "/api/studies/02", "/api/studies/00", "/api/studies/-02", "/api/studies/+2", "/api/studies/1000000000000000000",
    "/api/studies/" + "9" * 5000, "/api/studies/\xd9\xa2",
]  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
def test_a_path_that_others_may_read_otherwise_is_refused(path: str) -> None:
    for shown in ({}, known()):
        assert ask(GUARD, path, **shown).status == 404
        assert ask(GUARD, path, query=f"token={SECRET}", **shown).status == 404


def test_a_browsers_other_cookies_do_not_matter() -> None:
    for other in (
        'prefs={"a": 1}',
        "x=a b",
        "theme",
        "n=\xe9",
        "foo/bar=1",
        "a[b]=1",
        "hpo_8080x=1",
        "hpo_8080=planted",
    ):
        assert ask(GUARD, "/x", cookie=f"{other}; {COOKIE}; {other}").status == 200


def test_asking_for_the_head_gets_no_body() -> None:
    answer = ask(GUARD, method="HEAD")
    assert (answer.status, answer.body) == (401, b"")
    assert int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_only_reading_gets_through_unless_writing_was_asked_for(method: str) -> None:
    refused = ask(GUARD, "/api/studies/1", method=method, **known())
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert ask(Guard(echo, WRITABLE, lambda _: 0), "/api/studies/1", method=method, **known()).status == 200


@pytest.mark.parametrize("plot", ["contour", "rank"])
def test_a_plot_of_a_large_study_is_refused_however_its_path_is_written(plot: str) -> None:
    for end in ("", "/"):
        assert ask(GUARD, f"/api/studies/1/plot/{plot}{end}", **known()).status == 200
        for method in ("GET", "HEAD"):
            assert ask(GUARD, f"/api/studies/2/plot/{plot}{end}", method=method, **known()).status == 403
    refused = ask(GUARD, f"/api/studies/2/plot/{plot}", **known())
    assert refused.body == f"a {plot} plot takes at most 3 trials; this study has 4\n".encode()
    for study in (
        "02",
        "0000000000000000002",
        "-2",
        "+2",
        "2.0",
        "2e0",
        " 2",
        "2/x",
        "x",
        "9" * 30,
        "\xd9\xa2",
        "2;",
        "%32",
    ):
        assert ask(GUARD, f"/api/studies/{study}/plot/{plot}", **known()).status == 404
    for path in (
        f"/api/studies/{plot}",
        f"/api/studies/2/{plot}",
        f"/api/studies/2/plot/x/{plot}",
        f"/api/studies/2/plot//{plot}",
    ):
        assert ask(GUARD, path, **known()).status == 404
    assert ask(GUARD, "/api/studies/2/plot/slice", **known()).status == 200


@pytest.mark.parametrize(
    "path", ["/api/trials/1/tell", "/api/trials/1/tell/", "/api/trials/-1/tell", "/api/trials/x/y/tell"]
)
def test_a_trials_result_cannot_be_told_however_the_path_is_written(path: str) -> None:
    writable = Guard(echo, WRITABLE, lambda _: 0)
    for method in ("POST", "PUT", "GET"):
        assert ask(writable, path, method=method, **known()).status == 403
    for odd in (
        "/api/trials/01/tell",
        "/api//trials/1/tell",
        "/api/trials/1/./tell",
        "/api/trials/1/tell;",
        "/api/trials/1/tell//",
    ):
        assert ask(writable, odd, method="POST", **known()).status == 404


def test_nothing_of_a_study_is_kept_by_a_browser() -> None:
    for path in (
        "/",
        "/dashboard/",
        "/api/studies",
        "/csv/1",
        "/artifacts/1/abc",
        "/favicon.ico",
        "/api/static/x",
        "/a/static",
    ):
        assert ask(GUARD, path, **known()).headers["Cache-Control"] == "no-store"
        assert ask(GUARD, path).headers["Cache-Control"] == "no-store"
        assert ask(GUARD, path, query=f"token={SECRET}").headers["Cache-Control"] == "no-store"
    assert ask(GUARD, "/static/bundle.js", **known()).headers["Cache-Control"] == "private, no-cache"


def test_a_file_is_no_page_of_this_origin() -> None:
    answer = ask(GUARD, "/artifacts/1/abc", **known())
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "Content-Disposition" not in ask(GUARD, "/dashboard/", **known()).headers
