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
    ],
)
def test_commands_options_and_studies_are_completed(words: str, expected: set[str], tmp_path: Path) -> None:
    found = completed(words, tmp_path)
    assert expected <= found
    assert len(found) < 12


@pytest.mark.parametrize("words", ["hpo nothing x", "hpo compare my q", "hpo compare --study my q"])
def test_nothing_is_offered_where_nothing_is_known(words: str, tmp_path: Path) -> None:
    assert completed(words, tmp_path) == set()


def completed(words: str, folder: Path) -> set[str]:
    """Returns what could come in place of the last word, in a folder with two studies."""
    for name in ("my", "my-other"):
        (folder / f"{name}.toml").touch()
    asked = {"_HPO_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = python_m_hpo(folder=folder, environment=asked)
    assert "Traceback" not in done.stderr
    return {line.partition(",")[2] for line in done.stdout.splitlines() if line}
