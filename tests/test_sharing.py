from __future__ import annotations

import getpass
import json
import platform
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest
from optuna.storages import RDBStorage

from hpo import records
from hpo.page import write_report
from hpo.report import Report, Section, read_report
from hpo.sharing import clean_report, clean_value, cleaner, known_hosts

from .conftest import claim
from .program import hpo
from .test_cli import TINY
from .test_confirmation import add

HOST = "node17.cluster.example"
TELLING = [
    HOST,
    f"study x-drift-{HOST}-cpu",
    "measured on node17, cpu",
    f"ran as {getpass.getuser()} in {Path.home()}/studies",
    'File "/home/ada/project/hpo/worker.py", line 3',
    "in /home/ada",
    "storage sqlite:////home/ada/hpo.db",
    "postgresql://ada@db.example:5432/hpo?user=ada",
    f"{platform.node()}: done",
]
KEPT = ["cpu (AMD EPYC)", "and/or 2/3 of 10/h", "fully_connected+ws+al relu adam 0.01", "torch 2.6", "a b"]


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


def test_every_text_of_a_report_and_of_a_description_is_cleaned() -> None:
    figure = go.Figure(layout={"title": HOST}).add_scatter(x=[HOST], y=[1.0], name=HOST, hovertext=[HOST])
    section = Section("x", HOST, [HOST], [[HOST]], figure)
    cleaned = clean_report(Report(HOST, HOST, [HOST], [section]), cleaner([HOST]))
    assert HOST not in repr(cleaned)
    assert repr(cleaned).count("machine 1") == 10
    assert clean_value({"a": [HOST, 1, None, {"b": (HOST,)}]}, cleaner([HOST])) == {
        "a": ["machine 1", 1, None, {"b": ["machine 1"]}]
    }


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_hosts_are_those_that_worked_and_those_that_studies_are_named_by(created: RDBStorage) -> None:
    for rate, host in ((0.1, "one"), (0.2, "two")):
        add(created, "small", rate, [1.0, 2.0, 3.0], worker=claim(0, host)["worker"])
    records.set_study_attribute(created, "small", "repeats", {"host": "three"})
    assert known_hosts(created, "small") == ["one", "two", "three"]
    report = read_report(created, "small")
    shared = clean_report(report, cleaner(known_hosts(created, "small")))
    assert "one" in repr(report)
    machines = {section.name: section.table for section in shared.sections}["time"]
    assert {row[0] for row in machines[1:3]} == {"machine 1", "machine 2"}


def test_what_is_written_for_sharing_tells_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    for words in (
        ["optimize", "--study", "tiny.toml", "--trials", "1", "--workers", "1"],
        ["drift", "--study", "tiny", "--device", "cpu"],
    ):
        assert hpo(*words, folder=tmp_path).returncode == 0
    names = [study["study"] for study in json.loads(hpo("status", "--json", folder=tmp_path).stdout)]
    assert any(platform.node() in name for name in names)
    for i, name in enumerate(names):
        for words in (["report", "-o", f"report{i}"], ["export", "-o", f"export{i}/x"]):
            done = hpo(*words, "--study", name, "--share", folder=tmp_path)
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


def test_the_report_of_a_study_with_a_host_in_its_name_is_not_called_by_it(tmp_path: Path) -> None:
    report = clean_report(Report(f"x-drift-{HOST}-cpu", "t", [], []), cleaner([HOST]))
    files, _ = write_report(report, tmp_path)
    assert all("node17" not in file.name for file in files)
