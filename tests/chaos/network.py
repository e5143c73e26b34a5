"""A machine whose network link can be cut: a network namespace, joined by virtual cable. Needs root."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

import sqlalchemy as sa


class Link:
    """A network namespace that reaches this machine over one cable; cut, packets vanish without a word.

    Args:
        number: tells it from other links of this process.
        delay: seconds from one end to the other.
    """

    def __init__(self, number: int, delay: float = 0.0) -> None:
        self._space, self._near, self._far = (f"hpo{os.getpid()}{end}{number % 250}" for end in "nab")
        # Of the range that RFC 2544 keeps for such things; another process that does the same takes another part of it.
        net, host = f"198.18.{os.getpid() % 256}", 4 * (number % 64)
        self._here, self._there = f"{net}.{host + 1}", f"{net}.{host + 2}"
        self._delay = delay
        self._relay: subprocess.Popen[str] | None = None
        self.prefix = ("ip", "netns", "exec", self._space)

    def __enter__(self) -> Link:
        self._ip("netns", "add", self._space)
        if self._delay:
            command = [sys.executable, "-m", "tests.chaos.relay", self._near, self._far, str(self._delay)]
            self._relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if self._relay.stdout is None or self._relay.stdout.readline() != "ready\n":
                raise RuntimeError("the relay did not start")
            self._ip("link", "set", self._far, "netns", self._space)
        else:
            self._ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._space)
        self._ip("address", "add", f"{self._here}/30", "dev", self._near)
        self._ip("link", "set", self._near, "up")
        for command in (
            ["address", "add", f"{self._there}/30", "dev", self._far],
            ["link", "set", self._far, "up"],
            ["link", "set", "lo", "up"],
        ):
            self._ip("-n", self._space, *command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._relay is not None:
            self._relay.kill()  # and its devices are gone
            self._relay.communicate()
        else:
            self._ip("link", "delete", self._near)
        self._ip("netns", "delete", self._space)

    def reach(self, url: str) -> str:
        """Returns the URL by which the machine over the link reaches a database on this one."""
        return sa.make_url(url).set(host=self._here).render_as_string(hide_password=False)

    def cut(self) -> None:
        """Cuts the link."""
        self._ip("link", "set", self._near, "down")

    def heal(self) -> None:
        """Joins it again."""
        self._ip("link", "set", self._near, "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)
