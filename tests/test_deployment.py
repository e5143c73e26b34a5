"""Structure of Dockerfile and docker-compose.yml; no container engine runs in these tests."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from hpo.cli import main
from hpo.storage import open_storage

from .test_cli import clean_environment, free_port

COMPOSE: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("worker", "worker-gpu", "dashboard")
DOCKERFILE = Path("Dockerfile").read_text(encoding="utf-8")


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
    command: click.Command = main.commands[arguments[0]]
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
    assert database["volumes"] == ["studies:/var/lib/postgresql/data"]
    assert "pg_isready" in database["healthcheck"]["test"][1]
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


def test_the_image_gets_what_the_package_is_made_of() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {"pyproject.toml", "README.md", "LICENSE", "hpo", "models", "studies"}
    allowed = set(re.findall(r"^!(.+)$", Path(".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert allowed == names


def test_the_image_does_not_run_as_root_and_holds_no_secret() -> None:
    assert re.search(r"^USER hpo$", DOCKERFILE, flags=re.MULTILINE)
    assert not re.search(r"password|token|secret", DOCKERFILE, flags=re.IGNORECASE)


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
    hpo = subprocess.Popen(
        [sys.executable, "-m", "hpo", "dashboard", "--port", str(upstream), "--host", "0.0.0.0", "--allow-host",
         f"localhost:{port}"],
        cwd=tmp_path, env=clean_environment(HPO_DASHBOARD_TOKEN=token), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hpo.stdout is not None
    hpo.stdout.readline()
    caddy = subprocess.Popen(
        [CADDY, "run", "--config", "Caddyfile"], cwd=tmp_path, stderr=subprocess.DEVNULL,
        env={
            **os.environ, "XDG_DATA_HOME": str(tmp_path), "LOGINS": str(tmp_path / "logins"), "DASHBOARD_TOKEN": token,
            "UPSTREAM": f"localhost:{upstream}",
        },
    )  # fmt: skip
    yield port
    for process in (caddy, hpo):
        process.terminate()
        process.communicate()


def test_the_proxy_asks_for_a_login_and_shows_the_dashboard_its_token(proxied: int, tmp_path: Path) -> None:
    authority = tmp_path / "caddy/pki/authorities/local/root.crt"
    deadline = time.monotonic() + 30
    while not authority.exists() and time.monotonic() < deadline:
        time.sleep(0.1)

    def ask(login: str) -> int:
        trusting = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection("localhost", proxied, timeout=30, context=trusting)
        connection.request(
            "GET", "/api/studies", headers={"Authorization": "Basic " + b64encode(login.encode()).decode()}
        )
        with closing(connection):
            return connection.getresponse().status

    assert ask("ada:lovelace") == 200
    assert ask("ada:babbage") == 401


MANIFESTS: dict[str, dict[str, Any]] = {
    f"{file.stem}-{manifest['kind']}": manifest
    for file in sorted(Path("deploy/kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8"))
}
PODS = [name for name, manifest in MANIFESTS.items() if "template" in manifest["spec"]]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_what_the_api_expects(name: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], kubernetes_validate.latest_version(), strict=True)
    assert MANIFESTS[name]["metadata"]["labels"] == {"app.kubernetes.io/part-of": "hpo"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    specification = MANIFESTS[name]["spec"]
    pod = specification["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["resources"]["limits"]["memory"]
    if container["image"].startswith("hpo"):
        assert parses(container["args"])
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in specification.get("volumeClaimTemplates", [])}
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed


def test_the_database_and_the_dashboard_are_not_for_everybody() -> None:
    policies = [manifest["spec"] for manifest in MANIFESTS.values() if manifest["kind"] == "NetworkPolicy"]
    guarded = {policy["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for policy in policies}
    assert guarded == {"hpo-db", "hpo-dashboard"}


def test_the_batch_script_asks_for_the_database_and_starts_a_worker_for_each_core(tmp_path: Path) -> None:
    script = str(Path("deploy/slurm/hpo.sbatch").absolute())
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')  # in the place of Slurm's
    srun.chmod(0o755)

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        clean = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
        return subprocess.run(["bash", script], env=clean, capture_output=True, text=True, check=False)

    assert "names a file with the database URL" in run(SLURM_CPUS_PER_TASK="4").stderr
    for devices, workers in (("", "4"), ("0,1", "auto")):
        done = run(SLURM_CPUS_PER_TASK="4", HPO_STORAGE_FILE="x", CUDA_VISIBLE_DEVICES=devices)
        assert done.stdout.split() == ["hpo", "worker", "--workers", workers, "--exit-when-done"]
        assert parses(done.stdout.split()[1:])
