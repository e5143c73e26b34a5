"""The server before the guard, attacked over sockets: by large requests, slow ones, many, and malformed ones."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import waitress.buffers
from waitress import wasyncore

from hpo.dashboard import http as server
from hpo.dashboard.access import Guard, Policy
from hpo.dashboard.http import LIMITS, MAX_BODY_BYTES, make_server
from hpo.storage.backends import open_storage
from tests.program import free_port
from tests.started import Started

SECRET = "a-secret-of-24-characters"
BEARER = {"Authorization": f"Bearer {SECRET}"}


def count_body(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """An application that answers with the number of bytes that it was sent."""
    body = str(len(environ["wsgi.input"].read())).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def serving(writable: bool = False) -> Iterator[int]:
    """Serves the application behind a guard, in a thread, and gives the port."""
    port = free_port()
    policy = Policy(token=SECRET, cookie="hpo", hosts=frozenset([f"127.0.0.1:{port}"]), writable=writable)
    guard = Guard(count_body, policy, lambda _: 0)
    made = make_server(guard, guard.knows, host="127.0.0.1", port=port, uploads=writable)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield port
    finally:
        made.task_dispatcher.shutdown()
        wasyncore.close_all(made.map if hasattr(made, "map") else made._map)
        thread.join()


@pytest.fixture(scope="module")
def reading() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The temporary files that waitress has made for requests."""
    made: list[object] = []
    begin = waitress.buffers.TempfileBasedBuffer.__init__

    def remember(buffer: Any, *arguments: Any) -> None:
        made.append(buffer)
        begin(buffer, *arguments)

    monkeypatch.setattr(waitress.buffers.TempfileBasedBuffer, "__init__", remember)
    return made


def ask(port: int, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=15)) as connection:
        connection.request(method, "/x", body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def send(port: int, *parts: bytes) -> bytes:
    """Sends bytes as they are, and returns what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        came = b""
        try:
            for part in parts:
                connection.sendall(part)
            while more := connection.recv(65536):
                came += more
        except ConnectionError:  # it refused to hear more
            pass
        return came


def half_request(port: int, address: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection((address, port), timeout=30)
    connection.sendall(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    return connection


def takes_more(connection: socket.socket) -> bool:
    """Says whether the server takes a further byte, without an answer."""
    try:
        connection.send(b"x")
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def post(port: int, *headers: str) -> bytes:
    return "\r\n".join(["POST /x HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", ""]).encode()


@pytest.mark.parametrize("writable", [False, True])
def test_a_strangers_large_body_is_refused_and_kept_in_no_file(writable: bool, files: list[object]) -> None:
    bodies = (b"10000\r\n" + b"x" * 0x10000, b"1\r\nx\r\n" * 0x3000, b"0\r\nTrailer: " + b"x" * 0x10000)
    with serving(writable) as port:
        for answer in (
            send(port, post(port, "Content-Length: 900000000")),
            send(port, post(port, "Content-Length: 900000000", "Authorization: Bearer wrong")),
            send(port, post(port, "Content-Length: 900000000", "Expect: 100-continue"), b"x" * MAX_BODY_BYTES),
            *(send(port, post(port, "Transfer-Encoding: chunked"), body[:MAX_BODY_BYTES]) for body in bodies),
        ):
            assert b"HTTP/1.1 413 " in answer
        large = b"GET /x HTTP/1.1\r\nX-Large: " + b"x" * 0x8000
        assert b" 431 " in send(port, large[:0x8000])
    assert files == []


def test_a_reader_with_the_token_uploads_where_writing_was_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_UPLOAD_BYTES", 2_000_000)
    with serving(writable=True) as port:
        assert ask(port, "POST", b"x" * 1_999_999, **BEARER) == (200, b"1999999")
        assert ask(port, "POST", iter([b"x" * 900_000] * 2), **BEARER) == (200, b"1800000")  # chunked
        assert b"HTTP/1.1 413 " in send(port, post(port, f"Authorization: Bearer {SECRET}", "Content-Length: 2000000"))
    with serving(writable=False) as port:
        assert b"HTTP/1.1 413 " in send(port, post(port, f"Authorization: Bearer {SECRET}", "Content-Length: 1000000"))
        assert ask(port, **BEARER) == (200, b"0")


def test_a_stranger_who_is_slow_is_closed_and_a_slow_upload_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STRANGER_SECONDS", 1)
    with serving(writable=True) as port, closing(half_request(port)) as slow, ExitStack() as stack:
        upload = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        upload.sendall(post(port, f"Authorization: Bearer {SECRET}", "Content-Length: 5"))
        began = time.monotonic()
        slow.settimeout(0.1)
        while takes_more(slow):
            assert time.monotonic() - began < 20
        assert time.monotonic() - began >= 1
        upload.sendall(b"12345")
        assert upload.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_kept_connection_stays_while_it_is_idle_and_gives_each_request_no_more_time_than_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "STRANGER_SECONDS", 1)
    with serving() as port, closing(http.client.HTTPConnection("127.0.0.1", port, timeout=15)) as kept:
        for pause in (0, 1.5, 0):
            time.sleep(pause)
            kept.request("GET", "/x", headers=BEARER)
            assert kept.getresponse().read() == b"0"
        half = kept.sock
        half.sendall(b"GET /x HTTP/1.1\r\nX: ")
        began = time.monotonic()
        half.settimeout(0.1)
        while takes_more(half):
            assert time.monotonic() - began < 20
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_many_half_requests_keep_no_reader_out(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find, limit = socket.getaddrinfo, LIMITS["connection_limit"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest: [each for name in addresses for each in find(name, *rest)]
    )
    with serving() as port, ExitStack() as stack:
        for number in range(limit + 100):
            stack.enter_context(closing(half_request(port, addresses[number % len(addresses)])))
        began = time.monotonic()
        assert ask(port, **BEARER) == (200, b"0")
        assert time.monotonic() - began < 5


def test_answers_that_nobody_takes_keep_no_reader_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_STRANGERS", 10)
    with serving() as port, ExitStack() as stack:
        for _ in range(30):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            deaf.connect(("127.0.0.1", port))
            with suppress(ConnectionError):
                deaf.sendall(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 300)
        assert ask(port, **BEARER) == (200, b"0")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /x HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET http://\xe2\x84\x80 HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nno header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # somebody speaks TLS
    ],
)
def test_a_malformed_request_is_answered_and_nothing_is_printed(
    reading: int, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert b" 400 Bad Request" in send(reading, request_)
    assert caplog.text == ""


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[int]:
    """The port of a real `hpo dashboard`, whose temporary files would lie in the test's folder."""
    open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    port = free_port()
    environment = {"HPO_DASHBOARD_TOKEN": SECRET, "TMPDIR": str(tmp_path)}
    with Started("dashboard", "--port", str(port), folder=tmp_path, environment=environment) as process:
        process.stdout.readline()
        yield port
        process.terminate()


def test_the_real_dashboard_is_held_by_nobody_without_the_token(dashboard: int) -> None:
    with ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(closing(half_request(dashboard)))
        assert b"HTTP/1.1 413 " in send(dashboard, post(dashboard, "Content-Length: 900000000"))
        with closing(http.client.HTTPConnection("127.0.0.1", dashboard, timeout=30)) as connection:
            connection.request("GET", "/api/studies", headers={**BEARER, "X-Forwarded-Host": "evil.example"})
            answer = connection.getresponse()
            assert (answer.status, json.load(answer)) == (200, {"study_summaries": []})
            assert answer.headers["Cache-Control"] == "no-store"
            connection.request("GET", "/", headers={**BEARER, "X-Forwarded-Host": "evil.example"})
            assert "evil" not in connection.getresponse().headers["Location"]
