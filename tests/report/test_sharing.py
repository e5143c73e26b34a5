from __future__ import annotations

import getpass
import json
import platform
import pwd
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from optuna.storages import RDBStorage

from hpo import load_network
from hpo.analysis.fresh_rounds import CONFIRMS
from hpo.cli.main import main
from hpo.report.html import write_report
from hpo.report.report import read_report
from hpo.report.sharing import cleaner, known_hosts
from hpo.storage.backends import open_storage
from hpo.storage.queries import set_study_attribute, study_names
from tests.analysis.test_confirmation import add
from tests.conftest import LISTED_STUDY, SMALL_STUDY, claim, create, defined
from tests.program import TINY, hpo_in_one_process

HOST = "node17.cluster.example"
TELLING = [
    HOST,
    f"study x-drift-{HOST}-cpu",
    "measured on node17, cpu",
    f"ran as {getpass.getuser()} in {Path.home()}/studies",
    'File "/home/ada/project/hpo/workers/worker.py", line 3',
    "in /home/ada",
    "storage sqlite:////home/ada/hpo.db",
    "postgresql://ada@db.example:5432/hpo?user=ada",
    f"{platform.node()}: done",
    "saved:/home/ada/x.npz",
    "see file:///home/ada/x.npz",
    "on //example/ada/x.npz",
]
KEPT = [
    "cpu (AMD EPYC)",
    "and/or 2/3 of 10/h",
    "fully_connected+ws+al relu adam 0.01",
    "torch 2.6",
    "a b",
    "https://arxiv.org/abs/1412",
]


@pytest.mark.parametrize("text", TELLING)
def test_what_tells_of_a_machine_or_a_person_goes(text: str) -> None:
    cleaned = cleaner([HOST])(text)
    for word in (HOST, "node17", platform.node(), getpass.getuser(), "ada", "/home", "example", str(Path.home())):
        assert not re.search(rf"\b{re.escape(word)}\b", cleaned), cleaned


@pytest.mark.parametrize("text", KEPT)
def test_all_else_stays(text: str) -> None:
    assert cleaner([HOST])(text) == text


def test_machines_keep_their_numbers_and_short_names_go_where_they_stand_alone() -> None:
    clean = cleaner(["b", HOST, "c"])
    assert [clean(host) for host in ("b", HOST, "node17", "c")] == ["machine 1", "machine 2", "machine 2", "machine 3"]
    assert clean("a b c") == "a b c"


def test_an_address_has_no_short_name() -> None:
    assert cleaner(["10.0.0.7"])("10 epochs on 10.0.0.7") == "10 epochs on machine 1"


NAMES = ["adam", "cnn", "fnn", "relu", "digits", "head", "log", "bar", "lines", "h", "error", "sgd"]


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("listed", [False, True])
def test_a_report_says_the_same_whatever_hosts_and_users_are_called(
    fresh_storage: RDBStorage, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users and hosts may be called as a parameter's value is, or as what plotly knows."""
    monkeypatch.setenv("USER", "elu")
    study = LISTED_STUDY if listed else SMALL_STUDY
    create(fresh_storage, "small", defined(study, name="small"), 10)
    for slot, host in enumerate(NAMES[: 2 if listed else None]):
        errors = [1.0 + slot, 2.0, 3.0]
        measured = {"errors_recognition": errors, "errors_head": errors, "worker": claim(0, host)["worker"]}
        add(fresh_storage, "small", 0.1 + slot / 100, errors, slot=slot, seconds=1.0, **measured)
    plain = read_report(fresh_storage, "small")
    shared = read_report(fresh_storage, "small", cleaner([*NAMES, "elu"]))
    for before, after in zip(plain.sections, shared.sections, strict=True):
        assert repr(after) == repr(before) or after.name == "time"
        assert after.name != "time" or {row[0] for row in after.table[1:]} == {
            f"machine {i + 1}" for i in range(len(after.table) - 1)
        }
    assert (shared.headline, shared.title) == (plain.headline, plain.title)


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_an_export_can_be_loaded_whatever_hosts_and_users_are_called(
    created: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "sgd")
    monkeypatch.setattr("hpo.cli.measure.export.begin_work", lambda: None)  # pytest has signals of its own
    add(created, "small", 0.1, [1.0, 2.0, 3.0], worker=claim(0, "fnn")["worker"])
    words = ["export", "--study", "small", "-o", str(tmp_path / "x"), "--share", "--storage", created.url]
    done = CliRunner().invoke(main, [*words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    load_network(tmp_path / "x.safetensors")
    described = json.loads((tmp_path / "x.json").read_text())
    assert (described["params"]["optimizer"], described["task"]["dataset"]) == ("sgd", "digits")


def test_a_container_whose_user_has_no_name_and_no_home_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for home in (None, "/", "", "."):
        if home is not None:
            monkeypatch.setenv("HOME", home)
        clean = cleaner([HOST])
        assert clean("2/3 of 10/h. At /srv/data/x, on node17") == "2/3 of 10/h. At …/x, on machine 1"


def test_a_home_is_one_only_as_a_whole_part_of_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/tmp/ad")
    clean = cleaner([])
    assert clean("/tmp/ad and /tmp/ad/x, /tmp/adder, a/tmp/ad.b") == "/~ and …/x, …/adder, a/tmp/somebody.b"


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_hosts_are_those_that_worked_and_those_that_studies_are_named_by(created: RDBStorage) -> None:
    for rate, host in ((0.1, "one"), (0.2, "two")):
        add(created, "small", rate, [1.0, 2.0, 3.0], worker=claim(0, host)["worker"])
    set_study_attribute(created, "small", "repeats", {"host": "three"})
    assert known_hosts(created, "small") == ["one", "two", "three"]
    report = read_report(created, "small")
    shared = read_report(created, "small", cleaner(known_hosts(created, "small")))
    assert "one" in repr(report)
    machines = {section.name: section.table for section in shared.sections}["time"]
    assert {row[0] for row in machines[1:3]} == {"machine 1", "machine 2"}


def test_what_is_written_for_sharing_tells_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    for words in (
        ["optimize", "--study", "tiny.toml", "--trials", "1"],
        ["drift", "--study", "tiny", "--device", "cpu"],
    ):
        assert hpo_in_one_process(*words, folder=tmp_path).returncode == 0
    names = study_names(open_storage(f"sqlite:///{tmp_path}/hpo.db"))
    assert any(platform.node() in name for name in names)
    for i, name in enumerate(names):
        for words in (["report", "-o", f"report{i}"], ["export", "-o", f"export{i}/x"]):
            done = hpo_in_one_process(*words, "--study", name, "--share", folder=tmp_path)
            assert done.returncode == 0, done.stderr
    written = [*tmp_path.glob("report*/*.*"), *tmp_path.glob("export*/*")]
    assert len(written) == 8
    for file in written:
        text = file.read_bytes().decode("utf-8", "ignore")
        if file.suffix == ".safetensors":
            text = text.partition('"dtype"')[0]  # the weights hold any letters
        text = file.name + re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
        for word in (platform.node(), getpass.getuser(), str(Path.home()), str(tmp_path), "sqlite"):
            assert not re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text), (file, word)


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_the_report_of_a_study_with_hosts_in_its_texts_tells_of_none(
    fresh_storage: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.report.html.draw_pngs", lambda figures: ({}, ""))
    entry = LISTED_STUDY["trial"][0]
    table = {**LISTED_STUDY, "title": f"Of {HOST}", "trial": [{**entry, "label": f"on {HOST}", "published": None}]}
    study = f"x-drift-{HOST}-cpu"
    create(fresh_storage, study, defined(table, name=study), 1)
    errors = [1.0, 2.0, 3.0]
    add(fresh_storage, study, 0.1, errors, errors_recognition=errors, errors_head=errors, seconds=1.0, device="cpu")
    set_study_attribute(fresh_storage, study, CONFIRMS, {
        "study": study, "identity": "", "trials": [0], "searched": [1.0],
    })  # fmt: skip
    assert "node17" in repr(read_report(fresh_storage, study))
    report = read_report(fresh_storage, study, cleaner([HOST]))
    assert "node17" not in repr(report)
    files, _ = write_report(report, tmp_path)
    assert all("node17" not in file.name for file in files)
