from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
from optuna.storages import RDBStorage

from hpo.analysis.effects import FEWEST_TRIALS, read_effects, read_importances, related_lists
from hpo.report.study_figures import effect_name, effects_figure
from hpo.storage.backends import open_storage
from tests.analysis.test_confirmation import add
from tests.conftest import LISTED_STUDY, RECOGNITION, create, defined

BASE: dict[str, Any] = {
    **{"architecture": "fnn", "weight_sharing": False, "auxiliary_loss": True, "activation": "relu"},
    **{"optimizer": "sgd", "learning_rate": 0.1},
}


def listed(opened: RDBStorage, *trials: tuple[dict[str, Any], list[float]], name: str = "x") -> RDBStorage:
    """Creates a study that lists these changes of `BASE`, each measured with these errors; by the head 1 more."""
    entries = [{"label": str(i), "params": {**BASE, **changes}} for i, (changes, _) in enumerate(trials)]
    protocol = {**LISTED_STUDY["protocol"], "rounds": max(len(errors) for _, errors in trials)}
    definition = defined({**LISTED_STUDY, "protocol": protocol, "trial": entries}, name=name)
    create(opened, name, definition, len(entries))
    for slot, (_, errors) in enumerate(trials):
        heads = [error + 1 for error in errors]
        add(opened, name, 0.1, errors, slot=slot, errors_recognition=errors, errors_head=heads)
    return opened


@pytest.fixture
def sqlite_storage(tmp_path: Any) -> RDBStorage:

    return open_storage(f"sqlite:///{tmp_path}/x.db", create=True)


def test_an_effect_is_the_mean_over_matched_pairs_round_by_round(sqlite_storage: RDBStorage) -> None:
    opened = listed(
        sqlite_storage,
        ({"weight_sharing": True}, [2.0, 3.0, 2.5]),
        ({}, [4.0, 4.5, 4.5]),
        ({"activation": "selu", "weight_sharing": True}, [2.2, 3.1, 2.5]),
        ({"activation": "selu"}, [4.4, 4.9, 4.1]),
        ({"activation": "selu", "optimizer": "adam"}, [9.0, 9.0, 9.1]),
    )
    found = {(effect.parameter, effect.before, effect.after): effect for effect in read_effects(opened, ["x"])}
    assert set(found) == {
        ("weight_sharing", False, True),
        ("activation", "relu", "selu"),
        ("optimizer", "sgd", "adam"),
    }
    sharing = found["weight_sharing", False, True]
    assert (sharing.pairs, sharing.metric.name) == (2, "recognition")
    by_round = [fmean(pair) for pair in ((-2.0, -2.2), (-1.5, -1.8), (-2.0, -1.6))]
    assert sharing.difference.estimate == pytest.approx(fmean(by_round))
    assert not sharing.difference.holds(0)
    assert sharing.p_value is not None
    assert sharing.p_value >= (sharing.difference.p_value or 0)
    assert found["activation", "relu", "selu"].pairs == 2
    assert found["optimizer", "sgd", "adam"].difference.estimate == pytest.approx(4.5667, abs=1e-4)


def test_several_values_are_compared_with_the_first_alone(sqlite_storage: RDBStorage) -> None:
    trials = [({"activation": name}, [3.0 + i, 3.1 + i, 3.3]) for i, name in enumerate(("selu", "relu", "leaky_relu"))]
    found = read_effects(listed(sqlite_storage, *trials), ["x"])
    assert [(effect.before, effect.after) for effect in found] == [("selu", "relu"), ("selu", "leaky_relu")]


def test_what_no_loss_trains_is_compared_by_the_metric_that_one_does(sqlite_storage: RDBStorage) -> None:
    opened = listed(
        sqlite_storage,
        ({"auxiliary_loss": False}, [50.0, 40.0, 60.0]),
        ({"auxiliary_loss": False, "weight_sharing": True}, [45.0, 40.0, 61.0]),
        ({}, [4.0, 4.5, 4.6]),
    )
    effects = {effect.parameter: effect for effect in read_effects(opened, ["x"])}
    assert {name: effect.metric.name for name, effect in effects.items()} == {
        "auxiliary_loss": "head",
        "weight_sharing": "head",
    }
    estimate = effects["auxiliary_loss"].difference.estimate
    assert estimate == pytest.approx(fmean([4.0 - 50, 4.5 - 40, 4.6 - 60]))
    opened = listed(
        sqlite_storage,
        ({"auxiliary_loss": False}, [50.0, 40.0, 60.0]),
        ({"auxiliary_loss": False, "weight_sharing": True}, [45.0, 40.0, 61.0]),
        ({}, [4.0, 4.5, 4.6]),
        ({"weight_sharing": True}, [3.0, 3.5, 3.8]),
        name="more",
    )
    sharing = next(e for e in read_effects(opened, ["more"]) if e.parameter == "weight_sharing")
    assert (sharing.metric.name, sharing.pairs) == ("recognition", 1)  # the others' recognition is at chance


def test_rates_of_range_tests_are_no_difference_but_others_are(sqlite_storage: RDBStorage) -> None:
    opened = listed(
        sqlite_storage,
        ({"learning_rate": "range_test"}, [3.0, 3.1, 3.3]),
        ({"learning_rate": "range_test", "optimizer": "adam"}, [2.0, 2.1, 2.4]),
        ({"optimizer": "rmsprop"}, [2.5, 2.1, 2.4]),
    )
    assert [(effect.before, effect.after) for effect in read_effects(opened, ["x"])] == [("sgd", "adam")]


def test_a_search_has_importances_once_it_has_trials_enough(created: RDBStorage) -> None:
    for i in range(FEWEST_TRIALS):
        if i == FEWEST_TRIALS - 1:
            assert read_importances(created, "small").shares == {}
        add(created, "small", (i + 1) / 100, [1.0 + i, 1.2 + i])
    importances = read_importances(created, "small").shares
    assert importances["learning_rate"] > 0.99  # all else is the same in every trial
    assert sum(importances.values()) == pytest.approx(1)
    assert read_effects(created, ["small"]) == []


def test_what_has_no_effect_is_no_difference_and_another_elu_is_another_activation(sqlite_storage: RDBStorage) -> None:
    opened = listed(
        sqlite_storage,
        ({}, [3.0, 3.1, 3.3]),
        ({"activation": "elu", "elu_alpha": 0.5}, [2.0, 2.1, 2.4]),
        ({"activation": "elu", "elu_alpha": 2.0}, [2.5, 2.1, 2.4]),
        ({}, [9.0, 9.1, 9.3]),  # the first again
    )
    found = read_effects(opened, ["x"])
    assert [(effect.before, effect.after) for effect in found] == [("relu", "elu(0.5)"), ("relu", "elu(2)")]
    assert found[0].difference.estimate == pytest.approx(fmean([2 - 3.0, 2.1 - 3.1, 2.4 - 3.3]))


def test_a_correction_is_for_all_that_is_listed_measured_or_not(sqlite_storage: RDBStorage) -> None:
    entries = [
        {"label": str(i), "params": {**BASE, "activation": name}} for i, name in enumerate(("relu", "elu", "selu"))
    ]
    definition = defined({**LISTED_STUDY, "trial": entries}, name="x")
    create(sqlite_storage, "x", definition, 3)
    p_values = []
    for slot, errors in enumerate(([3.0, 3.1, 3.3], [2.5, 2.9, 2.9], [2.9, 3.3, 3.3])):
        add(sqlite_storage, "x", 0.1, errors, slot=slot, errors_recognition=errors, errors_head=errors)
        p_values.append([effect.p_value for effect in read_effects(sqlite_storage, ["x"])])
    assert p_values[0] == []
    assert p_values[1] == [0.75]  # of the two that there will be, and of the missing one's rate
    assert p_values[2] == [0.25, 1.0]


def test_lists_of_one_protocol_are_compared_with_each_other(sqlite_storage: RDBStorage) -> None:
    protocol = LISTED_STUDY["protocol"]
    for name, architecture, changes in (("a", "cnn", {}), ("b", "cnn_bn", {}), ("c", "fnn", {"seed": 1})):
        entry = {"label": "x", "params": {**BASE, "architecture": architecture}}
        table = {**LISTED_STUDY, "protocol": {**protocol, **changes}, "trial": [entry]}
        create(sqlite_storage, name, defined(table, name=name), 1)
        errors = [3.0, 3.1, 3.3] if name == "a" else [2.0, 2.2, 2.0]
        add(sqlite_storage, name, 0.1, errors, slot=0, errors_recognition=errors, errors_head=errors)
    assert related_lists(sqlite_storage, "a") == ["a", "b"]
    (effect,) = read_effects(sqlite_storage, ["a", "b"])
    assert effect_name(effect, RECOGNITION) == "architecture: cnn → cnn_bn"


def test_two_rounds_show_an_effect_and_no_verdict(sqlite_storage: RDBStorage) -> None:
    opened = listed(sqlite_storage, ({}, [4.0, 4.5]), ({"weight_sharing": True}, [2.0, 3.0]))
    (effect,) = read_effects(opened, ["x"])
    assert (effect.difference.estimate, effect.difference.low, effect.p_value) == (-1.75, None, None)
    assert effects_figure([effect], RECOGNITION).data[0].error_x.array == (0.0,)


def test_an_effects_bar_ends_where_its_interval_does(sqlite_storage: RDBStorage) -> None:
    opened = listed(sqlite_storage, ({}, [99.0, 1.0, 99.0]), ({"weight_sharing": True}, [1.0, 1.0, 1.0]))
    (effect,) = read_effects(opened, ["x"])
    bar = effects_figure([effect], RECOGNITION).data[0].error_x
    assert effect.difference.low == -100
    assert bar.arrayminus[0] == pytest.approx(effect.difference.estimate + 100)
    assert bar.array[0] > bar.arrayminus[0]
