"""The note of a study, as optuna-dashboard reads it."""

from __future__ import annotations

from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.storages import RDBStorage

from hpo.analysis.ledger import enter, enter_ablation, read_ledger
from hpo.dashboard import note
from hpo.dashboard.note import note_study, study_note
from hpo.report.sections import environment_section
from hpo.storage.studies import read_card, read_definition
from tests.analysis.test_divergence import GOOD, HALF, RATES, listed, put
from tests.conftest import SMALL_STUDY, create, defined


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
    enter_ablation(created, {"small"}, "small-ablation", of_small[0])
    note_study(created, "small")
    assert "Besides: 1 confirmation, 1 ablation." in optuna_dashboard.get_note(study)
    optuna_dashboard.save_note(study, "mine")
    note_study(created, "small")
    assert optuna_dashboard.get_note(study) == "mine"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "2 epochs, in batches of 50"),
        ({"epochs": [1, 3]}, "its own number of epochs, in batches of 50"),
        ({"batch_size": [20]}, "2 epochs, in batches of its own size"),
    ],
)
def test_what_trials_have_of_their_own_the_note_and_the_report_do_not_say_of_all(
    own: dict[str, Any], said: str, fresh_storage: RDBStorage
) -> None:
    training = {**SMALL_STUDY["training"], "epochs": 2, "batch_size": 50, "evaluate_at": [1]}
    study = defined({**SMALL_STUDY, "training": training, "space": {**SMALL_STUDY["space"], **own}}, "small")
    opened = create(fresh_storage, "small", study, 1)
    note_study(opened, "small")
    shown = optuna_dashboard.get_note(optuna.load_study(study_name="small", storage=opened))
    assert f"It trains networks for {said}, float32. " in shown
    conditions = environment_section([], study, read_card(opened, "small"), study.sha256, read_ledger(opened, "small"))
    assert ["training", f"{said}, float32"] in conditions.table


def test_the_note_says_how_often_the_best_diverged(created: RDBStorage) -> None:
    study = optuna.load_study(study_name="small", storage=created)
    put(created, "small", 0.1, [40.0, 41.0, 42.0])
    put(created, "small", 0.2, [90.0, 91.0, 100.0])
    note_study(created, "small")
    assert "diverged" not in optuna_dashboard.get_note(study)  # another than the best did
    put(created, "small", 0.3, [1.0, 2.0, 100.0])
    note_study(created, "small")
    assert (
        "**Rounds that diverged.** trial 2, the best, diverged in 1 of 3 rounds (33 %, 95 %: 1 to 91 %); where it "
        "converged 1.50 ± 0.71 % (no interval: as searched)."
    ) in optuna_dashboard.get_note(study)


def test_the_note_of_a_list_says_which_diverged(fresh_storage: RDBStorage) -> None:
    opened = listed(fresh_storage, GOOD, HALF)
    note_study(opened, "x")
    said = optuna_dashboard.get_note(optuna.load_study(study_name="x", storage=opened))
    assert f"**Rounds that diverged.** adam {RATES}; where it converged 3.08 ± 0.58 % (95 %: " in said


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
