"""The guard, attacked before optuna-dashboard itself."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

from hpo.dashboard.access import Guard, split_path
from hpo.dashboard.server import TOKEN, choose_token, is_loopback
from hpo.errors import RequestError
from hpo.storage.queries import count_trials_of
from tests.dashboard.test_access import POLICY, SECRET, WRITABLE, ask, known


@pytest.fixture
def real(tmp_path: Path) -> tuple[Guard, RDBStorage, str]:
    """The dashboard itself with a study of one trial and an HTML file attached to it, for reading."""
    storage = RDBStorage(f"sqlite:///{tmp_path}/real.db")
    study = optuna.create_study(storage=storage, study_name="real")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    (tmp_path / "evil.html").write_text("<script>alert(document.cookie)</script>")
    (tmp_path / "store").mkdir()
    store = FileSystemArtifactStore(tmp_path / "store")
    artifact = upload_artifact(artifact_store=store, file_path=str(tmp_path / "evil.html"), study_or_trial=study)
    guard = Guard(wsgi(storage, artifact_store=store), POLICY, partial(count_trials_of, storage))
    return guard, storage, artifact


def test_the_real_dashboard_behind_the_guard(real: tuple[Guard, RDBStorage, str]) -> None:
    guard, storage, artifact = real
    assert ask(guard, "/api/studies").status == 401
    assert b"real" in ask(guard, "/api/studies", **known()).body
    assert ask(guard, "/api/studies/1", method="DELETE", **known()).status == 405
    assert ask(guard, "/api/studies/1", method="DELETE").status == 401
    assert [study.study_name for study in storage.get_all_studies()] == ["real"]
    page = ask(guard, f"/artifacts/1/{artifact}", **known())
    assert (page.status, page.headers["Content-Disposition"]) == (200, "attachment")
    assert page.headers["Content-Security-Policy"].startswith("sandbox")
    for path in ("/static/../../../../etc/passwd", "/static/..%2f..%2fetc/passwd", "/artifacts/1/../../etc/passwd"):
        answer = ask(guard, path, **known())
        assert answer.status in (403, 404), (path, answer.body)
        assert b"root:" not in answer.body
    for _ in range(3):
        storage.create_new_trial(1)
    for study in ("1", "01", "0000000000000000001", "001/", "\xd9\xa1"):
        for plot in ("contour", "rank", "contour/", "rank//"):
            assert ask(guard, f"/api/studies/{study}/plot/{plot}", **known()).status in (403, 404)
    assert ask(guard, "/api/studies/1/plot/contour", **known()).status == 403
    for headers, status in (({"host": "evil.example"}, 421), ({"origin": "http://evil.example"}, 403)):
        assert ask(guard, "/api/studies", **known(**headers)).status == status
    for path in ("/api/studies", "/dashboard/", "/csv/1", f"/artifacts/1/{artifact}"):
        answer = ask(guard, path, **known())
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        assert answer.headers["X-Frame-Options"] == "DENY"
    static = ask(guard, "/static/bundle.js", **known())
    assert (static.status, static.headers["Cache-Control"]) == (200, "private, no-cache")
    again = ask(guard, "/static/bundle.js", **known(if_modified_since=static.headers["Last-Modified"]))
    assert again.status == 304  # asked for, and not sent again
    assert ask(guard, "/api/studies/9/plot/contour", **known()).status != 403  # there is none: the dashboard says so


def test_the_guard_knows_the_paths_of_the_real_dashboard(real: tuple[Guard, RDBStorage, str]) -> None:
    _, storage, artifact = real
    filled = {"re:(/.*)?": "/studies/1/trials", "filename:path": "bundle.js.LICENSE.txt", "plot_type": "timeline"}
    rules = [route.rule for route in wsgi(storage).routes]
    assert len(rules) > 20
    for rule in rules:
        path = re.sub(
            r"<:?(.*?)>", lambda name: filled.get(name[1], "12" if name[1].endswith("int") else artifact), rule
        )
        assert split_path(path) is not None, rule


def test_writing_reaches_the_real_dashboard_where_it_was_asked_for(real: tuple[Guard, RDBStorage, str]) -> None:
    _, storage, _ = real
    writable = Guard(wsgi(storage), WRITABLE, partial(count_trials_of, storage))
    assert ask(writable, "/api/trials/1/tell", method="POST", **known()).status == 403  # results are workers'
    assert ask(writable, "/api/studies/1", method="DELETE", **known(origin="http://evil.example")).status == 403
    assert ask(writable, "/api/studies/1", method="DELETE", **known()).status == 204
    assert storage.get_all_studies() == []


def test_other_machines_need_a_token_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.evil.example"):
        with pytest.raises(RequestError, match=f"set {TOKEN}"):
            choose_token(host)
    assert choose_token("127.0.0.1") is None
    for unusable in (
        "short",
        "with+plus+and/slash==",
        "sixteen letters; and",
        "trailing-newline-here\n",
        "zuf\xe4llig-genug-lang",
    ):
        monkeypatch.setenv(TOKEN, unusable)
        with pytest.raises(RequestError, match="must be 16 or more letters, digits") as caught:
            choose_token("127.0.0.1")
        assert unusable not in str(caught.value)
    monkeypatch.setenv(TOKEN, SECRET)
    assert choose_token("0.0.0.0") == SECRET
