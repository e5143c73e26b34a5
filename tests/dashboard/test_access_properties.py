"""What holds of the guard whatever is sent: requests of Hypothesis, before a stub and before optuna-dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import optuna.visualization  # before that it is Optuna's stand-in for a module, which a patch would miss
import optuna_dashboard._app as dashboard
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from optuna.storages import RDBStorage

from hpo.dashboard.access import HEADERS, Environ, Guard, StartResponse
from hpo.storage.queries import count_trials_of
from tests.conftest import thorough
from tests.dashboard.test_access import COOKIE, HOST, POLICY, SECRET, Answer, ask

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
HEADERS_SENT: dict[str, some.SearchStrategy[str]] = {
    "AUTHORIZATION": some.one_of(secrets.map("Bearer {}".format), secrets.map("basic {}".format), LATIN),
    "COOKIE": some.lists(some.one_of(texts.map("hpo_8080={}".format), texts.map("x={}".format), LATIN)).map(";".join),
    "ORIGIN": some.sampled_from(["null", f"http://{HOST}", f"http://{HOST}.evil.example", ""]),
    "HOST": some.one_of(some.sampled_from([HOST, HOST, f"{HOST}, {HOST}", "127.0.0.1"]), LATIN),
    "X_FORWARDED_HOST": LATIN,
    "X_HTTP_METHOD_OVERRIDE": methods,
}
headers = some.fixed_dictionaries({}, optional=HEADERS_SENT)
queries = some.one_of(LATIN, texts.map("token={}".format), texts.map("token=x&a=%0d%0a&token={}".format))


def joined(parts: list[tuple[str, str]], end: str) -> str:
    """A path as a server hands it on: without its percents."""
    raw = "".join(separator + segment for separator, segment in parts) + end
    return unquote_to_bytes(raw.encode("utf-8")).decode("latin-1")


@some.composite
def plots(draw: some.DrawFn) -> str:
    """The path of a plot, as it is or with one part of it written in another way."""
    study = draw(some.sampled_from(["1", "2", "2"]))
    words = ["api", "studies", study, "plot", draw(some.sampled_from(["contour", "rank"]))]
    between, end = ["/"] * len(words), ""
    odd = draw(some.sampled_from(["nothing", "a separator", "the study", "the end"]))
    if odd == "a separator":
        between[draw(some.integers(0, len(words) - 1))] = draw(separators)
    elif odd == "the study":
        words[2] = draw(some.sampled_from(NUMBERS))
    elif odd == "the end":
        end = draw(ends)
    return joined(list(zip(between, words, strict=True)), end)


mostly_get = some.sampled_from(["GET", "GET", "GET", "any"]).flatmap(lambda m: methods if m == "any" else some.just(m))
READ = ["/", "/dashboard/", "/api/studies/1", "/api/studies/2", "/static/bundle.js", "/artifacts/1/abc"]
paths = some.one_of(
    some.sampled_from([*READ, "/api/trials/1/tell"]),
    some.builds(joined, some.lists(some.tuples(separators, segments), max_size=7), ends),
    plots(),
)


@some.composite
def nearly_right(draw: some.DrawFn) -> tuple[str, str, str, dict[str, str]]:
    """Method, path, query and headers of a request that reads, of which one part may be anything."""
    parts: dict[str, some.SearchStrategy[str]] = {
        "method": methods, "path": paths, "another path": paths, "query": queries, **HEADERS_SENT,
    }  # fmt: skip
    method, path, query, sent = draw(some.sampled_from(["GET", "HEAD"])), draw(some.sampled_from(READ)), "", {}
    sent = {"HOST": HOST, "COOKIE": COOKIE}
    odd = draw(some.sampled_from(list(parts)))
    drawn = draw(parts[odd])
    if odd == "method":
        method = drawn
    elif odd.endswith("path"):
        path = drawn
    elif odd == "query":
        query = drawn
    else:
        sent[odd] = drawn
    return method, path, query, sent


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
    is_kept = answer.status < 400 and re.match("/static(/|$)", path)
    expected = dict(HEADERS) | {"Cache-Control": "private, no-cache" if is_kept else "no-store"}
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


def test_only_reading_under_our_name_reaches_the_application() -> None:
    seen: list[Environ] = []

    @ATTACK
    @given(asked=nearly_right())
    def attack(asked: tuple[str, str, str, dict[str, str]]) -> None:
        method, path, query, sent = asked
        guard, reached = guarded()
        answer = ask(guard, path, method, query, **sent)
        assert_well_formed(answer, path)
        seen.extend(reached.requests)
        for request in reached.requests:
            assert request["REQUEST_METHOD"] in ("GET", "HEAD")
            assert request["HTTP_HOST"] == HOST
            assert request.get("HTTP_ORIGIN") in (None, f"http://{HOST}")
            assert re.fullmatch(r"(/[\w.~-]+)*/?", request["PATH_INFO"], flags=re.ASCII)

    attack()
    assert len(seen) > 100  # or nothing was asserted


def test_no_plot_of_a_large_study_and_no_writing_reaches_the_application() -> None:
    seen: list[Environ] = []

    @ATTACK
    @given(method=mostly_get, path=some.one_of(plots(), paths), query=queries)
    def attack(method: str, path: str, query: str) -> None:
        guard, reached = guarded()
        answer = ask(guard, path, method, query, cookie=COOKIE)
        assert_well_formed(answer, path)
        seen.extend(reached.requests)
        for request in reached.requests:
            assert request["REQUEST_METHOD"] in ("GET", "HEAD")
            segments = as_the_most_lenient_reads(request["PATH_INFO"])
            assert segments[:2] != ["api", "trials"] or segments[-1] != "tell"
            assert not is_large(segments)

    attack()
    assert sum("plot" in request["PATH_INFO"] for request in seen) > 10
    assert len(seen) > 50


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
    answers = [ask(guard, f"/api/studies/{study}/plot/contour", cookie=COOKIE) for study in ("1", "2")]
    assert drawn == ["small"], [(answer.status, answer.body) for answer in answers]
    ask(guard._application, "/api/studies/0000000000000000002/plot/contour/")
    assert drawn == ["small", "large"]
