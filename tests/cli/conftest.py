"""A folder in which a tiny search has been run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import TINY, hpo


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a tiny search of three trials has been run with one worker."""
    folder = tmp_path_factory.mktemp("worked")
    (folder / "tiny.toml").write_text(TINY)
    done = hpo("optimize", "--study", "tiny.toml", "--trials", "3", "--workers", "1", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "3/3 trials" in done.stderr
    assert "lowest test error" in done.stdout
    return folder
