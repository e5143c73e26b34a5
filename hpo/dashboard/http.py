"""waitress, with limits that hold before a request is whole: on its size, on its time, and on those who wait.

By itself it takes 1 GiB from anybody into a temporary file before the application is asked, and a hundred connections
that send a byte now and then keep everybody else out. Here a connection is a stranger's until a request on it has shown
the token in its headers, and again from where the next one begins, for a proxy sends those of several people on one
connection. A stranger gets little memory, no file, and not much time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer, create_server

MAX_BODY_BYTES = 64 * 1024  # of a request; waitress keeps as much in memory
MAX_UPLOAD_BYTES = 128 * 1024 * 1024  # of one that shows the token, where uploads are let through: as the dashboard
STRANGER_SECONDS = 20
MAX_STRANGERS = 200
LIMITS: dict[str, Any] = {
    "max_request_header_size": 32 * 1024,  # one that comes byte by byte is read from its start for each
    "max_request_body_size": MAX_BODY_BYTES,
    "channel_request_lookahead": 0,
    "connection_limit": 500,  # below the 1024 files that a process may usually open
    "channel_timeout": 60,
    "cleanup_interval": 10,
    "asyncore_use_poll": True,
    "log_socket_errors": False,  # a client that went away is no news
    "ident": None,
}
Knows = Callable[[dict[str, Any]], bool]


def make_server(application: Any, knows: Knows, *, host: str, port: int, uploads: bool = False) -> Any:
    """Returns a server of a WSGI application that listens; its `run` serves until it is interrupted.

    Args:
        knows: says whether the headers of a request, named as in WSGI, show that it comes from no stranger.
        uploads: whether a request that does may be of `MAX_UPLOAD_BYTES`.

    Raises:
        OSError: where the port cannot be had.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a browser asks for several things at once
    listeners: dict[int, Any] = {}
    server = create_server(application, map=listeners, host=host, port=port, **LIMITS)
    of_known = Adjustments(**{**LIMITS, **({"max_request_body_size": MAX_UPLOAD_BYTES} if uploads else {})})
    for listener in listeners.values():
        if isinstance(listener, TcpWSGIServer):  # one for each address that the host's name stands for
            listener.channel_class = partial(_Connection, knows, of_known)
    return server


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection, which is closed while it is a stranger's and late, or the oldest of too many."""

    def __init__(self, knows: Knows, of_known: Adjustments, server: Any, *arguments: Any, **named: Any) -> None:
        self.parser_class = partial(_Request, self)
        self.knows, self.of_known = knows, of_known
        self.is_stranger, self.is_surplus, self.is_closed = True, False, False
        self.began = time.monotonic()
        super().__init__(server, *arguments, **named)
        strangers = [each for each in server.active_channels.values() if each.is_stranger and not each.is_surplus]
        if len(strangers) > MAX_STRANGERS:
            min(strangers, key=lambda each: each.began).is_surplus = True

    def begin_request(self) -> None:
        """Takes whoever begins a request for a stranger; one who was it already wins no time by that."""
        if not self.is_stranger:
            self.is_stranger, self.began = True, time.monotonic()

    def readable(self) -> bool:
        """Is asked in each turn of the server's loop, once a second at least."""
        if self.is_stranger and (self.is_surplus or time.monotonic() - self.began > STRANGER_SECONDS):
            self.handle_close()  # at once: what waits to be sent would need a client that receives
        return not self.is_closed and bool(super().readable())

    def writable(self) -> bool:
        """Is asked next; of a closed one the system may have given the number to another already."""
        return not self.is_closed and bool(super().writable())

    def handle_close(self) -> None:
        """Closes it."""
        self.is_closed = True
        super().handle_close()


class _Request(HTTPRequestParser):  # type: ignore[misc]
    """A request that is being received."""

    def __init__(self, connection: _Connection, limits: Adjustments) -> None:
        super().__init__(limits)
        self._connection = connection
        connection.begin_request()

    def parse_header(self, header_plus: bytes) -> None:
        """Parses the headers, and knows from them whose request it is, before its body is taken."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # waitress lets some through: a length of 5000 digits, an address like http://[
            raise ParsingError("the address or the length is malformed") from error
        if self._connection.knows({f"HTTP_{name}": value for name, value in self.headers.items()}):
            self._connection.is_stranger = False
            self.adj = self._connection.of_known
