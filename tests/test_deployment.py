"""Structure of Dockerfile and docker-compose.yml; no container engine runs in these tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hpo.cli import main

SERVICES: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text(encoding="utf-8"))["services"]
DOCKERFILE = Path("Dockerfile").read_text(encoding="utf-8")


def compose() -> list[str] | None:
    """Returns the command of Docker Compose, where it is installed."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return None


def configure(**environment: str) -> subprocess.CompletedProcess[str]:
    """Runs compose's own check of the configuration."""
    command = compose()
    if command is None:
        pytest.skip("Docker Compose is not installed; Debian's docker-compose is enough, no engine is needed")
    clean = {key: value for key, value in os.environ.items() if key != "POSTGRES_PASSWORD"}
    return subprocess.run(
        [*command, "config", "--quiet"], env={**clean, **environment}, capture_output=True, text=True, check=False
    )


def parses(arguments: list[str]) -> bool:
    """Says whether `hpo` has this command with these options."""
    command: click.Command = main.commands[arguments[0]]
    command.make_context(arguments[0], arguments[1:])
    return True


def test_compose_accepts_the_configuration() -> None:
    done = configure(POSTGRES_PASSWORD="secret")
    assert done.returncode == 0, done.stderr


def test_compose_asks_for_a_password() -> None:
    done = configure()
    assert done.returncode != 0
    assert "put POSTGRES_PASSWORD=... into .env" in done.stderr


def test_the_database_survives_and_is_waited_for() -> None:
    database = SERVICES["db"]
    assert database["volumes"] == ["studies:/var/lib/postgresql/data"]
    assert "pg_isready" in database["healthcheck"]["test"][1]
    for name in ("worker", "dashboard"):
        assert SERVICES[name]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert "max_connections=300" in database["command"]  # 64 workers have three connections each at most


def test_workers_scale() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys()


def test_nothing_listens_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("service", ["worker", "dashboard"])
def test_a_service_runs_a_command_that_exists(service: str) -> None:
    assert parses(SERVICES[service]["command"])
    assert SERVICES[service]["environment"]["HPO_STORAGE"].startswith("postgresql://hpo:${POSTGRES_PASSWORD}@")


def test_the_commands_in_its_comments_exist() -> None:
    text = Path("docker-compose.yml").read_text(encoding="utf-8")
    commands = re.findall(r"run --rm --no-deps worker (.+?)(?:  |$)", text, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert parses(shlex.split(command))


def test_the_image_gets_what_the_package_is_made_of() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {"pyproject.toml", "README.md", "hpo", "models", "studies"}
    allowed = set(re.findall(r"^!(.+)$", Path(".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert allowed == names


def test_the_image_does_not_run_as_root_and_holds_no_secret() -> None:
    assert re.search(r"^USER hpo$", DOCKERFILE, flags=re.MULTILINE)
    assert not re.search(r"password|token|secret", DOCKERFILE, flags=re.IGNORECASE)
