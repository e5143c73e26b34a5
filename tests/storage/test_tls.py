"""PostgreSQL over TLS, and a password that shows nowhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import trustme

from tests.postgres import TemporaryPostgres
from tests.program import assert_one_line, hpo, start_hpo, write_quick

PASSWORD = "very/secret"
QUOTED = "very%2Fsecret"  # as it stands in a URL


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[TemporaryPostgres]:
    """A server that lets the user hpo in by TLS and password alone."""
    certificate = authority.issue_cert("localhost")
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    started = TemporaryPostgres(certificate=(chain, certificate.private_key_pem.bytes()))
    with started.connect() as connection:
        connection.execute(f"create role hpo login password '{PASSWORD}'")
        connection.execute("create database hpo owner hpo")
    yield started
    started.remove()


@pytest.fixture
def url(server: TemporaryPostgres, authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return (
        f"postgresql://hpo:{QUOTED}@localhost:{server.port}/hpo"
        f"?sslmode=verify-full&sslrootcert={tmp_path / 'authority.pem'}"
    )


@pytest.mark.slow
def test_a_study_runs_over_a_verified_connection_and_its_password_shows_nowhere(url: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(url)
    write_quick(tmp_path)
    arguments = ["--storage-file", str(tmp_path / "url")]
    shown: set[str] = set()
    run = ["optimize", "--study", "quick.toml", "--trials", "1", "--workers", "1"]
    with start_hpo(*run, *arguments, folder=tmp_path, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            time.sleep(0.05)
            with suppress(psutil.NoSuchProcess):  # one may end while it is looked at
                family = psutil.Process(process.pid)
                for one in (family, *family.children(recursive=True)):
                    shown |= {*one.cmdline(), *one.environ().values()}
        said = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, said
    assert f"hpo trials quick --storage-file {tmp_path / 'url'}" in said
    assert any("optimize" in part for part in shown)  # the processes were looked at
    everything = said + "".join(shown) + hpo("status", *arguments, folder=tmp_path).stdout
    assert PASSWORD not in everything
    assert QUOTED not in everything
    assert "1/1" in hpo("status", *arguments, folder=tmp_path).stdout


def test_a_server_that_cannot_prove_itself_is_not_talked_to(url: str, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "authority.pem"))  # another authority
    done = hpo("status", "--storage", url, folder=tmp_path)
    assert_one_line(done, 2, "certificate verify failed")
    assert done.returncode == 2
    assert QUOTED not in done.stderr
    named = hpo("status", "--storage", url.replace("localhost", "127.0.0.1"), folder=tmp_path)
    assert named.returncode == 2
    assert QUOTED not in named.stderr


def test_a_server_that_wants_tls_refuses_a_plain_connection(url: str, tmp_path: Path) -> None:
    done = hpo("status", "--storage", url.replace("verify-full", "disable"), folder=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert QUOTED not in done.stderr
