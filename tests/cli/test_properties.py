"""What Hypothesis holds studies' files and passwords to, whatever stands in them."""

from __future__ import annotations

import json
import string
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, unquote

from hypothesis import given
from hypothesis import strategies as st

from hpo.cli.read.show import _toml, study_text
from hpo.study.definition import parse
from hpo.text import secrets
from hpo.text.secrets import remember_secrets, show_url, without_secrets
from tests.conftest import defined, thorough

rates = st.floats(1e-6, 10.0)
spaces = st.fixed_dictionaries(
    {
        "architecture": st.lists(st.sampled_from(["fnn", "cnn", "cnn_bn", "residual"]), min_size=1, unique=True),
        "weight_sharing": st.lists(st.booleans(), min_size=1, unique=True),
        "auxiliary_loss": st.booleans(),
        "activation": st.lists(st.sampled_from(["relu", "leaky_relu", "elu", "selu"]), min_size=1, unique=True),
        "optimizer": st.lists(st.sampled_from(["sgd", "rmsprop", "adam"]), min_size=1, unique=True),
        "learning_rate": st.one_of(
            rates,
            st.lists(rates, min_size=1, max_size=3, unique=True),
            st.tuples(rates, rates, st.booleans()).map(
                lambda drawn: {"low": min(drawn[:2]), "high": max(drawn[:2]), "log": drawn[2]}
            ),
        ),
    }
)
tasks = st.fixed_dictionaries(
    {"name": st.just("digit_pairs"), "dataset": st.sampled_from(["mnist", "digits"])},
    optional={"main_weight": st.just(0.0) | st.floats(1e-30, 100)},
)
trainings = st.fixed_dictionaries({}, optional={"epochs": st.integers(1, 100)})
protocols = st.fixed_dictionaries(
    {},
    optional={
        "rounds": st.integers(1, 50),
        "first_round": st.integers(0, 1000),
        "seed": st.integers(0, 2**32 - 1),
        "metric": st.sampled_from(["head", "recognition"]),
    },
)
titles = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40).filter(
    str.strip
)


def as_toml(title: str, lines: list[str]) -> str:
    """Returns a study's file."""
    quoted = json.dumps(title, ensure_ascii=False).replace("\x7f", r"\u007f")
    return "\n".join([f"title = {quoted}", *lines])


@thorough(200)
@given(title=titles, task=tasks, training=trainings, protocol=protocols, space=spaces)
def test_a_study_is_the_same_after_its_file_its_view_and_the_database(
    title: str, task: dict[str, Any], training: dict[str, Any], protocol: dict[str, Any], space: dict[str, Any]
) -> None:
    tables = {"task": task, "training": training, "protocol": protocol, "space": space}
    study = defined({"title": title, **tables}, name="drawn")
    lines = [
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items()))
    ]
    assert defined(parse(as_toml(title, lines)), name="drawn") == study
    kept = json.loads(json.dumps(study.model_dump(mode="json")))
    _, *shown = study_text("drawn", kept)
    assert defined(parse(as_toml(title, shown)), name="drawn") == study
    stored = defined(kept, name="drawn")
    assert (stored, stored.sha256, stored.differences(study)) == (study, study.sha256, [])


passwords = st.text(string.ascii_letters + string.digits + "!$%&*+,-.;<>^_{|}~@:/?#[] '\"=", min_size=8, max_size=20)


@thorough(200)
@given(
    password=passwords.map(lambda text: f"Zq7{text}Zq7"),
    user=st.sampled_from(["u", "me%40there", "a.b"]),
    data=st.data(),
)
def test_no_spelling_of_a_url_shows_its_password(password: str, user: str, data: st.DataObject) -> None:
    spelled = quote(password, safe="") if data.draw(st.booleans()) else password
    scheme = data.draw(st.sampled_from(["postgresql", "postgres", "postgresql+psycopg"]))
    key = data.draw(st.sampled_from(["password", "PASSWORD", "%70assword", "sslpassword", "passwd"]))
    host = data.draw(st.sampled_from(["h", "h:5432", "h1:1,h2:2", "[::1]:5", ""]))
    escaped = quote(password, safe="")
    url = data.draw(
        st.sampled_from(
            [
                f"{scheme}://{user}:{spelled}@{host}/db",
                f"{scheme}://{user}@{host}/db?{key}={escaped}",
                f"{scheme}://{host}/db?user={user}&{key}={escaped}&sslmode=require",
            ]
        )
    )
    assert "Zq7" not in show_url(url), (url, show_url(url))
    with patch.object(secrets, "_remembered", set()):
        remember_secrets(url)
        for text in (url, unquote(url), repr(url), f'no such user: "{user}" with {password}'):
            said = without_secrets(f"could not reach {text}: timed out")
            assert "Zq7" not in said, (url, said)
