"""What several tests share: a fresh storage, a small study, pairs to train on."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import torch
from hypothesis import HealthCheck, settings
from optuna.storages import RDBStorage

from hpo.storage.backends import open_storage
from hpo.storage.trial_attributes import Worker
from hpo.study.card import Card, light_card
from hpo.study.definition import StudyDefinition, define_study
from hpo.study.references import Sources
from hpo.study.resolving import resolve
from hpo.study.task import Round
from hpo.tasks.digit_pairs.pairs import Pairs, draw_round
from hpo.training.batch import stack
from hpo.workers.evaluate import Stop
from hpo.workers.launch import begin
from hpo.workers.messages import Assignment
from hpo.workers.plan import Plan
from hpo.workers.worker import MakeObjective, run_worker
from tests import once, stubs
from tests.postgres import TemporaryPostgres
from tests.warm import join_server, start_server, warm_workers

SMALL_STUDY: dict[str, Any] = {
    "title": "A small study",
    "task": {"name": "digit_pairs", "dataset": "digits", "train_pairs": 200, "test_pairs": 200},
    "training": {"epochs": 2, "batch_size": 50, "evaluate_at": [1]},
    "protocol": {"rounds": 3},
    "sampler": {"name": "tpe", "n_startup_trials": 3},
    "pruner": {"name": "percentile", "percentile": 50.0, "n_startup_trials": 2},
    "space": {
        "architecture": ["fnn", "fully_connected"],
        "weight_sharing": [True, False],
        "auxiliary_loss": [True],
        "activation": ["relu", "elu"],
        "elu_alpha": {"low": 0.1, "high": 2.0, "when": {"activation": "elu"}},
        "optimizer": ["sgd", "adam"],
        "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    },
}

LISTED_STUDY: dict[str, Any] = {
    "title": "A list of two",
    **{table: SMALL_STUDY[table] for table in ("task", "training", "protocol")},
    "trial": [
        {
            "label": label,
            "published": {"mean": 10.0, "std": 1.0},
            "params": {
                "architecture": "fnn",
                "weight_sharing": sharing,
                "auxiliary_loss": True,
                "activation": "relu",
                "optimizer": "sgd",
                "learning_rate": 0.1,
            },
        }
        for label, sharing in (("FNN", False), ("FNN + WS", True))
    ],
}


def thorough(examples: int) -> settings:
    """Returns Hypothesis' settings: so many examples, the same each time; HPO_EXAMPLES times as many, always others."""
    times = os.environ.get("HPO_EXAMPLES")
    return settings(
        max_examples=examples * int(times or 1),
        deadline=None,
        derandomize=times is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def defined(table: dict[str, Any], name: str) -> StudyDefinition:
    """Returns the study of a table, as its task understands it."""
    return resolve(define_study(table, name=name), study=name)


def pytest_configure(config: pytest.Config) -> None:
    """Once a session, whose processes share what is made."""
    if hasattr(config, "workerinput"):
        join_server(config.workerinput["warm"])
    else:
        once.compile_modules()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A process of xdist that runs tests is about to be started."""
    node.workerinput["warm"] = start_server()
    once.rewrite_tests(node.config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the slow tests begin first, so that no process is left alone with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def small_study() -> StudyDefinition:
    return defined(SMALL_STUDY, "small")


@pytest.fixture
def listed_study() -> StudyDefinition:
    return defined(LISTED_STUDY, "listed")


@pytest.fixture(scope="session")
def postgres() -> Iterator[TemporaryPostgres]:
    """A server of PostgreSQL, one for each process that runs tests."""
    # Autovacuum would look into hundreds of small databases, one after the other, all the time.
    server = TemporaryPostgres(autovacuum="off")
    open_storage(server.create_database("template"), create=True).engine.dispose()
    yield server
    server.remove()


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    """Closes what connections to PostgreSQL a test leaves open."""
    opened: list[psycopg.Connection[Any]] = []

    def remember(connection: Any, record: Any) -> None:
        if isinstance(connection, psycopg.Connection):
            opened.append(connection)

    sa.event.listen(sa.Pool, "connect", remember)
    yield
    sa.event.remove(sa.Pool, "connect", remember)
    for connection in opened:
        connection.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage without studies; to copy it is faster than to make it."""
    file = tmp_path_factory.mktemp("template") / "studies.db"
    open_storage(f"sqlite:///{file}", create=True).engine.dispose()
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh storage of each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path)
        return f"sqlite:///{tmp_path}/studies.db"
    server: TemporaryPostgres = request.getfixturevalue("postgres")
    return server.create_database(uuid.uuid4().hex, template="template")


on_sqlite = pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)  # where the kind is immaterial


@pytest.fixture
def fresh_storage(storage_url: str) -> RDBStorage:
    return open_storage(storage_url, create=True)


@pytest.fixture
def created(fresh_storage: RDBStorage, small_study: StudyDefinition) -> RDBStorage:
    """A storage with the study 'small', created and without trials."""
    return create(fresh_storage, "small", small_study, 10)


@pytest.fixture(name="warm_workers")
def workers_forked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Workers are forked from a process that has imported everything (tests/warm.py), unless a test is `spawned`.

    Where such a test is of both databases, it is that of the file: the server has no part in how a process starts.
    """
    is_spawned = request.node.get_closest_marker("spawned") and "[postgresql" not in request.node.name
    with nullcontext() if is_spawned else warm_workers():
        yield


def create(
    opened: RDBStorage, name: str, definition: StudyDefinition, target: int, data_folder: Path = Path()
) -> RDBStorage:
    """Creates a study, and returns the storage."""
    return begin(opened.url, Plan(name, definition, target), Sources(data_folder))


def work(
    opened: RDBStorage,
    folder: Path,
    *,
    target: int | None,
    studies: tuple[str, ...] | None = ("small",),
    make: MakeObjective = stubs.quick,
) -> None:
    """Brings studies to their trials, in this process; without training unless told how."""
    told = Assignment(url=opened.url, studies=studies, target=target, device="cpu", sources=Sources(folder))
    run_worker(told, make, Stop(), lambda said: None)


def wait_for(condition: Callable[[], object], seconds: float = 60.0, pause_seconds: float = 0.02) -> None:
    """Waits until a condition holds, and looks at it every so often."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(pause_seconds)


def card_of(definition: StudyDefinition) -> Card:
    """Returns the card of a study."""
    return light_card(definition)


CARD = card_of(defined(SMALL_STUDY, "small"))
RECOGNITION = CARD.metric


def claim(slot: int, host: str = "here") -> dict[str, Any]:
    """Returns the attributes by which a trial is one of ours."""
    return {"slot": slot, "worker": Worker(host, 1, "cpu", "/nowhere/1.lock").as_json()}


def draw_pairs(
    rounds: range, *, train_pairs: int, test_pairs: int, seed: int = 0, dataset: str = "digits", folder: Path = Path()
) -> tuple[Pairs, Pairs]:
    """Draws the training and test pairs of R rounds, (R, N, ...) each."""
    drawn = [
        draw_round(dataset, folder, Round(r, seed), train_pairs=train_pairs, test_pairs=test_pairs) for r in rounds
    ]
    return stack([train for train, _ in drawn]), stack([test for _, test in drawn])


@pytest.fixture(scope="session")
def digit_pairs() -> tuple[Pairs, Pairs]:
    """Three rounds of 200 training and 150 test pairs of the embedded digits."""
    return draw_pairs(range(3), train_pairs=200, test_pairs=150)


@pytest.fixture
def mnist_folder() -> Path:
    folder = Path(os.environ.get("HPO_DATA", ""))
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip("HPO_DATA names no folder with MNIST")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
