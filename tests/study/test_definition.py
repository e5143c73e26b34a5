from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import RequestError, StudyError, UnknownName
from hpo.study import catalog
from hpo.study.definition import StudyDefinition, define_study, read_study
from hpo.study.space import Choices, FloatRange, IntRange
from hpo.tasks.digit_pairs.task import DigitPairs
from tests.conftest import LISTED_STUDY, SMALL_STUDY, defined


def changed(table: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Returns a copy of a study's table with one key set, or removed where the value is None."""
    table = copy.deepcopy(table)
    *way, last = path.split(".")
    inner: Any = table
    for key in way:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return table


@pytest.mark.parametrize("name", catalog.studies())
def test_every_study_loads_and_comes_back_from_its_stored_form(name: str) -> None:
    _, definition = catalog.load_study(name)
    stored = defined(definition.model_dump(mode="json"), name=name)
    assert stored == definition
    assert stored.sha256 == definition.sha256


@pytest.mark.parametrize("file", sorted(Path("benchmarks").glob("*.toml")), ids=str)
def test_every_study_of_the_benchmarks_loads(file: Path) -> None:
    catalog.load_study(str(file))


WRONG = [
    ("protocol.rounds", 0, "protocol.rounds must be at least 1, but is 0"),
    ("title", " ", "title: must not be blank, but is ' '"),
    ("task.main_weight", 1e-320, "task.main_weight: must be 0 or at least 1e-30, but is 1e-320"),
    ("task.name", "digit_pair", "no task named 'digit_pair'; did you mean 'digit_pairs'?"),
    ("task.name", "subprocess:Popen", "subprocess:Popen is code that is not shipped with hpo"),
    ("task.pairs", 3, "task: no key named 'pairs'; "),
    ("protocol.metric", "hed", "protocol.metric must be one of 'recognition', 'head', but is 'hed'"),
    ("format", 2, "format must be 1, but is 2"),
    ("protocol.rounds", 2.5, "protocol.rounds must be a whole number, but is 2.5"),
    ("protocol.ronds", 3, "protocol: no key named 'ronds'; did you mean 'rounds'?"),
    ("task.dataset", "mnits", "task.dataset must be 'mnist' or 'digits', but is 'mnits'"),
    ("task.dataset", None, "task.dataset is missing"),
    ("task", None, "task is missing"),
    ("task.test_pairs", 400_000, "task: test_pairs must be at most 358202, all that dataset 'digits' has"),
    ("training.batch_size", 199, "training.batch_size must not leave one of 200 pairs over"),
    ("training.evaluate_at", [1, 3], "evaluate_at must name epochs up to 2, but is [1, 3]"),
    (
        "training.evaluate_at",
        [2],
        "must name 1 epoch before the last, or pruner 'percentile'",
    ),
    ("pruner", {"name": "power_law"}, "must name 2 epochs before the last"),
    ("spce", {}, "no key named 'spce'; did you mean 'space'?"),
    (
        "sampler.name",
        "tpee",
        "sampler.name must be one of 'tpe', 'random', 'gp', 'cmaes', 'qmc', 'grid', but is 'tpee'",
    ),
    ("pruner.percentil", 5.0, "no key named 'percentil'; did you mean 'percentile'?"),
    ("space.learning_rate.low", 2.0, "space.learning_rate: low must not be above high, but low is 2 and high is 1"),
    ("space.learning_rate.low", 0.0, "space.learning_rate: low must be above 0 on a log scale, but is 0"),
    ("space.learning_rate.low", float("nan"), "space.learning_rate.low must be a finite number, but is nan"),
    ("space.learning_rat", [0.1], "space.learning_rat: no parameter has this name; did you mean 'learning_rate'?"),
    ("space.optimizer", ["sdg"], "space.optimizer must be 'sgd', 'rmsprop', 'adam' or 'adamw', but is 'sdg'"),
    ("space.optimizer", None, "space lacks optimizer"),
    ("space.weight_sharing", ["yes"], "space.weight_sharing must be true or false, but is 'yes'"),
    ("space.optimizer", {"low": 0.0, "high": 1.0}, "space.optimizer"),
    (
        "space.elu_alpha.when.activation",
        "el",
        "activation is 'el', which it never is; did you mean 'elu'?",
    ),
    ("space.elu_alpha.low", 0.0, "space.elu_alpha must be at least 1e-30, but is 0.0"),
    ("run.max_failed_trials", 0, "run.max_failed_trials must be at least 1"),
]


@pytest.mark.parametrize(("path", "value", "complaint"), WRONG)
def test_a_broken_rule_is_one_line_that_names_key_rule_and_value(path: str, value: Any, complaint: str) -> None:
    table = changed({**SMALL_STUDY, "run": {}}, path, value)
    with pytest.raises(RequestError) as raised:
        defined(table, name="broken")
    assert str(raised.value).startswith("study 'broken': ")
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_study_has_a_space_or_a_list_but_not_both_or_neither() -> None:
    with pytest.raises(StudyError, match="not both"):
        defined({**SMALL_STUDY, **LISTED_STUDY}, name="broken")
    with pytest.raises(StudyError, match="neither"):
        defined({key: value for key, value in SMALL_STUDY.items() if key != "space"}, name="broken")


def test_listed_trials_are_never_pruned_and_have_labels_of_their_own() -> None:
    with pytest.raises(StudyError, match="pruner"):
        defined({**LISTED_STUDY, "pruner": SMALL_STUDY["pruner"]}, name="broken")
    with pytest.raises(StudyError, match="'FNN' stands twice"):
        defined(changed(LISTED_STUDY, "trial.1.label", "FNN"), name="broken")


def test_an_unknown_architecture_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"space\.architecture: no architecture named 'fn'; did you mean 'fnn'"):
        defined(changed(SMALL_STUDY, "space.architecture", ["fn"]), name="small")


def test_an_unknown_study_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no study named 'quickstrat'; did you mean 'quickstart'"):
        catalog.load_study("quickstrat")


@pytest.mark.parametrize("content", [b"title = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(StudyError, match=r"broken\.toml cannot be read"):
        read_study(file)
    with pytest.raises(RequestError, match=r"absent\.toml cannot be read"):
        read_study(tmp_path / "absent.toml")


def test_what_changes_no_result_is_outside_the_hash(small_study: StudyDefinition) -> None:
    described = defined({**SMALL_STUDY, "title": "Another title", "run": {"max_failed_trials": 3}}, name="small")
    assert described.sha256 == small_study.sha256
    assert described.differences(small_study) == []
    renamed = defined(changed(LISTED_STUDY, "trial.0.label", "Other"), name="listed")
    assert renamed.sha256 == defined(LISTED_STUDY, name="listed").sha256


@pytest.mark.parametrize(
    ("path", "value", "difference"),
    [
        ("training.epochs", 3, "training.epochs is 2, but 3 there"),
        ("task.train_pairs", 100, "task.train_pairs is 200, but 100 there"),
        ("sampler.n_startup_trials", 4, "sampler.n_startup_trials is 3, but 4 there"),
        ("space.architecture", ["fnn"], "space.architecture.choices is ['fnn', 'fully_connected'], but ['fnn'] there"),
        ("space.elu_alpha", None, "space.elu_alpha.high is 2.0, but absent there"),
    ],
)
def test_what_changes_a_result_changes_the_hash_and_is_named(
    small_study: StudyDefinition, path: str, value: Any, difference: str
) -> None:
    other = defined(changed(SMALL_STUDY, path, value), name="small")
    assert other.sha256 != small_study.sha256
    assert difference in small_study.differences(other)


def test_another_dataset_makes_a_study_of_its_own() -> None:
    name, definition = catalog.load_study("cnn", [("task.dataset", "digits")])
    assert name == "cnn-digits"
    assert definition.task.settings["dataset"] == "digits"
    assert catalog.load_study("cnn", [("task.dataset", "mnist")])[0] == "cnn"


def test_short_forms_of_a_parameter_are_choices(small_study: StudyDefinition) -> None:
    fixed = defined(changed(SMALL_STUDY, "space.optimizer", "sgd"), name="small")
    assert fixed.space["optimizer"] == Choices(choices=("sgd",))
    whole = defined(changed(SMALL_STUDY, "space.learning_rate.high", 1), name="small")
    assert whole.sha256 == small_study.sha256


def test_the_space_of_a_list_holds_its_entries_and_elu_alpha_only_for_elu(listed_study: StudyDefinition) -> None:
    space = listed_study.search_space
    assert space["weight_sharing"] == Choices(choices=(False, True))
    assert space["learning_rate"] == FloatRange(low=0.1, high=0.1)
    assert "elu_alpha" not in space


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"low": 8, "high": 128, "log": True}, IntRange(low=8, high=128, log=True)),
        ({"low": 8, "high": 128, "step": 8}, IntRange(low=8, high=128, step=8)),
        ({"low": 0, "high": 1.0}, FloatRange(low=0.0, high=1.0)),
        ([8, 16], Choices(choices=(8, 16))),
        (True, Choices(choices=(True,))),
    ],
)
def test_of_a_range_tomls_own_types_decide(given: Any, read: Any) -> None:
    table = {"title": "x", "task": {"name": "a"}, "space": {"width": given}}
    assert define_study(table, name="x").space["width"] == read


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"low": 8, "high": 4}, "low must not be above high, but low is 8 and high is 4"),
        ({"low": 0, "high": 4, "log": True}, "low must be above 0 on a log scale"),
        ({"low": 8, "high": 20, "step": 8}, "high must be low plus some steps"),
        ({"low": 8, "high": 16, "step": 8, "log": True}, "step must be 1 on a log scale, but is 8"),
        ({"low": 8, "high": 16, "step": 0}, "step must be at least 1, but is 0"),
        ({"low": 0.5, "high": 1.5, "step": 0.5}, "no key named 'step'"),
        ({"low": 8}, "high is missing"),
        ({"low": "a", "high": "b"}, "low must be a number"),
        ({"low": True, "high": False}, "low must be a number"),
        ([1, 2, 1.0], "its values must differ, but 1.0 stands twice"),
        ([1, True], "its values must not be truth values and numbers, but are [1, True]"),
        ({"low": 10**400, "high": 1}, "low must not be above high, but low is 1000"),
        ({"low": -(10**5000), "high": 1, "log": True}, "low must be above 0 on a log scale, but is a number of over"),
    ],
)
def test_a_range_that_is_none_is_one_line(given: Any, complaint: str) -> None:
    table = {"title": "x", "task": {"name": "a"}, "space": {"width": given}}
    with pytest.raises(StudyError) as raised:
        define_study(table, name="x")
    assert str(raised.value).startswith("study 'x': space.width")
    assert complaint in str(raised.value)


def test_a_number_is_as_its_parameter_takes_it() -> None:
    whole = changed(SMALL_STUDY, "space.learning_rate", {"low": 1, "high": 2})
    assert defined(whole, name="x").space["learning_rate"] == FloatRange(low=1.0, high=2.0)
    listed = changed(LISTED_STUDY, "trial.0.params.learning_rate", 1)
    assert type(defined(listed, name="x").trial[0].params["learning_rate"]) is float


def test_a_condition_of_the_task_needs_not_be_said(small_study: StudyDefinition) -> None:
    table = changed(SMALL_STUDY, "space.elu_alpha", {"low": 0.1, "high": 2.0})
    assert defined(table, name="small") == small_study


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("trial.0.params.elu_alpha", 0.5, "trial 'FNN': elu_alpha is there only where activation is 'elu'"),
        ("trial.0.params.learning_rate", None, "trial 'FNN' lacks learning_rate"),
        (
            "trial.0.params.learning_rate",
            "range",
            "trial 'FNN': learning_rate must be a number, but is 'range'; 'range_test' finds one",
        ),
        ("trial.0.params.widht", 3, "trial 'FNN': widht: no parameter has this name; did you mean 'width'?"),
    ],
)
def test_a_listed_trial_that_cannot_be_measured_is_one_line(path: str, value: Any, complaint: str) -> None:
    with pytest.raises(StudyError) as raised:
        defined(changed(LISTED_STUDY, path, value), name="listed")
    assert str(raised.value).startswith(f"study 'listed': {complaint}")


def test_a_condition_against_the_tasks_own_is_refused() -> None:
    table = changed(SMALL_STUDY, "space.elu_alpha.when.activation", "relu")
    with pytest.raises(StudyError, match=r"space\.elu_alpha\.when: it has an effect only where activation is 'elu'"):
        defined(table, name="small")
    flag = changed(SMALL_STUDY, "space.elu_alpha.when", {"activation": "elu", "weight_sharing": 1})
    with pytest.raises(StudyError, match="weight_sharing is 1, which it never is"):
        defined(flag, name="small")


def test_a_listed_trial_has_the_defaults_that_have_an_effect() -> None:
    params = defined(changed(LISTED_STUDY, "trial.0.params.activation", "elu"), name="listed").trial[0].params
    assert params["elu_alpha"] == 1.0
    assert "elu_alpha" not in defined(LISTED_STUDY, name="listed").trial[0].params


def test_what_no_loss_trains_is_known_by_the_weights() -> None:
    task = DigitPairs(dataset="digits")
    for params, names in (
        ({"auxiliary_loss": True}, []),
        ({"auxiliary_loss": False}, ["recognition"]),
        ({"auxiliary_loss": True, "auxiliary_share": 1.0}, ["head"]),
        ({"auxiliary_loss": True, "auxiliary_share": 0.0}, ["recognition"]),
    ):
        assert task.untrained(params) == names
