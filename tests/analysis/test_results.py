from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from hpo.analysis.confirmation import read_winner
from hpo.analysis.results import TrialRow, flatten, read_best
from hpo.errors import StorageError, UnknownName
from hpo.study import catalog
from hpo.study.space import COLUMNS
from hpo.workers.status import read_status, trials_per_hour
from tests.analysis.test_confirmation import add
from tests.conftest import LISTED_STUDY, create, defined

START = datetime(2026, 1, 1, tzinfo=UTC)


def after(*minutes: float) -> list[datetime]:
    return [START + timedelta(minutes=m) for m in minutes]


def test_the_rate_is_that_of_the_last_finishes() -> None:
    assert trials_per_hour(after(0, 15, 30, 45)) == 4.0
    assert trials_per_hour(after(45, 30, 15, 0)) == 4.0
    assert trials_per_hour(after(0)) is None
    assert trials_per_hour(after(0, 0.001)) is None  # minutes: two workers that began together
    assert trials_per_hour([]) is None


def test_a_night_between_two_runs_is_not_counted() -> None:
    assert trials_per_hour(after(0, 1, 2, 3, 600, 601, 602)) == 60.0
    assert trials_per_hour(after(0, 1, 2, 3, 600)) is None
    assert trials_per_hour(after(0, 60, 120)) == 1.0  # slow trials are no pause


def test_a_fresh_study_has_a_status_but_no_best(created: RDBStorage) -> None:
    status = read_status(created, "small")
    assert (status.total, status.finished, status.best, status.workers, status.eta_seconds) == (10, 0, None, [], None)
    with pytest.raises(StorageError, match="no trial yet that was measured to the end"):
        read_best(created, "small")
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        read_status(created, "smal")


def test_a_listed_study_has_its_length_for_a_target(fresh_storage: RDBStorage, tmp_path: Path) -> None:
    from hpo.errors import RequestError
    from hpo.workers.plan import find_study, make_plan

    assert make_plan(fresh_storage.url, find_study(fresh_storage.url, "report_a_best")).target == 1
    with pytest.raises(RequestError, match="lists 1 trial, so --trials cannot be 5"):
        make_plan(fresh_storage.url, find_study(fresh_storage.url, "report_a_best", trials=5))


def test_no_parameter_may_have_the_name_of_a_column() -> None:
    definition = catalog.load_study("quickstart")[1]
    assert flatten(TrialRow(0, "RUNNING"), definition).keys() == {*COLUMNS, *definition.parameters}


@pytest.mark.parametrize(("count", "has_interval"), [(1, True), (2, False)])
def test_the_best_of_several_was_chosen_by_its_errors_and_has_no_interval(
    fresh_storage: RDBStorage, count: int, has_interval: bool
) -> None:
    listed = {**LISTED_STUDY, "trial": LISTED_STUDY["trial"][:count]}
    create(fresh_storage, "list", defined(listed, name="list"), count)
    for slot in range(count):
        add(fresh_storage, "list", 0.1, [3.0 + slot, 3.2, 3.4], slot=slot)
    best = read_winner(fresh_storage, "list")
    assert best.label == "FNN"
    assert (best.interval is not None and best.interval["low"] is not None) == has_interval
