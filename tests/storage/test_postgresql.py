from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from hpo.errors import StorageError
from hpo.storage import postgresql
from hpo.storage.backends import open_storage, start_lock
from hpo.storage.queries import study_names
from tests.postgres import TemporaryPostgres


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_spelling_of_the_url_opens_the_same(scheme: str, postgres: TemporaryPostgres) -> None:
    url = postgres.url("template").replace("postgresql+psycopg", scheme)
    assert study_names(open_storage(url)) == []


def test_a_database_that_is_absent_is_one_line(postgres: TemporaryPostgres) -> None:
    with pytest.raises(StorageError, match='database "absent" does not exist') as raised:
        open_storage(postgres.url("absent"), create=True)
    assert "\n" not in str(raised.value)


def test_an_empty_database_holds_no_studies(postgres: TemporaryPostgres) -> None:
    url = postgres.create_database("empty")
    with pytest.raises(StorageError, match="holds no studies"):
        open_storage(url)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("?prepare_threshold=0", "prepare_threshold in a storage's URL is psycopg's own"),
        ("?autocommit=1", "autocommit in a storage's URL is psycopg's own"),
        ("?application_name=a%00b", "a storage's URL holds %00"),
        ("?bogus=1", "invalid connection option"),
    ],
)
def test_what_is_no_setting_of_postgresql_is_one_line(query: str, complaint: str, postgres: TemporaryPostgres) -> None:
    with pytest.raises(StorageError, match=re.escape(complaint)) as raised:
        open_storage(postgres.url("template") + query, create=True)
    assert "\n" not in str(raised.value)


def test_a_user_who_may_use_no_schema_is_told_so(postgres: TemporaryPostgres) -> None:
    url = postgres.create_database("closed", template="template")
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("create role outsider login")
        connection.exec_driver_sql("revoke usage on schema public from public")
    with pytest.raises(StorageError, match="this user may use no schema of its search_path"):
        open_storage(url.replace("postgres@", "outsider@"))


def test_a_database_of_another_program_is_left_alone(postgres: TemporaryPostgres) -> None:
    url = postgres.create_database("other")
    with sa.create_engine(url).begin() as connection:
        connection.exec_driver_sql("create table songs (title text)")
    with pytest.raises(StorageError, match=r"the database of another program \(it has songs\)"):
        open_storage(url, create=True)


def test_a_worker_needs_two_connections_and_no_more(postgres: TemporaryPostgres) -> None:
    """64 workers must fit a server's connections; those who wait for the start lock hold one more each."""
    opened = open_storage(postgres.create_database("few", template="template"), create=True)
    for _ in range(5):
        with start_lock(opened, "small").hold():
            study_names(opened)
    assert "Connections in pool: 2 " in opened.engine.pool.status()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, postgres: TemporaryPostgres) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StorageError, match=r"pip install 'psycopg\[binary\]'"):
        open_storage(postgres.url())


def test_a_server_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, postgres: TemporaryPostgres) -> None:
    monkeypatch.setattr(postgresql, "OLDEST", (99,))
    with pytest.raises(StorageError, match="PostgreSQL must be 99 or later, but this server is"):
        open_storage(postgres.url("template"))
