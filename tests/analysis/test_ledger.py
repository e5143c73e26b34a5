"""The ledger of looks at the test."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.storages import RDBStorage

from hpo.analysis.fresh_rounds import ENTRY, define_confirmation
from hpo.analysis.ledger import _validation, enter, read_ledger
from hpo.storage.queries import set_study_attribute
from tests.analysis.test_confirmation import add
from tests.conftest import LISTED_STUDY, RECOGNITION, SMALL_STUDY, create, defined


@pytest.mark.parametrize(("select_on", "looks"), [("test", 3), ("validation", 1)])
def test_a_search_on_validation_examples_has_looked_once_when_it_is_confirmed(
    fresh_storage: RDBStorage, select_on: str, looks: int
) -> None:
    table: dict[str, Any] = {**SMALL_STUDY, "protocol": {"rounds": 3, "select_on": select_on}}
    create(fresh_storage, "small", defined(table, name="small"), 10)
    for rate in (0.1, 0.2):
        add(fresh_storage, "small", rate, [2.0, 2.5, 3.0])
    assert read_ledger(fresh_storage, "small").looks == looks - 1
    for _ in range(2):  # the second time it is gone on with
        name, definition, confirms = define_confirmation(fresh_storage, "small", top=1, rounds=6)
        create(fresh_storage, name, definition, 1)
        enter(fresh_storage, "small", name, definition, confirms)
    found = read_ledger(fresh_storage, "small")
    assert found.looks == looks
    assert list(found.confirmations) == ["small-confirm"]
    assert (found.confirmations["small-confirm"].rounds, found.confirmations["small-confirm"].first_round) == (6, 3)
    assert "1 confirmation)" in str(found)
    assert ("plus 1 000 validation pairs a round, for selection" in str(found)) == (select_on == "validation")
    assert found.as_json()["looks"] == looks


def test_a_list_looks_once_and_its_confirmation_again(fresh_storage: RDBStorage) -> None:
    create(fresh_storage, "listed", defined(LISTED_STUDY, name="listed"), 2)
    assert str(read_ledger(fresh_storage, "listed")) == "looks at the test: 0"
    add(fresh_storage, "listed", 0.1, [2.0, 2.5, 3.0], slot=0)
    assert (
        str(read_ledger(fresh_storage, "listed"))
        == "looks at the test: 1 (1 by which the list's configurations are compared)"
    )


def test_where_nothing_tells_how_many_are_selected_on_no_number_is_made_up() -> None:
    apart = defined({**SMALL_STUDY, "protocol": {"rounds": 3, "select_on": "validation"}}, name="small")
    assert _validation(apart, RECOGNITION.model_copy(update={"resolution": 0.05})) == "2 000 validation pairs"
    assert _validation(apart, RECOGNITION.model_copy(update={"resolution": None})) == "validation pairs"


def test_what_others_have_written_is_no_entry(created: RDBStorage) -> None:
    for value in ({"rounds": "many"}, 3, None):
        set_study_attribute(created, "small", f"{ENTRY}mine", value)
        assert read_ledger(created, "small").looks == 0


def test_what_is_deleted_was_looked_at_and_its_rounds_are_not_fresh(created: RDBStorage) -> None:
    for rate in (0.1, 0.2):
        add(created, "small", rate, [2.0, 2.5, 3.0])
    name, definition, confirms = define_confirmation(created, "small", top=1, rounds=6)
    create(created, name, definition, 1)
    enter(created, "small", name, definition, confirms)
    created.delete_study(created.get_study_id_from_name(name))
    again, fresh, confirms = define_confirmation(created, "small", top=1, rounds=8)
    assert (again, fresh.protocol.first_round) == ("small-confirm-2", 9)
    create(created, again, fresh, 1)
    enter(created, "small", again, fresh, confirms)
    assert read_ledger(created, "small").looks == 2 + 2
