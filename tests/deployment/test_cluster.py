"""Structure of what Kubernetes and Slurm are given; tests/deployment/test_slurm.py runs the latter."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deployment.test_deployment import SERVICES, parses

MANIFESTS: dict[str, dict[str, Any]] = {
    f"{file.stem}-{manifest['kind']}": manifest
    for file in sorted(Path("deploy/kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8"))
}
PODS = [name for name, manifest in MANIFESTS.items() if "template" in manifest.get("spec", {})]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_what_the_api_expects(name: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], kubernetes_validate.latest_version(), strict=True)
    assert MANIFESTS[name]["metadata"]["labels"] == {"app.kubernetes.io/part-of": "hpo"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    specification = MANIFESTS[name]["spec"]
    pod = specification["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    if container["image"].startswith("hpo"):
        assert parses(container["args"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in specification.get("volumeClaimTemplates", [])}
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed


def test_a_pods_image_is_one_of_composes() -> None:
    images = {MANIFESTS[name]["spec"]["template"]["spec"]["containers"][0]["image"] for name in PODS}
    assert images == {service["image"] for name, service in SERVICES.items() if name != "proxy"}


def test_both_ways_make_the_same_role_of_the_same_secrets() -> None:
    assert MANIFESTS["postgres-ConfigMap"]["data"] == {"role.sql": Path("deploy/role.sql").read_text(encoding="utf-8")}
    assert "./deploy/role.sql:/docker-entrypoint-initdb.d/role.sql:ro" in SERVICES["db"]["volumes"]
    pods = [MANIFESTS[name]["spec"]["template"]["spec"] for name in PODS]
    used = [item["key"] for pod in pods for each in pod["volumes"] for item in each.get("secret", {}).get("items", [])]
    document = Path("docs/deployment.md").read_text(encoding="utf-8")
    assert {*used} == {*re.findall(r"--from-(?:file|literal)=(\w+)=", document)}
    for name in ("POSTGRES_PASSWORD_FILE", "HPO_PASSWORD_FILE"):
        (container,) = MANIFESTS["postgres-StatefulSet"]["spec"]["template"]["spec"]["containers"]
        (there,) = [each["value"] for each in container["env"] if each["name"] == name]
        assert Path(there).name == Path(SERVICES["db"]["environment"][name]).name in used


def test_workers_of_a_job_are_a_queue_that_ends_when_their_study_has_its_trials() -> None:
    job = MANIFESTS["worker-gpu-job-Job"]["spec"]
    assert job["parallelism"] > 1
    assert "completions" not in job
    (container,) = job["template"]["spec"]["containers"]
    assert {"--exit-when-done", "--study"} <= {*container["args"]}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


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
        return subprocess.run(
            ["bash", script, "--study", "cnn"], env=clean, capture_output=True, text=True, check=False
        )

    assert "names a file with the database URL" in run(SLURM_CPUS_PER_TASK="4").stderr
    for devices, workers in (("", "4"), ("0,1", "auto")):
        done = run(SLURM_CPUS_PER_TASK="4", HPO_STORAGE_FILE="x", CUDA_VISIBLE_DEVICES=devices)
        assert done.stdout.split() == ["hpo", "worker", "--workers", workers, "--exit-when-done", "--study", "cnn"]
        assert parses(done.stdout.split()[1:])
