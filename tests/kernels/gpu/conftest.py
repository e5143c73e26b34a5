"""Has Triton interpret kernels on the CPU where there is no GPU, and leaves tests out where there is no Triton."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

from hpo.training.device import find_device

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
if torch.cuda.is_available():
    find_device("cuda:0")  # PyTorch's layers, with which kernels are compared, are exact and deterministic
INTERPRETED = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}

# Triton looks at the variable when a kernel is defined, and when one runs; what other tests start must not see it.
if not collect_ignore_glob:
    with patch.dict(os.environ, INTERPRETED):
        import hpo.kernels.gpu.losses
        import hpo.kernels.gpu.recognise
        from hpo.kernels.gpu.tiles import Key, Tile, Tiles


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with patch.dict(os.environ, INTERPRETED):
        yield


@pytest.fixture(scope="session", autouse=True)
def language_changed_once() -> Iterator[None]:
    """Spares the interpreter to change Triton's language again for each function in a kernel, half of the time."""
    if not INTERPRETED:
        yield
        return
    from triton import language
    from triton.runtime import interpreter

    scopes = [interpreter._patch_lang(one.fn) for one in (hpo.kernels.gpu.language.product, language.zeros)]
    with patch.object(interpreter, "_patch_lang", lambda _: interpreter._LangPatchScope()):
        yield
    for scope in reversed(scopes):
        scope.restore()


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has few programs make all of a result: the interpreter takes as long for a small tile as for a large one."""
    if not INTERPRETED:
        return

    def choose(_: Tiles, key: Key, card: str | None, tiles: Sequence[Tile], launch: Callable[[Tile], object]) -> Tile:
        if key[0] == "convolution":
            return tiles[0]._replace(rows=512, depth=32)
        if key[0] == "weights of convolution":
            return tiles[0]._replace(depth=256, splits=2)
        return tiles[0]

    monkeypatch.setattr(Tiles, "choose", choose)
