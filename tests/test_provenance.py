"""What is kept with a result: of which code and versions it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo import provenance
from hpo.provenance import DECIDING, differing, versions

FILES = {
    **dict.fromkeys(("provenance.py", "report/html.py", "study/card.py"), False),
    **dict.fromkeys(("seeding.py", "study/task.py", "kernels/jit.py", "training/trainer.py"), True),
    **dict.fromkeys(("tasks/digit_pairs/pairs.py", "../models/linear.py"), True),
}


@pytest.mark.parametrize("changed", FILES)
def test_what_a_round_depends_on_has_a_hash_of_its_own(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        file = tmp_path / "hpo" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("first")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "hpo" / "provenance.py"))
    before = versions.__wrapped__()
    (tmp_path / "hpo" / changed).write_text("second")
    after = versions.__wrapped__()
    assert after["source"] != before["source"]
    assert (after["measuring"] != before["measuring"]) == FILES[changed]


def test_a_result_is_of_this_code_where_all_that_decides_is_the_same() -> None:
    here = versions()
    assert differing({**here, "hpo": "0.0.1", "source": "another", "optuna": "1"}) == []
    assert differing({**here, "torch": "1.0", "measuring": "another"}) == ["measuring", "torch"]
    assert differing({}) == list(DECIDING)
