"""The guard, attacked: before a stub of an application, and before optuna-dashboard itself."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

from hpo.dashboard import TOKEN, choose_token, is_loopback
from hpo.errors import RequestError
from hpo.guard import Application, Guard, Policy
from hpo.records import count_trials_of

SECRET = "a-secret-of-24-characters"
HOST = "127.0.0.1:8080"
POLICY = Policy(token=SECRET, cookie="hpo_8080", hosts=frozenset([HOST, "dashboard.example"]), max_plotted=3)
WRITABLE = Policy(token=SECRET, cookie="hpo_8080", hosts=frozenset([HOST]), writable=True)


class Answer:
    """What came back: status, headers, body."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = int(status.split()[0]), dict(headers), body


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


def known(**headers: str) -> dict[str, str]:
    return {"cookie": f"hpo_8080={SECRET}", **headers}


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*")])
    return [environ["PATH_INFO"].encode()]


GUARD = Guard(echo, POLICY, lambda study: {1: 3, 2: 4}[study])


def test_a_stranger_is_told_of_the_link_and_nothing_else() -> None:
    for headers in ({}, {"cookie": "hpo_8080=wrong"}, {"authorization": "Bearer wrong"}, {"cookie": "=;;hpo_8080"}):
        answer = ask(GUARD, "/api/studies", **headers)
        assert (answer.status, answer.body) == (401, b"open the link that hpo dashboard has printed\n")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for query in ("token=wrong", "token=", f"token={SECRET}x", f"token={SECRET[:-1]}", f"Token={SECRET}"):
        assert ask(GUARD, "/dashboard/", query=query).status == 401
    assert ask(GUARD, "/dashboard/", method="POST", query=f"token={SECRET}").status == 401
    assert ask(GUARD, "/", cookie=f"hpo_9090={SECRET}").status == 401  # another dashboard's cookie


def test_the_link_gives_a_cookie_that_opens_and_no_page_of_another_site_can_use() -> None:
    answer = ask(GUARD, "/dashboard/studies/1", query=f"token={SECRET}&a=b%26c")
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] == f"hpo_8080={SECRET}; HttpOnly; SameSite=Strict; Path=/"
    assert b'content="0; url=/dashboard/studies/1?a=b%26c"' in answer.body
    assert SECRET.encode() not in answer.body
    assert ask(GUARD, "/dashboard/studies/1", **known()).body == b"/dashboard/studies/1"
    assert ask(GUARD, "/x", authorization=f"bearer {SECRET}").body == b"/x"


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


@pytest.mark.parametrize(
    "path",
    [
        "/api/studies/2/plot/\xffcontour",
        "/api/studies/\xd9\xa2/plot/contour",
        "/\xffartifacts/1/abc",
        "/api/studies/2/plot/contour\xa0",
    ],
)
def test_a_path_that_others_may_read_otherwise_is_refused(path: str) -> None:
    assert ask(GUARD, path, **known()).status == 404


def test_a_browsers_other_cookies_do_not_matter() -> None:
    for other in ('prefs={"a": 1}', "x=a b", "theme", "n=\xe9", "foo/bar=1", "a[b]=1", "hpo_8080x=1"):
        assert ask(GUARD, "/x", cookie=f"{other}; hpo_8080={SECRET}; {other}").status == 200


def test_asking_for_the_head_gets_no_body() -> None:
    answer = ask(GUARD, method="HEAD")
    assert (answer.status, answer.body) == (401, b"")
    assert int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_only_reading_gets_through_unless_writing_was_asked_for(method: str) -> None:
    assert ask(GUARD, "/api/studies/1", method=method, **known()).status == 405
    assert ask(Guard(echo, WRITABLE, lambda _: 0), "/api/studies/1", method=method, **known()).status == 200


def test_plots_of_large_studies_are_refused() -> None:
    for plot in ("contour", "rank", "contour/", "rank//"):
        assert ask(GUARD, f"/api/studies/1/plot/{plot}", **known()).status == 200
        refused = ask(GUARD, f"/api/studies/2/plot/{plot}", **known())
        plot = plot.rstrip("/")
        assert refused.status == 403
        assert refused.body == f"a {plot} plot takes at most 3 trials; this study has 4\n".encode()
    assert ask(GUARD, "/api/studies/2/plot/slice", **known()).status == 200


def test_a_file_is_no_page_of_this_origin() -> None:
    answer = ask(GUARD, "/artifacts/1/abc", **known())
    assert answer.headers["Content-Disposition"] == "attachment"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "Content-Disposition" not in ask(GUARD, "/dashboard/", **known()).headers


@pytest.fixture
def real(tmp_path: Path) -> tuple[Guard, RDBStorage, str]:
    """The dashboard itself with a study of one trial and an HTML file attached to it, for reading."""
    storage = RDBStorage(f"sqlite:///{tmp_path}/real.db")
    study = optuna.create_study(storage=storage, study_name="real")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    (tmp_path / "evil.html").write_text("<script>alert(document.cookie)</script>")
    (tmp_path / "store").mkdir()
    store = FileSystemArtifactStore(tmp_path / "store")
    artifact = upload_artifact(artifact_store=store, file_path=str(tmp_path / "evil.html"), study_or_trial=study)
    guard = Guard(wsgi(storage, artifact_store=store), POLICY, partial(count_trials_of, storage))
    return guard, storage, artifact


def test_the_real_dashboard_behind_the_guard(real: tuple[Guard, RDBStorage, str]) -> None:
    guard, storage, artifact = real
    assert ask(guard, "/api/studies").status == 401
    assert b"real" in ask(guard, "/api/studies", **known()).body
    assert ask(guard, "/api/studies/1", method="DELETE", **known()).status == 405
    assert ask(guard, "/api/studies/1", method="DELETE").status == 401
    assert [study.study_name for study in storage.get_all_studies()] == ["real"]
    page = ask(guard, f"/artifacts/1/{artifact}", **known())
    assert (page.status, page.headers["Content-Disposition"]) == (200, "attachment")
    assert page.headers["Content-Security-Policy"].startswith("sandbox")
    for path in ("/static/../../../../etc/passwd", "/static/..%2f..%2fetc/passwd", "/artifacts/1/../../etc/passwd"):
        answer = ask(guard, path, **known())
        assert answer.status in (403, 404), (path, answer.body)
        assert b"root:" not in answer.body
    for _ in range(3):
        storage.create_new_trial(1)
    assert ask(guard, "/api/studies/1/plot/contour", **known()).status == 403
    assert ask(guard, "/api/studies/9/plot/contour", **known()).status != 403  # there is none: the dashboard says so


def test_writing_reaches_the_real_dashboard_where_it_was_asked_for(real: tuple[Guard, RDBStorage, str]) -> None:
    _, storage, _ = real
    writable = Guard(wsgi(storage), WRITABLE, partial(count_trials_of, storage))
    assert ask(writable, "/api/trials/1/tell", method="POST", **known()).status == 403  # results are workers'
    assert ask(writable, "/api/studies/1", method="DELETE", **known(origin="http://evil.example")).status == 403
    assert ask(writable, "/api/studies/1", method="DELETE", **known()).status == 204
    assert storage.get_all_studies() == []


def test_other_machines_need_a_token_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.evil.example"):
        with pytest.raises(RequestError, match=f"set {TOKEN}"):
            choose_token(host)
    assert choose_token("127.0.0.1") is None
    for unusable in (
        "short",
        "with+plus+and/slash==",
        "sixteen letters; and",
        "trailing-newline-here\n",
        "zuf\xe4llig-genug-lang",
    ):
        monkeypatch.setenv(TOKEN, unusable)
        with pytest.raises(RequestError, match="must be 16 or more letters, digits") as caught:
            choose_token("127.0.0.1")
        assert unusable not in str(caught.value)
    monkeypatch.setenv(TOKEN, SECRET)
    assert choose_token("0.0.0.0") == SECRET
