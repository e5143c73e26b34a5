"""What a shell is told could come next."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import python_m_hpo


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hpo comp", {"compare"}),
        ("hpo best qu", {"quickstart"}),
        ("hpo optimize my", {"my", "my-other"}),
        ("hpo confirm --study rep", {"report_a_best", "report_a_table_1", "report_b_choices"}),
        ("hpo optimize cnn --samp", {"--sampler"}),
        ("hpo worker cnn my", {"my", "my-other"}),
        ("hpo nothing x", set()),
    ],
)
def test_commands_options_and_studies_are_completed(words: str, expected: set[str], tmp_path: Path) -> None:
    for name in ("my", "my-other"):
        (tmp_path / f"{name}.toml").touch()
    asked = {"_HPO_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = python_m_hpo(folder=tmp_path, environment=asked)
    assert "Traceback" not in done.stderr
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert expected <= found
    assert len(found) < 12
