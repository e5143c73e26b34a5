from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from hpo.errors import StorageError
from hpo.report.html import as_html, as_markdown, write_report
from hpo.report.report import Report, read_report
from hpo.report.sections import Section
from hpo.report.study_figures import rates_figure
from hpo.storage.backends import open_storage
from hpo.storage.queries import StoredTrial
from tests.analysis.test_confirmation import FRESH, add, confirm
from tests.conftest import LISTED_STUDY, RECOGNITION, SMALL_STUDY, claim, create, defined
from tests.study.test_definition import changed


def sections(report: Report) -> dict[str, Section]:
    return {section.name: section for section in report.sections}


def prune(opened: RDBStorage, rate: float, curve: dict[str, list[float]], **numbers: int) -> None:
    """Puts a pruned trial into the small study."""
    optuna.load_study(study_name="small", storage=opened).add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"learning_rate": rate, "optimizer": "sgd", **numbers},
            distributions={
                **{name: optuna.distributions.IntDistribution(1, 100) for name in numbers},
                "learning_rate": optuna.distributions.FloatDistribution(0.0, 1.0),
                "optimizer": optuna.distributions.CategoricalDistribution(["sgd"]),
            },
            user_attrs={**claim(9), "errors_by_step": curve, "seconds": 30.0},
        )
    )


@pytest.fixture
def searched(created: RDBStorage) -> RDBStorage:
    for rate, mean in ((0.3, 4.0), (0.1, 2.0), (0.2, 3.0)):
        add(
            created,
            "small",
            rate,
            [mean - 0.5, mean, mean + 0.5],
            seconds=60.0,
            device="cpu (x)",
            worker=claim(0, "a")["worker"],
        )
    prune(created, 0.9, {"1": [80.0, 82.0]})
    return created


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        *(([36.0, 53.0, 4.0], "0.00 to 92.80"), ([0.0, 0.5, 1.0], "0.00 to 1.74")),
        ([0.0, 0.0, 0.0], "0.00 to 0.35"),  # of 200 pairs: by the rule of three, 0.5 in 71 % of rounds
    ],
)
def test_an_interval_of_a_listed_error_is_not_below_zero_and_not_narrower_than_can_be_told(
    fresh_storage: RDBStorage, errors: list[float], shown: str
) -> None:
    create(fresh_storage, "listed", defined(LISTED_STUDY, name="listed"), 2)
    add(fresh_storage, "listed", 0.1, errors, slot=0, errors_recognition=errors, errors_head=errors)
    assert sections(read_report(fresh_storage, "listed"))["best"].table[1][2] == shown


def test_the_best_of_a_search_has_no_interval_for_it_was_chosen_by_these_errors(searched: RDBStorage) -> None:
    best = sections(read_report(searched, "small"))["best"]
    assert "as searched: chosen for being low, so they have no intervals" in best.text[0]
    assert "95 %" not in best.table[0]


def test_a_search_says_its_winner_how_sure_and_what_pruning_saved(searched: RDBStorage) -> None:
    report = read_report(searched, "small")
    assert report.headline[0].startswith(
        "Lowest test error by recognition: 2.00 ± 0.50 % over 3 rounds on digits, trial 1: "
    )
    assert "Not confirmed" in report.headline[1]
    found = sections(report)
    assert found["best"].table[0] == ["trial", "error %", "configuration"]
    assert [row[0] for row in found["best"].table[1:]] == ["1", "2", "0"]
    # Of three rounds of two epochs each trial; of the one that was pruned two rounds had one.
    assert "Pruned: 1 of 4 trials; 83 % of all epochs were trained" in found["pruning"].text[0]
    assert found["time"].table[1] == ["a", "cpu (x)", "3", "3 min"]
    assert "They need 20 trials" in found["importances"].text[0]


def test_a_confirmed_winner_says_so_and_who_cannot_be_told_apart(searched: RDBStorage) -> None:
    confirm(searched)
    report = read_report(searched, "small")
    assert report.headline[1].startswith("Confirmed on 6 fresh rounds: 3.20 % (95 %: ")
    assert "the study reported 2.00 %, 1.20 points too optimistic" in report.headline[1]
    assert "trial 1 and trial 2 do not differ significantly" in report.headline[2]
    fresh = [row[2] for row in sections(report)["best"].table]
    assert fresh[0] == "on fresh rounds"
    assert fresh[1].startswith("3.20 ± ")
    assert len(FRESH) == sum(bool(text) for text in fresh[1:])


def test_a_confirmation_of_few_rounds_says_that_it_cannot_tell_which_is_better(searched: RDBStorage) -> None:
    confirm(searched, rounds=5)
    said = "Which is better, 5 rounds cannot tell: 6 are the fewest that can."
    assert said in read_report(searched, "small").headline


def test_a_list_is_shown_beside_the_published_and_by_its_labels(fresh_storage: RDBStorage) -> None:
    create(fresh_storage, "listed", defined(LISTED_STUDY, name="listed"), 2)
    for slot, errors in enumerate(([9.0, 9.5, 10.5], [8.0, 8.1, 8.5])):
        add(fresh_storage, "listed", 0.1, errors, slot=slot, errors_recognition=errors, errors_head=errors)
    report = read_report(fresh_storage, "listed")
    found = sections(report)
    assert len(report.headline) == 1
    assert report.headline[0].endswith("trial 1: FNN + WS.")
    assert [row[-1] for row in found["best"].table[1:]] == ["FNN + WS", "FNN"]
    assert [row[:3] for row in found["published"].table[1:]] == [
        ["FNN", "10.00 ± 1.00", "9.67 ± 0.76"],
        ["FNN + WS", "10.00 ± 1.00", "8.20 ± 0.26"],
    ]
    assert found["effects"].table[1][:2] == ["weight sharing", "1"]
    figure = found["errors"].figure
    assert figure is not None
    assert set(figure.data[-1].x) == {"FNN", "FNN + WS"}
    assert {"importances", "parallel", "pruning"}.isdisjoint(found)


def test_a_study_without_a_measured_trial_says_so(created: RDBStorage) -> None:
    with pytest.raises(StorageError, match="no trial yet"):
        read_report(created, "small")


def test_the_page_asks_for_nothing_and_has_plotly_once(searched: RDBStorage) -> None:
    page = as_html(read_report(searched, "small"))
    assert page.count("plotly.js v") == 1
    assert "default-src 'none'" in page
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=", own)


def test_names_cannot_break_out_of_the_page() -> None:
    evil = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>|`a`"
    section = Section("x", evil, [evil], [[evil], [evil]])
    page = as_html(Report(evil, evil, [evil], [section]))
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.append(tag)

    Reader().feed(page)
    assert "img" not in tags
    assert tags.count("script") == 2
    assert "\\|" in as_markdown(Report("x", "x", [], [section]), {})


def test_the_report_is_written_with_pictures_or_says_why_not(
    searched: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: ({}, "a .png takes a Chromium"))
    files, missing = write_report(read_report(searched, "small"), tmp_path)
    assert [file.name for file in files] == ["small.html", "small.md"]
    assert "Chromium" in missing
    assert "![" not in files[1].read_text()
    assert not (tmp_path / "figures").exists()

    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: (dict.fromkeys(figures, b"x"), ""))
    files, missing = write_report(read_report(searched, "small"), tmp_path)
    assert missing == ""
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", files[1].read_text()):
        assert (tmp_path / picture).exists()
    assert len(files) == 2 + len([s for s in read_report(searched, "small").sections if s.figure is not None])


@pytest.mark.parametrize("taken", ["small.md", "figures/small-history.png"])
def test_a_report_of_which_a_file_cannot_be_written_is_not_written(
    searched: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: pytest.fail("it was drawn first"))
    (tmp_path / taken).mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=taken):
        write_report(read_report(searched, "small"), tmp_path)
    assert set(tmp_path.rglob("*")) == before


def test_an_optimizer_whose_trials_were_all_pruned_is_in_the_legend() -> None:
    curve = {"errors_by_step": {"1": [60.0]}}
    params = [{"optimizer": name, "learning_rate": 0.1} for name in ("adam", "adam", "sgd")]
    trials = [
        StoredTrial(0, TrialState.COMPLETE, 3.0, None, None, params[0], curve),
        *(StoredTrial(i, TrialState.PRUNED, None, None, None, params[i], curve) for i in (1, 2)),
    ]
    drawn = [trace for trace in rates_figure(trials, RECOGNITION).data if len(trace.x)]  # the others have no legend
    assert [trace.name for trace in drawn if trace.showlegend] == ["adam", "sgd"]


def test_a_fixed_parameter_has_no_axis_and_no_importance(tmp_path: Path) -> None:
    opened = open_storage(f"sqlite:///{tmp_path}/fixed.db", create=True)
    table = {**SMALL_STUDY, "space": {**SMALL_STUDY["space"], "auxiliary_loss": True, "weight_sharing": [True, False]}}
    create(opened, "small", defined(table, name="small"), 30)
    params = {"architecture": "fnn", "auxiliary_loss": True, "activation": "relu", "optimizer": "sgd"}
    categories = optuna.distributions.CategoricalDistribution
    choices = {key: categories([value]) for key, value in params.items()}  # type: ignore[list-item]
    both = optuna.distributions.CategoricalDistribution([True, False])
    rates = optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
    study = optuna.load_study(study_name="small", storage=opened)
    for i in range(20):
        study.add_trial(
            create_trial(
                value=2.0 + i, params={**params, "weight_sharing": i < 9, "learning_rate": 0.1 + i / 100},
                distributions={**choices, "weight_sharing": both, "learning_rate": rates},
                user_attrs={**claim(i), "errors": [2.0 + i, 3.0 + i], "std": 0.5},
            )
        )  # fmt: skip
    found = sections(read_report(opened, "small"))
    assert set(found["importances"].figure.data[0].y) == {"weight sharing", "learning rate"}  # type: ignore[union-attr]
    axes = found["parallel"].figure.layout.xaxis.ticktext  # type: ignore[union-attr]
    assert "auxiliary loss" not in axes
    assert "weight sharing" in axes


def test_a_parameter_is_left_out_only_where_some_trial_has_it_not(tmp_path: Path) -> None:
    """Some have a condition that always holds: a width, where every architecture of the space has one."""
    opened = open_storage(f"sqlite:///{tmp_path}/wide.db", create=True)
    table = changed(changed(SMALL_STUDY, "space.architecture", "deep_cnn"), "space.width", [4, 8])
    create(opened, "small", defined(table, name="small"), 30)
    add(opened, "small", 0.1, [1.0, 2.0, 3.0])
    text = " ".join(sections(read_report(opened, "small"))["parallel"].text)
    assert "Without elu_alpha, which not every trial has." in text


def test_epochs_of_a_trials_own_are_counted_as_its_own(created: RDBStorage) -> None:
    add(created, "small", 0.1, [1.0, 2.0, 3.0])  # two epochs
    prune(created, 0.9, {"1": [9.0] * 3}, epochs=10)
    # Of the other's ten a half, for it was pruned at the study's first of two.
    pruning = sections(read_report(created, "small"))["pruning"].text[0]
    assert "Pruned: 1 of 2 trials; 58 % of all epochs were trained" in pruning
