"""What holds of the guard whatever is sent: requests of Hypothesis, before a stub and before optuna-dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import optuna
import optuna_dashboard._app as dashboard
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from optuna.storages import RDBStorage

from hpo.guard import HEADERS, Environ, Guard, StartResponse
from hpo.records import count_trials_of

from .conftest import thorough
from .test_guard import COOKIE, HOST, POLICY, SECRET, Answer, ask

ATTACK = thorough(400)
LATIN = some.text(some.characters(codec="latin-1"), max_size=30)  # all that a WSGI server can say
WORDS = ["api", "studies", "trials", "plot", "contour", "rank", "tell", "artifacts", "static", "dashboard", "..", "."]
NUMBERS = ["1", "2", "02", "0000000000000000002", "-2", "+2", "2.0", "9" * 25, "%D9%A2", "%32", "2%20", "2;v=1", "２"]
segments = some.one_of(some.sampled_from(WORDS), some.sampled_from(NUMBERS), LATIN)
separators = some.one_of(some.just("/"), some.just("/"), some.sampled_from(["//", "/./", "%2f", "\\", ";", "/x/../"]))
ends = some.sampled_from(["", "", "/", "//", ";x", "%20", "%00"])
methods = some.one_of(some.sampled_from(["GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "get"]), LATIN)
secrets = some.sampled_from([SECRET, POLICY.cookie_value, SECRET[:-1], SECRET[1:], SECRET.upper(), SECRET + "x", ""])
texts = some.one_of(secrets, LATIN)
headers = some.fixed_dictionaries(
    {},
    optional={
        "AUTHORIZATION": some.one_of(secrets.map("Bearer {}".format), secrets.map("basic {}".format), LATIN),
        "COOKIE": some.lists(some.one_of(texts.map("hpo_8080={}".format), texts.map("x={}".format), LATIN)).map(
            ";".join
        ),
        "ORIGIN": some.sampled_from(["null", f"http://{HOST}", f"http://{HOST}.evil.example", ""]),
        "HOST": some.one_of(some.sampled_from([HOST, HOST, f"{HOST}, {HOST}", "127.0.0.1"]), LATIN),
        "X_FORWARDED_HOST": LATIN,
        "X_HTTP_METHOD_OVERRIDE": methods,
    },
)
queries = some.one_of(LATIN, texts.map("token={}".format), texts.map("token=x&a=%0d%0a&token={}".format))


def joined(parts: list[tuple[str, str]], end: str) -> str:
    """A path as a server hands it on: without its percents."""
    raw = "".join(separator + segment for separator, segment in parts) + end
    return unquote_to_bytes(raw.encode("utf-8")).decode("latin-1")


@some.composite
def plots(draw: some.DrawFn) -> str:
    """The path of a plot, in one way or another."""
    study = draw(some.one_of(some.just("2"), some.sampled_from(NUMBERS)))
    words = ["api", "studies", study, "plot", draw(some.sampled_from(["contour", "rank"]))]
    return joined([(draw(separators), word) for word in words], draw(ends))


paths = some.one_of(
    some.sampled_from(
        ["/", "/dashboard/", "/api/studies/2", "/static/bundle.js", "/artifacts/1/abc", "/api/trials/1/tell"]
    ),
    some.builds(joined, some.lists(some.tuples(separators, segments), max_size=7), ends),
    plots(),
)


class Reached:
    """An application that keeps what reaches it, and answers with headers that it should not send."""

    def __init__(self) -> None:
        self.requests: list[Environ] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        self.requests.append(dict(environ))
        headers = [("content-type", "text/html"), ("x-frame-options", "ALLOW"), ("CACHE-CONTROL", "public")]
        start_response("200 OK", [*headers, ("Server", "x"), ("access-control-allow-origin", "*")])
        return iter([b"a study"])


def guarded() -> tuple[Guard, Reached]:
    reached = Reached()
    return Guard(reached, POLICY, lambda study: 4 if study == 2 else 3), reached


def assert_well_formed(answer: Answer, path: str) -> None:
    """The answer is what HTTP takes, with the guard's headers and each of them once."""
    assert re.fullmatch(r"[2-5]\d\d", str(answer.status))
    found = [name.lower() for name, _ in answer.sent]
    assert len(found) == len(set(found))
    for name, value in answer.sent:
        assert re.fullmatch(r"[A-Za-z-]+", name)
        assert re.fullmatch(r"[ -~]*", value)
    expected = dict(HEADERS) | ({"Cache-Control": "private, no-cache"} if re.match("/static(/|$)", path) else {})
    if answer.status >= 400:
        expected["Cache-Control"] = answer.headers["Cache-Control"]
    assert expected.items() <= answer.headers.items()
    assert not {"server", "access-control-allow-origin"} & {*found}
    if "Content-Length" in answer.headers:
        assert answer.body == b"" or int(answer.headers["Content-Length"]) == len(answer.body)


def shows_the_token(headers: dict[str, str], query: str) -> bool:
    """Says whether the token, or what the cookie holds, stands where it opens something."""
    bearer = re.fullmatch(r"(?i)bearer (.*)", headers.get("AUTHORIZATION", ""), flags=re.DOTALL)
    cookies = re.split(r"[\s;]+", headers.get("COOKIE", ""))
    return bool(bearer and bearer[1].strip() == SECRET) or COOKIE in cookies or f"token={SECRET}" in query.split("&")


@ATTACK
@given(method=methods, path=paths, query=queries, headers=headers)
def test_nothing_without_the_token_reaches_the_application(
    method: str, path: str, query: str, headers: dict[str, str]
) -> None:
    assume(not shows_the_token(headers, query))
    guard, reached = guarded()
    answer = ask(guard, path, method, query, **headers)
    assert reached.requests == []
    assert answer.status in (401, 403, 404, 421)
    assert "Set-Cookie" not in answer.headers
    assert_well_formed(answer, path)


@ATTACK
@given(method=methods, path=paths, query=queries, headers=headers)
def test_only_reading_under_our_name_reaches_the_application(
    method: str, path: str, query: str, headers: dict[str, str]
) -> None:
    guard, reached = guarded()
    answer = ask(guard, path, method, query, **headers)
    assert_well_formed(answer, path)
    for request in reached.requests:
        assert request["REQUEST_METHOD"] in ("GET", "HEAD")
        assert request["HTTP_HOST"] == HOST
        assert request.get("HTTP_ORIGIN") in (None, f"http://{HOST}")
        assert re.fullmatch(r"(/[\w.~-]+)*/?", request["PATH_INFO"], flags=re.ASCII)


@ATTACK
@given(method=methods, path=some.one_of(plots(), paths), query=queries)
def test_no_plot_of_a_large_study_and_no_writing_reaches_the_application(method: str, path: str, query: str) -> None:
    guard, reached = guarded()
    answer = ask(guard, path, method, query, cookie=COOKIE)
    assert_well_formed(answer, path)
    for request in reached.requests:
        assert request["REQUEST_METHOD"] in ("GET", "HEAD")
        segments = as_the_most_lenient_reads(request["PATH_INFO"])
        assert segments[:2] != ["api", "trials"] or segments[-1] != "tell"
        assert not is_large(segments)


def as_the_most_lenient_reads(path: str) -> list[str]:
    """A path's segments for an application that forgives everything: case, parameters, dots, backslashes, blanks."""
    text = unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "ignore").lower().replace("\\", "/")
    kept: list[str] = []
    for segment in (part.partition(";")[0].strip().strip("\0") for part in text.split("/")):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    return kept


def is_large(segments: list[str]) -> bool:
    if segments[-1:] not in (["contour"], ["rank"]) or "plot" not in segments:
        return False
    try:
        return any(float(segment) == 2 for segment in segments if re.match(r"[+-]?\d", segment))
    except ValueError:
        return True  # nobody knows whose plot it is


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Guard, list[Any]]:
    """The dashboard with a small study (id 1) and a large one (id 2), and whose plots it is made to draw."""
    storage = RDBStorage(f"sqlite:///{tmp_path}/real.db")
    for name, trials in (("small", 3), ("large", 4)):
        study = optuna.create_study(storage=storage, study_name=name)
        study.add_trials([optuna.trial.create_trial(value=1.0) for _ in range(trials)])
    drawn: list[Any] = []
    for plot in ("plot_contour", "plot_rank"):
        monkeypatch.setattr(optuna.visualization, plot, lambda study, **_: drawn.append(study.study_name))
    return Guard(dashboard.wsgi(storage), POLICY, partial(count_trials_of, storage)), drawn


@ATTACK
@given(path=plots())
def test_the_real_dashboard_draws_no_plot_of_a_large_study(real: tuple[Guard, list[Any]], path: str) -> None:
    guard, drawn = real
    answer = ask(guard, path, cookie=COOKIE)
    assert_well_formed(answer, path)
    assert "large" not in drawn


def test_the_real_dashboard_would_draw_what_the_guard_refuses(real: tuple[Guard, list[Any]]) -> None:
    """Or the test before this one would prove nothing."""
    guard, drawn = real
    for study in ("1", "2"):
        ask(guard, f"/api/studies/{study}/plot/contour", cookie=COOKIE)
    assert drawn == ["small"]
    ask(guard._application, "/api/studies/0000000000000000002/plot/contour/")
    assert drawn == ["small", "large"]
