from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from hpo.study import catalog
from hpo.tasks.digit_pairs.architectures import architectures


def test_a_wheel_carries_its_content_inside_the_package_and_works_from_anywhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert {path.name.partition("-")[0] for path in (tmp_path / "site").iterdir()} == {"hpo", "hpo_studies"}
    assert (tmp_path / "site" / "hpo" / "py.typed").exists()
    pages = "hpo/tasks/digit_pairs/templates"
    assert {file.name for file in (tmp_path / "site" / pages).iterdir()} == {
        file.name for file in Path(pages).iterdir()
    }
    (described,) = (tmp_path / "site").glob("*.dist-info")
    metadata = (described / "METADATA").read_text(encoding="utf-8")
    assert "License-Expression: MIT" in metadata
    assert "MIT License" in (described / "licenses" / "LICENSE").read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "hpo", *arguments, "--json"],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, object] = json.loads(done.stdout)
        return found

    listed = run("list")
    for kind, known in (("studies", catalog.studies()), ("architectures", architectures())):
        entries = listed[kind]
        assert isinstance(entries, list)
        assert {entry["name"] for entry in entries} == set(known)
        assert all(entry["file"].startswith(str(tmp_path / "site")) for entry in entries)
    assert run("show", "residual")["architecture"]["parameters"]["weight_sharing"] == 22_424  # type: ignore[index]
