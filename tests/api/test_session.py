"""Functions that only this process has: each study measures its own, and a changed one is told apart."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpo
from hpo.api.session import hash_of, in_session, reference_of
from hpo.errors import StudyError
from hpo.study.code import load
from hpo.study.references import Sources

SPACE = {"x": {"low": 0.0, "high": 1.0}}
Function = Callable[[dict[str, Any], int], float]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HPO_STORAGE", "HPO_STORAGE_FILE"):
        monkeypatch.delenv(name, raising=False)


def constant(value: float) -> Function:
    return lambda params, seed: value


def study(name: str, function: Function) -> hpo.Study:
    return hpo.Study(function, space=SPACE, name=name, rounds=2, sampler="random")


def test_functions_of_one_name_are_not_mixed_up() -> None:
    one, two = study("one", constant(1.0)), study("two", constant(2.0))
    one.optimize(np.int64(2), progress=False)  # type: ignore[arg-type]
    two.optimize(2, progress=False)
    assert [one.best().value, two.best().value] == [1.0, 2.0]
    assert one.confirm(rounds=6, progress=False).confirmed[0].mean.estimate == 1.0


def test_the_function_that_is_checked_is_the_studys_own() -> None:
    one = study("one", constant(1.0))
    study("two", lambda params: 2.0)  # type: ignore[misc, arg-type]
    one.optimize(1, progress=False)
    wrong = study("three", lambda params: 2.0)  # type: ignore[misc, arg-type]
    study("four", constant(4.0))
    with pytest.raises(StudyError, match=r"must take \(params, seed\)"):
        wrong.optimize(1, progress=False)


def test_a_changed_function_is_not_confirmed() -> None:
    study("one", constant(1.0)).optimize(2, progress=False)
    with pytest.raises(StudyError, match=r"created with other code: python_session:function differs; name NEW"):
        study("one", constant(2.0)).confirm(rounds=6, progress=False)
    assert study("one", constant(1.0)).confirm(rounds=6, progress=False).rounds == 6


def test_a_name_is_of_its_thread_and_of_the_innermost_study() -> None:
    first, second = constant(1.0), constant(2.0)
    reference = reference_of(first)
    sources, seen = Sources(Path()).allowing(reference), []
    with in_session(first):
        with in_session(second):
            assert load(reference, sources) is second
        assert load(reference, sources) is first

        def look() -> None:
            with in_session(second):
                seen.append(load(reference, sources))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [second]
        assert load(reference, sources) is first
    with pytest.raises(StudyError, match=r"is of a Python session, where hpo\.Study goes on with it"):
        load(reference, sources)


def test_what_only_keywords_default_to_is_part_of_a_function() -> None:
    def make(by: float) -> Callable[..., float]:
        def function(params: dict[str, Any], seed: int, *, scale: float = by) -> float:
            return scale

        return function

    assert hash_of(make(1.0)) == hash_of(make(1.0)) != hash_of(make(2.0))


def test_a_cell_that_is_empty_is_passed_over() -> None:
    def function(params: dict[str, Any], seed: int) -> float:
        return later if params["x"] > 2 else 1.0

    found = hash_of(function)
    later = 2.0
    assert found != hash_of(function)


HASH = """
from hpo.api.session import hash_of
print(hash_of(lambda params, seed: params["kind"] in {"one", "two", "three"} or
              (params["x"], 1) in {("a", 1), ("b", 2)}))
"""


def test_a_set_is_the_same_in_every_session() -> None:
    hashes = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(hpo.__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", HASH], capture_output=True, text=True, check=True, env=environment)
        hashes.add(done.stdout)
    assert len(hashes) == 1


def test_a_text_is_one_pattern_and_not_its_letters() -> None:
    allowed = hpo.Study("quickstart", allow="forest.py:*")._sources.allowed
    assert allowed == ("forest.py:*",)


def test_hashes_of_functions_without_sets_stay_as_they_were() -> None:
    code: dict[str, Any] = {}
    exec("def f(params, seed, by=2): return params['x'] * by + (1, 'a', (2,))[0]", code)
    before = repr(((code["f"].__code__.co_code.hex(), *_before(code["f"].__code__)), ["2"]))
    assert hash_of(code["f"]) == hashlib.sha256(before.encode()).hexdigest()


def _before(code: Any) -> tuple[Any, ...]:
    return tuple(map(repr, code.co_consts)), code.co_names, code.co_varnames
