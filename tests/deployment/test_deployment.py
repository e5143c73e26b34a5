"""Structure of docker-compose.yml and deploy/, and what of it runs without containers; no engine is needed."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
import yaml

from hpo import __version__
from hpo.storage.backends import open_storage
from tests.conftest import wait_for
from tests.postgres import TemporaryPostgres, find_binaries
from tests.program import commands, free_port
from tests.started import Started

COMPOSE: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("worker", "worker-gpu", "dashboard")


def compose() -> list[str] | None:
    """Returns the command of Docker Compose, where it is installed."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return None


def parses(arguments: list[str]) -> bool:
    """Says whether `hpo` has this command with these options."""
    command: click.Command = commands()[arguments[0]]
    command.make_context(arguments[0], arguments[1:])
    return True


@pytest.mark.parametrize("profile", [[], ["--profile", "gpu"]])
def test_compose_accepts_the_configuration(profile: list[str]) -> None:
    command = compose()
    if command is None:
        pytest.skip("Docker Compose is not installed; Debian's docker-compose is enough, no engine is needed")
    done = subprocess.run([*command, *profile, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_database_survives_and_is_waited_for() -> None:
    database = SERVICES["db"]
    assert "studies:/var/lib/postgresql/data" in database["volumes"]
    assert (
        "pg_isready --host" in database["healthcheck"]["test"][1]
    )  # while it makes the role, it answers on its socket
    for name in OURS:
        assert SERVICES[name]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert "max_connections=300" in database["command"]  # 64 workers have three connections each at most


def test_secrets_come_from_files_that_the_script_makes() -> None:
    script = Path("deploy/secrets.sh").read_text(encoding="utf-8")
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert f"keep {name}" in script
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    for name in OURS:
        assert SERVICES[name]["environment"]["HPO_STORAGE_FILE"] == "/run/secrets/storage_url"
    assert "secrets/" in Path(".gitignore").read_text(encoding="utf-8").splitlines()


def test_every_service_is_started_again_and_has_its_share_of_memory() -> None:
    for service in SERVICES.values():
        assert service["restart"] == "unless-stopped"
        assert service["deploy"]["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_right_and_no_file_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert not {"privileged", "network_mode", "pid", "ipc"} & service.keys()


def test_the_proxy_does_not_reach_the_database() -> None:
    assert {*SERVICES["proxy"]["networks"]} & {*SERVICES["dashboard"]["networks"]} == {"pages"}
    assert not {*SERVICES["proxy"]["networks"]} & {*SERVICES["db"]["networks"]}
    for name in OURS:
        assert {*SERVICES[name]["networks"]} & {*SERVICES["db"]["networks"]} == {"storage"}
    assert {network for service in SERVICES.values() for network in service["networks"]} == {*COMPOSE["networks"]}


def test_an_image_is_named_by_its_version() -> None:
    """Nobody gets another one tomorrow by the same file."""
    script = Path("deploy/secrets.sh").read_text(encoding="utf-8")
    assert f" {SERVICES['proxy']['image']} caddy hash-password" in script
    for image in {each["image"] for each in SERVICES.values()}:
        name = image.partition(":")[0]
        assert re.fullmatch(r"\w[\w-]*:\d+\.\d+(\.\d+)?(-[a-z]+)?", image)
        assert not name.startswith("hpo") or image == f"{name}:{__version__}"


def test_hpos_role_owns_its_database_and_runs_no_program(postgres: TemporaryPostgres, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("it's a \\ secret\n")
    psql = [str(find_binaries() / "psql"), "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--host", "127.0.0.1"]
    address = ["--port", str(postgres.port), "--username", "postgres", "--dbname", "postgres"]
    environment = {**os.environ, "HPO_PASSWORD_FILE": str(tmp_path / "password")}
    for file in (Path("deploy/role.sql"), None):  # the second time it is there
        command = [*psql, *address, "--file", str(file or "deploy/role.sql")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is (file is not None), done.stderr
    url = postgres.url("hpo").replace("postgres@", "hpo@")
    opened = open_storage(url, create=True)
    with opened.engine.connect() as connection:
        role = connection.execute(
            sa.text(
                "select rolsuper, rolcreaterole, rolcreatedb, rolreplication from pg_roles where rolname = current_user"
            )
        )
        assert [*role.one()] == [False] * 4
        owner = "select pg_get_userbyid(datdba) from pg_database where datname = 'hpo'"
        assert connection.execute(sa.text(owner)).scalar_one() == "hpo"
        with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be superuser"):
            connection.execute(sa.text("copy (select 1) to program 'true'"))
    opened.engine.dispose()
    with postgres.connect() as connection:
        stored = connection.execute("select rolpassword from pg_authid where rolname = 'hpo'").fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$")


def test_workers_scale() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys()


def test_nothing_listens_beyond_this_machine_unless_told() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert sorted(published) == ["${HPO_LISTEN:-127.0.0.1}:443:443", "127.0.0.1:5432:5432"]


@pytest.mark.parametrize("service", OURS)
def test_a_service_runs_a_command_that_exists(service: str) -> None:
    assert parses(SERVICES[service]["command"])


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy("deploy/secrets.sh", tmp_path / "deploy")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho '$2a$14$hash'\n")  # in the place of caddy's own command
    docker.chmod(0o755)
    made = []
    for _ in range(2):
        subprocess.run(
            ["sh", "deploy/secrets.sh"], cwd=tmp_path, input="ada\n", text=True, check=True, capture_output=True,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )  # fmt: skip
        made.append({file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == set(COMPOSE["secrets"])
    password = made[0]["postgres_password"].strip()
    assert len(password) == 48
    assert made[0]["storage_url"] == f"postgresql://hpo:{password}@db:5432/hpo\n"
    assert made[0]["logins"] == "ada $2a$14$hash\n"
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_the_commands_in_its_comments_exist() -> None:
    text = Path("docker-compose.yml").read_text(encoding="utf-8")
    commands = re.findall(r"run --rm --no-deps worker (.+?)(?:  |$)", text, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert parses(shlex.split(command))


CADDY = shutil.which("caddy")


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[int]:
    """The port of Caddy with our configuration, before the dashboard of an empty storage."""
    if CADDY is None:
        pytest.skip("Caddy is not installed; Debian's caddy is enough")
    open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
    port, upstream = free_port(), free_port()
    hashed = subprocess.run(
        [CADDY, "hash-password", "--plaintext", "lovelace"], capture_output=True, text=True, check=True
    )
    (tmp_path / "logins").write_text(f"ada {hashed.stdout.strip()}\n")
    text = Path("deploy/Caddyfile").read_text(encoding="utf-8")
    version = subprocess.run([CADDY, "version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 8):
        text = text.replace("basic_auth", "basicauth")  # its name was another then
    # Another port than 443, which takes root, and no certificate put into this machine's store.
    text = text.replace("admin off", f"admin off\n\tskip_install_trust\n\thttps_port {port}\n\thttp_port {free_port()}")
    (tmp_path / "Caddyfile").write_text(text)
    token = "t" * 32
    hpo = Started(
        *("dashboard", "--port", str(upstream), "--host", "0.0.0.0", "--allow-host", f"localhost:{port}"),
        folder=tmp_path, environment={"HPO_DASHBOARD_TOKEN": token},
    )  # fmt: skip
    hpo.stdout.readline()
    caddy = subprocess.Popen(
        [CADDY, "run", "--config", "Caddyfile"], cwd=tmp_path, stderr=subprocess.DEVNULL,
        env={
            **os.environ, "XDG_DATA_HOME": str(tmp_path), "LOGINS": str(tmp_path / "logins"), "DASHBOARD_TOKEN": token,
            "UPSTREAM": f"localhost:{upstream}",
        },
    )  # fmt: skip
    yield port
    caddy.terminate()
    caddy.communicate()
    hpo.terminate()
    hpo.communicate(timeout=60)


def test_the_proxy_asks_for_a_login_and_shows_the_dashboard_its_token(proxied: int, tmp_path: Path) -> None:
    authority = tmp_path / "caddy/pki/authorities/local/root.crt"

    def ask(login: str, method: str = "GET", body: bytes | None = None, **headers: str) -> int:
        trusting = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection("localhost", proxied, timeout=30, context=trusting)
        shown = {"Authorization": "Basic " + b64encode(login.encode()).decode(), **headers}
        connection.request(method, "/api/studies", body=body, headers=shown)
        with closing(connection):
            return connection.getresponse().status

    def answers() -> bool:
        with suppress(OSError):  # its authority is there before its certificate
            return bool(ask("ada:lovelace"))
        return False

    wait_for(answers, 30)
    assert ask("ada:lovelace") == 200
    assert ask("ada:babbage") == 401
    assert ask("ada:lovelace", "POST", b"x") == 405
    assert ask("ada:lovelace", "POST", b"x" * 100_000) in (413, 502)  # 502 where the dashboard has hung up first
    assert ask("ada:lovelace", large="x" * 40_000) == 431
