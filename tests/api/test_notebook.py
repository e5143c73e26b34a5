"""The example that is a notebook runs from top to bottom, and shows its progress in its cell."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    notebook = nbformat.read("examples/notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call,unused-ignore]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    said = [
        "".join(str(one.get("data", {}).get("text/plain", one.get("text", ""))) for one in cell) for cell in outputs
    ]
    assert "fit: 9/9 trials" in said[1]
    assert "'degree': 3" in said[1]
    assert "30 fresh rounds" in said[2]
    assert "study two: a cubic is better than a line, by" in said[3]
