from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpo.errors import UnknownName
from hpo.provenance import versions
from hpo.reports.document import fill, render, table_of, write_document
from hpo.reports.document_figures import draw
from hpo.reports.published import find_items, reports, studies_of
from hpo.reports.reproduction import Cell, Reproduction, read_reproduction
from hpo.reports.staleness import find_stale, newest_name, next_name
from hpo.search.samplers import suggest
from hpo.storage.queries import count_trials
from hpo.storage.trial_attributes import Worker
from hpo.storage.trials import trial_id_of
from hpo.study import catalog
from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture
from hpo.training.network_summary import describe
from hpo.workers.budget import start_trial
from tests.conftest import create, defined


def cell(
    mean: float, std: float | None, *, published: tuple[float, float] = (2.0, 0.3), rounds: int = 10, **more: Any
) -> Cell:
    return Cell(
        **{
            "table": "report_a_table_1",
            "label": "FNN",
            "published_mean": published[0],
            "published_std": published[1],
            "published_rounds": 10,
            "mean": mean,
            "std": std,
            "errors": [mean - (-1) ** r * (std or 0.0) for r in range(rounds)],
            "errors_head": [20.0, 22.0],
            "errors_recognition": [50.0, 54.0],
            "learning_rate": 0.1,
            "is_at_chance": False,
            **more,
        }
    )


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    relu = load_activations()("relu")
    return {name: describe(load_architecture(name), relu) for name in reports().parameters}


# What each study measures, row by row as the reports print it: architecture, weight sharing and auxiliary loss,
# activation (with ELU's alpha), optimizer, learning rate, published mean and deviation.
FLAGS = {"": (False, False), "WS": (True, False), "AL": (False, True), "WS+AL": (True, True)}
PRINTED: dict[str, list[tuple[Any, ...]]] = {
    "report_a_table_1": [
        ("fnn", "", "relu", "sgd", 0.1, 52.99, 11.88),
        ("fnn", "WS", "relu", "sgd", 0.1, 43.52, 16.07),
        ("fnn", "AL", "relu", "sgd", 0.1, 7.93, 0.65),
        ("fnn", "WS+AL", "relu", "sgd", 0.1, 6.44, 0.71),
    ],
    "report_a_table_2": [
        ("cnn", "", "relu", "sgd", 0.1, 49.46, 15.66),
        ("cnn", "WS", "relu", "sgd", 0.1, 45.31, 17.70),
        ("cnn", "AL", "relu", "sgd", 0.1, 5.79, 4.66),
        ("cnn", "WS+AL", "relu", "sgd", 0.1, 3.98, 1.22),
    ],
    "report_a_table_3": [
        ("cnn_bn", "", "relu", "sgd", 0.1, 49.38, 15.02),
        ("cnn_bn", "WS", "relu", "sgd", 0.1, 47.16, 18.97),
        ("cnn_bn", "AL", "relu", "sgd", 0.1, 3.21, 0.50),
        ("cnn_bn", "WS+AL", "relu", "sgd", 0.1, 2.31, 0.36),
    ],
    "report_a_table_4": [
        ("cnn_bn", "WS+AL", "leaky_relu", "sgd", 0.1, 2.12, 0.29),
        ("cnn_bn", "WS+AL", "elu 0.5", "sgd", 0.1, 2.20, 0.35),
        ("cnn_bn", "WS+AL", "elu 1", "sgd", 0.1, 2.36, 0.46),
        ("cnn_bn", "WS+AL", "selu", "sgd", 0.1, 2.71, 0.44),
    ],
    "report_a_table_5": [
        ("cnn_bn", "WS+AL", "leaky_relu", "sgd", "range_test", 2.04, 0.27),
        ("cnn_bn", "WS+AL", "leaky_relu", "rmsprop", "range_test", 3.10, 0.46),
        ("cnn_bn", "WS+AL", "leaky_relu", "adam", "range_test", 2.45, 0.50),
        ("cnn_bn", "WS+AL", "leaky_relu", "sgd", 0.1383, 2.04, 0.27),
        ("cnn_bn", "WS+AL", "leaky_relu", "rmsprop", 0.0115, 3.10, 0.46),
        ("cnn_bn", "WS+AL", "leaky_relu", "adam", 0.0117, 2.45, 0.50),
    ],
    "report_b_table_2": [
        ("fully_connected", "", "relu", "sgd", 0.1, 19.70, 1.58),
        ("fully_connected", "AL", "relu", "sgd", 0.1, 16.98, 0.74),
        ("simple_cnn", "", "relu", "sgd", 0.1, 19.32, 1.69),
        ("simple_cnn", "AL", "relu", "sgd", 0.1, 14.58, 1.27),
        ("residual", "", "relu", "sgd", 0.1, 17.15, 0.84),
        ("residual", "AL", "relu", "sgd", 0.1, 12.32, 1.04),
    ],
    "report_b_table_3": [
        ("fully_connected", "WS", "relu", "sgd", 0.1, 16.09, 0.72),
        ("fully_connected", "WS+AL", "relu", "sgd", 0.1, 13.94, 0.75),
        ("simple_cnn", "WS", "relu", "sgd", 0.1, 15.58, 1.59),
        ("simple_cnn", "WS+AL", "relu", "sgd", 0.1, 11.57, 1.01),
        ("residual", "WS", "relu", "sgd", 0.1, 14.87, 1.61),
        ("residual", "WS+AL", "relu", "sgd", 0.1, 8.28, 0.84),
    ],
}


@pytest.mark.parametrize("study", PRINTED)
def test_a_study_measures_what_its_table_prints(study: str) -> None:
    definition = catalog.load_study(study)[1]
    rows = []
    for entry in definition.trial:
        params = entry.params
        (flags,) = (
            name for name, both in FLAGS.items() if both == (params["weight_sharing"], params["auxiliary_loss"])
        )
        alpha = f" {params['elu_alpha']:g}" if params["activation"] == "elu" else ""
        assert entry.published is not None
        published = (entry.published.mean, entry.published.std)
        chosen = [params[name] for name in ("architecture", "activation", "optimizer", "learning_rate")]
        architecture, activation, optimizer, rate = chosen
        rows.append((architecture, flags, f"{activation}{alpha}", optimizer, rate, *published))
    assert rows == PRINTED[study]
    by_report = {
        "report_a": (25, "recognition", 1.0, 1.0),
        "report_b": (50, "head", 0.8, 0.2),
    }[study[:8]]
    task, training, protocol = definition.task.settings, definition.training, definition.protocol
    assert training is not None
    assert (training.epochs, protocol.metric, task["main_weight"], task["auxiliary_weight"]) == by_report
    assert (protocol.rounds, task["train_pairs"], task["test_pairs"], training.batch_size) == (10, 1000, 1000, 100)
    assert (protocol.seed, task["dataset"]) == (0, "mnist")


def test_what_stands_outside_the_studies_is_as_printed() -> None:
    assert set(PRINTED) == set(studies_of(reports().items))
    (relu,) = reports().elsewhere  # the one row that another table's study measures
    assert (relu.published.mean, relu.published.std) == (2.30, 0.26)
    assert reports().rates == {"sgd": 0.1383, "rmsprop": 0.0115, "adam": 0.0117}


@pytest.mark.parametrize("name", list(reports().parameters))
def test_report_bs_parameter_counts_are_ours(name: str, networks: dict[str, Any]) -> None:
    counts = networks[name]["parameters"]
    assert (counts["no_weight_sharing"], counts["weight_sharing"]) == reports().parameters[name]


def test_items_are_found_by_the_beginning_of_their_names() -> None:
    assert find_items([]) == list(reports().items)
    assert find_items(["report_a_table"]) == [f"report_a_table_{n}" for n in range(1, 6)]
    assert studies_of(["report_a_table_4", "report_a_figure_3"]) == ["report_a_table_4", "report_a_table_3"]
    with pytest.raises(UnknownName, match="no table or figure named 'report_c'"):
        find_items(["report_c"])


def test_filling_a_document_leaves_what_was_written_between() -> None:
    text = (
        "# Ours\n\n<!-- one -->\nold\n<!-- end -->\nA discussion.\n<!-- two -->\n<!-- end -->\n"
        "<!-- unknown -->\nkept\n<!-- end -->\n"
    )
    filled = fill(text, {"one": "new", "two": "| a |\n|---|"})
    assert filled == (
        "# Ours\n\n<!-- one -->\nnew\n<!-- end -->\nA discussion.\n<!-- two -->\n| a |\n|---|\n<!-- end -->\n"
        "<!-- unknown -->\nkept\n<!-- end -->\n"
    )
    assert fill(filled, {"one": "new", "two": "| a |\n|---|"}) == filled


def test_a_coins_deviation_is_compared_too(tmp_path: Path) -> None:
    counts = {name: [1, 2] for name in reports().parameters}
    found = Reproduction([cell(50.0, 15.0, published=(52.99, 11.88), is_at_chance=True)], [], counts, {})
    found.conditions.update(rounds=10, dataset="mnist", seed=0)
    parts = render(found, tmp_path)
    assert "1.26 (0.63 to 2.53)" in parts["report_a_table_1"]
    assert "| FNN | 52.99 ± 11.88 | 52.00 ± 2.83 | 21.00 ± 1.41 |" in parts["metrics"]
    assert "| differs |" in parts["report_b_table_1"]
    assert parts["report_b_table_2"] == "not measured yet: `hpo reproduce report_b_table_2`"


def test_a_row_printed_twice_is_measured_once(
    fresh_storage: RDBStorage, networks: dict[str, Any], tmp_path: Path
) -> None:
    _, shipped = catalog.load_study("report_a_table_3", [("task.dataset", "digits"), ("protocol.rounds", 2)])
    opened = create(fresh_storage, "ours", defined(shipped.model_dump(mode="json"), name="ours"), 4)
    for _ in range(4):
        measure(opened, "ours")
    found = read_reproduction(opened, {"report_a_table_3": "ours", "report_a_table_1": "absent"}, networks)
    third, fourth = ([c for c in found.cells if c.table == name] for name in ("report_a_table_3", "report_a_table_4"))
    assert [c.label for c in third] == ["CNN + BN", "CNN + BN + WS", "CNN + BN + AL", "CNN + BN + WS + AL"]
    assert [c.is_at_chance for c in third] == [True, True, False, False]
    assert (fourth[0].published_mean, fourth[0].errors) == (2.30, third[-1].errors)
    document = write_document(tmp_path, "-digits-2-rounds", found)
    assert document.read_text().startswith(
        "# A quick look at the two reports (digits 2 rounds), which is no reproduction"
    )
    assert Reproduction.read(document.with_suffix(".json")) == found
    names = {"report_a_table_2": "absent", "report_a_table_3": "ours"}
    batch_normed = describe(load_architecture("cnn_bn"), load_activations()("relu"))
    drawn = draw("report_a_figure_1", opened, names, found, {"cnn_bn": batch_normed})
    assert drawn is not None
    assert [note.text for note in drawn.layout.annotations] == [
        "CNN + BN", "CNN + BN + AL", "CNN + BN + WS", "CNN + BN + WS + AL",
    ]  # fmt: skip
    assert {c.study for c in found.cells} == {"report_a_table_3"}
    assert all(c.versions == {"torch": "2"} and c.measured.endswith("Z") for c in found.cells)
    found.note_drawn(["report_a_figure_1", "report_a_figure_3"])
    assert found.figures == {"report_a_figure_1": [{"torch": "2"}], "report_a_figure_3": [versions()]}
    layers = {"tower Conv2d 1", "tower Conv2d 2", "tower Linear 1", "tower Linear 2", "head Linear 1", "head Linear 2"}
    assert {trace.name for trace in drawn.data} == layers


def measure(opened: RDBStorage, name: str) -> None:
    """Lets a stub measure the next trial of a list."""
    definition = catalog.load_study("report_a_table_3", [("task.dataset", "digits"), ("protocol.rounds", 2)])[1]
    study = optuna.load_study(study_name=name, storage=opened)
    trial = start_trial(opened, study, definition, Worker("host", 1, "cpu", ""), target=4, run_began_at=0)
    assert isinstance(trial, optuna.Trial)
    suggest(trial, definition)
    errors = [2.0 + trial.number, 3.0 + trial.number]
    weights = ("towers.0.0", "towers.0.1", "towers.0.4", "towers.0.5", "towers.0.9", "towers.0.11", "head.0", "head.2")
    layers = {name: [[1.0, 2.0], [0.5, 0.6]] for name in weights}
    attributes = {
        "errors": errors, "errors_head": errors, "errors_recognition": errors, "std": 0.7, "device": "cpu",
        "versions": {"torch": "2"}, "gradient_norms": layers,
    }  # fmt: skip
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    opened.set_trial_state_values(trial_id_of(trial), TrialState.COMPLETE, [sum(errors) / 2])
    assert count_trials(opened, name)[TrialState.COMPLETE] == trial.number + 1


def test_what_was_measured_earlier_stays_in_the_document(tmp_path: Path) -> None:
    counts = {name: [1, 2] for name in reports().parameters}
    conditions = {"rounds": 10, "dataset": "mnist", "seed": 0}
    was: dict[str, Any] = {"device": "cpu", "versions": {"torch": "2"}, "measured": "2026-11-03T10:00:00Z"}
    first = Reproduction([cell(3.0, 0.4), cell(5.0, 0.4, label="FNN + WS", **was)], [], counts, conditions)
    write_document(tmp_path, "", first)
    now: dict[str, Any] = {"device": "cuda", "versions": {"torch": "3"}, "measured": "2026-11-28T10:00:00Z"}
    again = Reproduction([cell(4.0, 0.4, **now)], [], counts, conditions)
    document = write_document(tmp_path, "", again)
    kept = Reproduction.read(document.with_suffix(".json"))
    assert [(c.label, c.mean) for c in kept.cells] == [("FNN", 4.0), ("FNN + WS", 5.0)]
    assert [(c.device, c.versions) for c in kept.cells] == [("cuda", {"torch": "3"}), ("cpu", {"torch": "2"})]
    assert "on cpu and cuda; measured 2026-11-03 to 2026-11-28; torch 3; torch 2." in document.read_text()
    write_document(tmp_path, "", Reproduction([], [], counts, {}))
    assert "| FNN + WS | 2.00 ± 0.30 | 5.00 ± 0.40 |" in document.read_text()


def test_one_round_and_another_dataset_get_no_verdict(tmp_path: Path) -> None:
    counts = {name: [1, 2] for name in reports().parameters}
    conditions = {"rounds": 1, "dataset": "mnist", "seed": 0}
    one = Reproduction([cell(3.0, None, rounds=1, errors_head=[3.0])], [], counts, conditions)
    few = "none: it takes 5 rounds on both sides"
    assert table_of("report_a_table_1", one)[1] == ["FNN", "2.00 ± 0.30", "3.00", "", few]
    assert render(one, tmp_path)["summary"] == "Fewer than 5 rounds a cell: nothing to judge by."
    coin = cell(50.0, 20.0, published=(50.0, 0.0), is_at_chance=True)
    assert table_of("report_a_table_1", Reproduction([coin], [], counts, conditions))[1][3:] == [
        "", "none: a deviation of 0 leaves nothing to judge by", "",
    ]  # fmt: skip
    elsewhere = Reproduction([cell(9.0, 0.1)], [], counts, {**conditions, "dataset": "digits"})
    assert table_of("report_a_table_1", elsewhere)[1] == ["FNN", "2.00 ± 0.30", "9.00 ± 0.10"]
    parts = render(elsewhere, tmp_path)
    assert "no verdicts" in parts["summary"]
    assert parts["tables"] == parts["claims_a"] == "nothing to judge by yet"


def test_what_is_older_than_the_code_is_named() -> None:
    fresh: dict[str, Any] = {"versions": versions(), "measured": "2026-11-28T10:00:00Z"}
    other: dict[str, Any] = {**fresh, "versions": {**versions(), "torch": "1.0", "source": "a change of the report"}}
    cells = [cell(3.0, 0.4, label="new", **fresh), cell(3.0, 0.4, label="old"), cell(3.0, 0.4, label="other", **other)]
    found = Reproduction(cells, [], {}, {}, {"report_a_figure_1": [versions()]})
    assert [(one.what, one.measured) for one in find_stale(found, ["report_a_table_1", "report_a_figure_1"])] == [
        ("old", ""),
        ("other", "2026-11-28T10:00:00Z"),
    ]
    assert find_stale(found, ["report_a_table_1"])[1].differs_in == ["torch"]
    assert [one.what for one in find_stale(found, ["report_b_figure_5"])] == ["picture"]


def test_a_study_is_measured_anew_beside_the_old_one() -> None:
    assert (newest_name("a", []), next_name("a", ["a"])) == ("a", "a-again")
    assert (newest_name("a", ["a", "a-again"]), next_name("a", ["a", "a-again"])) == ("a-again", "a-again-2")


def test_a_document_from_before_provenance_is_read_and_stale() -> None:
    found = Reproduction.read(Path("docs/reproduction.json"))
    assert len(found.cells) == 35
    assert all(one.differs_in for one in found.cells if not one.versions)
