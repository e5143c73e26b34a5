"""The note of a study, as optuna-dashboard reads it."""

from __future__ import annotations

import optuna
import optuna_dashboard
import pytest
from optuna.storages import RDBStorage

from hpo.analysis.ledger import enter, read_ledger
from hpo.dashboard import note
from hpo.dashboard.note import note_study, study_note
from hpo.storage.studies import read_card, read_definition
from tests.conftest import create


def test_the_dashboard_reads_the_note_and_one_that_is_there_stays(created: RDBStorage) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    note_study(created, "small")
    of_small = read_definition(created, "small"), read_card(created, "small")
    expected = study_note("small", *of_small, read_ledger(created, "small"))
    assert optuna_dashboard.get_note(study) == expected
    assert "**Looks at the test.** One with every trial" in expected
    create(created, "small-confirm", of_small[0], 1)
    enter(created, "small", "small-confirm", of_small[0], {})
    note_study(created, "small")
    assert "Besides: 1 confirmation." in optuna_dashboard.get_note(study)
    optuna_dashboard.save_note(study, "mine")
    note_study(created, "small")
    assert optuna_dashboard.get_note(study) == "mine"


@pytest.mark.parametrize("length", [1, 2045, 2046, 5000])
def test_a_note_is_kept_as_the_dashboard_would_keep_it(
    length: int, created: RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(note, "study_note", lambda *_: "x" * length)
    monkeypatch.setattr(note, "_READING", "x")
    note_study(created, "small")
    ours = created.get_study_system_attrs(created.get_study_id_from_name("small"))
    other = optuna.create_study()
    optuna_dashboard.save_note(other, "x" * length)
    theirs = other._storage.get_study_system_attrs(other._study_id)
    assert {key: value for key, value in ours.items() if key.startswith("dashboard:")} == theirs
