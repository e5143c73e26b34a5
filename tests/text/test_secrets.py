"""A password that is planted wherever one can stand is found in nothing that the program prints, writes or starts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from rich.live import Live

from hpo.cli.console import Console
from hpo.storage.queries import read_trials
from hpo.storage.trials import ask
from hpo.text import secrets
from hpo.text.secrets import remember_secrets, show_url, without_secrets
from hpo.workers.evaluate import Stop, run_trial
from tests.conftest import claim, wait_for
from tests.postgres import TemporaryPostgres
from tests.program import TINY, hpo_in_one_process, several, start_hpo, write_quick

PARTS = ("hunter2", "ter2secret")  # of every planted password
OPENING = [  # of a server that asks for none, so these open it; SERVER is HOST:PORT/DATABASE
    "postgresql://postgres:hunter2ter2secret@SERVER",
    "postgres://postgres:hunter2%40ter2secret@SERVER",
    "postgresql+psycopg://postgres:hunter2ter2secret@SERVER?application_name=x",
    "postgresql://SERVER?user=postgres&password=hunter2ter2secret",
    "postgresql://SERVER?password=hunter2ter2secret&user=postgres",
    "postgresql://SERVER?user=postgres&%70assword=hunter2%26ter2secret",
    "postgresql://postgres@SERVER?sslpassword=hunter2ter2secret",
    "postgresql://postgres:hunter2ter2secret@SERVER?password=ter2secret",
]
FAILING = [
    "postgresql://u:hunter2@ter2secret@SERVER",
    "postgresql://u:hunter2/ter2secret@SERVER",
    "postgresql://u:hunter2:ter2secret@SERVER",
    "postgresql://u:hunter2#ter2secret@SERVER",
    "postgresql://u:hunter2?ter2secret@SERVER",
    "postgresql://u:hunter2?ter2secret=@SERVER",
    "postgresql://u:hunter2&ter2secret@SERVER",
    "postgresql://u:hunter2 ter2secret@SERVER",
    "postgresql://u:hunter2'ter2secret@SERVER",
    'postgresql://u:hunter2"ter2secret\\@SERVER',
    "postgresql://u:hunter2%ter2secret@SERVER",
    "postgresql://u:{hunter2}ter2secret@SERVER",
    "postgresql://u:hunter2\nter2secret@SERVER",
    "postgresql://u%3Ahunter2ter2secret@SERVER",
    "postgresql://u:hunter2ter2secret%40SERVER",
    "postgresql://u:hunter2ter2secret/db",
    "postgresql://u:hunter2ter2secret@127.0.0.1:1,127.0.0.1:2/db",
    "postgresql://u:hunter2ter2secret@[::1]:1/db",
    "postgresql://u:hunter2ter2secret@127.0.0.1:port/db",
    "postgresql://u:hunter2ter2secret@127.0.0.1:1",
    "postgresql:///u:hunter2ter2secret@SERVER",
    "postgresql:/u:hunter2ter2secret@SERVER",
    "postgresql//u:hunter2ter2secret@SERVER",
    "u:hunter2ter2secret@SERVER",
    "postgresql+asyncpg://u:hunter2ter2secret@SERVER",
    "mysql://u:hunter2ter2secret@SERVER",
    "jdbc:postgresql://SERVER?user=u&password=hunter2ter2secret",
    "postgresql://SERVER;password=hunter2ter2secret",
    "postgresql://SERVER?PASSWORD=hunter2ter2secret",
    "postgresql://u@127.0.0.1:hunter2ter2secret/x",
    "postgresql://SERVER?passwd=hunter2ter2secret",
    "postgresql://SERVER?password=hunter2&ter2secret",
    "postgresql://SERVER?password=hunter2&ter2secret=x",
    "postgresql://SERVER?password=hunter2@ter2secret",
    "postgresql://SERVER?password=hunter2 ter2secret",
    "postgresql://SERVER?hunter2ter2secret",
    "postgresql://SERVER?scram_client_key=hunter2ter2secret",
    "postgresql://SERVER?oauth_client_secret=hunter2ter2secret",
    "host=127.0.0.1 user=u password=hunter2ter2secret",
    "host=127.0.0.1 user=u password='hunter2 ter2secret' dbname=x",
    "host=127.0.0.1 user=u password='hunter2\\' ter2secret'",
    "host=127.0.0.1 user=u password = hunter2ter2secret",
    "PASSWORD=hunter2ter2secret",
    "sqlite:///x.db?password=hunter2ter2secret",
    "sqlite:////no/folder/x.db?password=hunter2ter2secret",
    "pysqlcipher://:hunter2ter2secret@/x.db",
]
COMMANDS = [
    ["status"],
    ["status", "--study", "absent"],
    ["optimize", "--study", "absent.toml"],
    ["optimize", "--study", "quickstart", "--name", "a/b"],
    ["lr-find", "--study", "quickstart", "--low", "2"],
]


def clean(text: str) -> bool:
    return not any(part in text for part in PARTS)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_remembered", set())


@pytest.mark.parametrize("url", [*OPENING, *FAILING])
def test_no_spelling_of_a_url_shows_its_password(url: str) -> None:
    assert clean(show_url(url))
    assert clean(show_url(f"--storage={url}"))
    assert clean(show_url(show_url(url)))
    remember_secrets(url)
    for text in (f"cannot reach {url}: refused", f"for {url!r}"):
        assert clean(without_secrets(text))


def test_what_a_driver_takes_for_a_host_is_hidden_where_a_password_was_not_escaped() -> None:
    for url in FAILING[:8]:
        remember_secrets(url)
        assert clean(without_secrets("failed to resolve host 'ter2secret@127.0.0.1': [Errno -2] no such hunter2")), url


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///hpo.db",
        "sqlite:////home/me@x/lr=0.1/a:b.db?timeout=10",
        "postgresql://u@h1:5432,h2:5433/db?sslmode=require&passfile=/x/.pgpass&target_session_attrs=read-write",
        "postgresql://u@[::1]:5432/db",
        "postgresql://h/db?host=/run/postgresql",
        "host=h dbname=d user=u",
        "runs/lr=0.1/hpo.db",
        "hpo.db",
    ],
)
def test_a_url_without_a_secret_is_shown_whole(url: str) -> None:
    assert show_url(url) == url
    remember_secrets(url)
    assert without_secrets("the study of user u on host h is done: 45.25 %") == (
        "the study of user u on host h is done: 45.25 %"
    )


def test_texts_lose_passwords_that_nobody_has_named() -> None:
    for text in (
        "psycopg.connect(host='h', password='hunter2 ter2secret')",
        '{"password": "hunter2ter2secret", "x": 1}',
        "error: password=hunter2ter2secret",
        "PGPASSWORD=hunter2ter2secret hpo status",
        "storage postgresql://u:hunter2ter2secret@h/db failed",
    ):
        assert clean(without_secrets(text)), text
    for text in ('password authentication failed for user "u"', "http://127.0.0.1:80/dashboard/?token=abcdefgh"):
        assert without_secrets(text) == text


def test_a_password_of_the_environment_is_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2ter2secret")
    assert without_secrets("it was hunter2ter2secret.") == "it was ***."


def run(commands: list[list[str]], folder: Path, **environment: str) -> str:
    """Runs commands; returns all that they print."""
    done = several(commands, folder, **environment)
    return done.stdout + done.stderr


@pytest.fixture
def server(postgres: TemporaryPostgres) -> str:
    """HOST:PORT/DATABASE of an empty storage."""
    return postgres.create_database(uuid.uuid4().hex, template="template").partition("@")[2]


def test_no_command_prints_the_password_of_its_storage(server: str, tmp_path: Path) -> None:
    urls = [url.replace("SERVER", server) for url in (*OPENING, *FAILING)]
    commands = []
    for i, url in enumerate(urls):
        (tmp_path / f"url{i}").write_text(url)
        words = COMMANDS[i % len(COMMANDS)]
        commands += [[*words, "--storage", url], [*words, f"--storage={url}"], [*words, "--storage-file", f"url{i}"]]
        commands += [["status", url], [f"--storag={url}"], ["status", "--study", url], ["show", url]]
    said = run(commands, tmp_path)
    assert said.count("--- exit code") == len(commands)
    assert "Traceback" not in said
    assert clean(said), [line for line in said.splitlines() if not clean(line)]


@pytest.mark.parametrize("url", [OPENING[0], FAILING[0], FAILING[33]])
def test_no_command_prints_a_password_of_the_environment(url: str, server: str, tmp_path: Path) -> None:
    said = run(COMMANDS, tmp_path, HPO_STORAGE=url.replace("SERVER", server), PGPASSWORD="hunter2ter2secret")
    assert "Traceback" not in said
    assert clean(said)


@pytest.mark.slow
def test_a_whole_run_leaves_the_password_nowhere(server: str, postgres: TemporaryPostgres, tmp_path: Path) -> None:
    url = OPENING[3].replace("SERVER", server)
    write_quick(tmp_path, "long.toml", seconds=60)
    (tmp_path / "tiny.toml").write_text(TINY)
    running = start_hpo(
        *("optimize", "--study", "long.toml", "--trials", "3", "--workers", "1", "--storage", url),
        folder=tmp_path,
        stderr=subprocess.STDOUT,
    )
    children: set[str] = set()
    engine = sa.create_engine(postgres.url(server.rpartition("/")[2]))

    def has_a_trial() -> bool:
        with suppress(psutil.NoSuchProcess):  # one may end while it is looked at
            parent = psutil.Process(running.pid)
            started = {" ".join(child.cmdline()) for child in parent.children(recursive=True)}
            children.update(started - {" ".join(parent.cmdline())})  # one that has not become another program yet
        return bool(_count(engine, "select count(*) from trials"))

    try:
        wait_for(has_a_trial, 120, pause_seconds=0.1)
        running.terminate()
        interrupted, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert any("spawn_main" in command for command in children)
    assert clean("\n".join(children))
    assert "this goes on with them:\n  hpo optimize" in interrupted
    tiny = ["--study", "tiny", "--storage", url]
    said = ""
    for words in (
        ["optimize", "--study", "tiny.toml", "--trials", "2", "--storage", url],
        *([*words, *tiny] for words in (["best"], ["trials"], ["trials", "--csv"], ["status"])),
        ["confirm", "--rounds", "5", "--top", "1", *tiny],
        ["drift", *tiny],
        ["report", "-o", "report", *tiny],
        ["export", "-o", "winner", *tiny],
    ):
        done = hpo_in_one_process(*words, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert "user=postgres&password=***" in said  # next: …
    (tmp_path / "said").write_text(interrupted + said)
    _dump(engine, tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    for file in files:
        assert clean(file.read_bytes().decode("utf-8", "ignore")), file


def _dump(engine: sa.Engine, folder: Path) -> None:
    with engine.connect() as connection:
        for (table,) in connection.execute(sa.text("select tablename from pg_tables where schemaname = 'public'")):
            rows = connection.execute(sa.text(f'select * from "{table}"')).all()
            (folder / table).write_text(repr(rows))
    engine.dispose()


def _count(engine: sa.Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())


def test_a_traceback_and_a_warning_lose_the_password(tmp_path: Path) -> None:
    script = (
        "import sys, warnings; from hpo.text.output import guard_streams\n"
        "from hpo.text.secrets import remember_secrets\n"
        f"remember_secrets({OPENING[0]!r}); guard_streams()\n"
        "warnings.warn('hunter2ter2secret'); raise ValueError('hunter2ter2secret')"
    )
    file = tmp_path / "script.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, "-c", f"exec(open({str(file)!r}).read())"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert "ValueError: ***" in done.stderr
    assert clean(done.stderr)


def test_what_is_printed_beside_a_moving_view_loses_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich takes stderr over meanwhile, past the stream that hides passwords elsewhere."""
    remember_secrets(OPENING[0])
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    console = Console(stderr=True, force_terminal=True, width=80)
    with Live("moving", console=console, auto_refresh=False):
        print("it was hunter2ter2secret and \x1b]0;this\x07", file=sys.stderr)
    assert "it was ***" in written.getvalue()
    assert clean(written.getvalue())
    assert "\x1b]0" not in written.getvalue()


@pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
def test_a_trial_that_fails_keeps_its_error_without_the_password(created: RDBStorage) -> None:
    remember_secrets(OPENING[0])

    def objective(trial: optuna.Trial) -> float:
        raise ConnectionError("no host 'hunter2ter2secret@h'")

    study = optuna.load_study(study_name="small", storage=created)
    run_trial(created, ask(created, study, claim(0)), objective, Stop(), 30.0)
    (trial,) = read_trials(created, "small")
    assert trial.attributes["error"].startswith("ConnectionError: no host '***@h' (test_secrets.py, line ")
    assert "ConnectionError" in trial.attributes["traceback"]
    assert clean(trial.attributes["traceback"])
